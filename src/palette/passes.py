"""The passes that a training falls into, and what is said of them before it begins."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from palette.params import Adapters
from palette.progress import duration

TOGETHER = 16
"""Members trained in one pass at most."""
LONG = 20
"""Steps of a phase from which on a training is rehearsed."""


@dataclass(frozen=True)
class Forecast:
    """What one pass will take."""

    seconds: float
    peak: float
    """most memory that the process, or the GPU, holds at once, 10^6 bytes"""


@dataclass(frozen=True)
class Pass:
    """Adapters that are trained together."""

    names: list[str]
    keys: list[str]
    """the store's, of these and of those of the same part that are finished"""


def announce(settings: Adapters, passes: Sequence[Pass], words: str) -> None:
    """Say on stderr what is about to be trained."""
    many = sum(len(some.names) for some in passes)
    phases = [
        f"{steps} {name} steps of {rows} rows"
        for steps, name, rows in (
            (settings.steps, "supervised", settings.batch),
            (settings.rloo_steps, "RLOO", settings.rloo_batch),
        )
        if steps
    ]
    limit = f", until a share of {settings.share:g}" if settings.share else ""
    limit += f", at most {settings.max_minutes:g} min a phase" if settings.max_minutes else ""
    if many:
        print(
            f"{words}: {many} of rank {settings.rank} in {len(passes)} pass"
            f"{'es' * (len(passes) > 1)}, {' and '.join(phases)} each{limit}",
            file=sys.stderr,
        )


def is_long(settings: Adapters) -> bool:
    """Whether a rehearsal, which takes seconds, is worth it."""
    return max(settings.steps, settings.rloo_steps) >= LONG


def foretell(forecasts: Sequence[Forecast], workers: int) -> None:
    """Say on stderr how long the passes will take, and how much memory, by their rehearsal."""
    if forecasts:
        seconds = -(-len(forecasts) // workers) * max(each.seconds for each in forecasts)
        peak = sum(sorted((each.peak for each in forecasts), reverse=True)[:workers])
        print(
            f"by a rehearsal it will take about {duration(seconds)} and {peak / 1e3:.1f} GB at most",
            file=sys.stderr,
        )


def split(names: Sequence[str], workers: int) -> list[list[str]]:
    """The names in parts of like size: one for each worker, or more where a part would be too large."""
    parts = max(min(workers, len(names)), -(-len(names) // TOGETHER))
    return [list(names[part::parts]) for part in range(parts)]
