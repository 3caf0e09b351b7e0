"""Progress of long work, on stderr: a bar with time left on a terminal, else a line now and then.

    with progress("insights", total=len(users)) as advance:
        for user in users:
            ...
            advance(1)

Nothing of it reaches an artifact: wall times belong on a screen, never under data/.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

QUIET_SECONDS = 10.0  # between two lines, so that a log of a long run stays readable

Share = Callable[[int], float]
"""the part of all the time that so many steps take"""


@contextmanager
def progress(name: str, total: int, share: Share | None = None) -> Iterator[Callable[[int], None]]:
    """Show how far `name` has come; yields `advance(steps)`, with `total` steps to go in all.

    Args:
        share: where steps take different times; all alike unless told.
    """
    share = share or (lambda done: done / max(total, 1))
    with (_bar if sys.stderr.isatty() else _lines)(name, total, share) as advance:
        yield advance


@contextmanager
def _bar(name: str, total: int, share: Share) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[done]}/{task.fields[of]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task, done = bar.add_task(name, total=1.0, done=0, of=total), 0

        def advance(steps: int) -> None:
            nonlocal done
            done += steps
            bar.update(task, completed=share(done), done=done)

        yield advance


@contextmanager
def _lines(name: str, total: int, share: Share) -> Iterator[Callable[[int], None]]:
    started = spoken = time.monotonic()
    done = 0

    def advance(steps: int) -> None:
        nonlocal done, spoken
        done += steps
        now = time.monotonic()
        if now - spoken >= QUIET_SECONDS and 0 < done < total:
            spoken = now
            left = (now - started) * (1 / share(done) - 1)
            _say(f"{name}: {done} of {total}, about {duration(left)} left")

    yield advance
    _say(f"{name}: {done} of {total} in {duration(time.monotonic() - started)}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """As people say it: `2 min 05 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
