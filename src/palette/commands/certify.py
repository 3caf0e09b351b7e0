"""`palette certify`: recompute the verdict by another route, and say where it differs."""

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand
from typer.exceptions import TyperException

from palette.commands import screen
from palette.errors import PaletteError

if TYPE_CHECKING:
    from collections.abc import Callable

    from palette.checking.review import Review
    from palette.checking.stated import Stated

AGREES_PASSED, AGREES_FAILED, DISAGREES, UNCHECKED = range(4)
QUIET_SECONDS = 10.0  # between two lines of progress


class Certify(TyperCommand):
    """Wrong use exits with 3 as well: Typer's own 2 would say that the file differs."""

    def make_context(self, *arguments: Any, **more: Any) -> Any:
        try:
            return super().make_context(*arguments, **more)
        except TyperException as error:
            error.exit_code = UNCHECKED
            raise


def certify(
    file: Annotated[Path, typer.Argument(help="portfolio.json, as `dvc repro` writes it")],
    data: Annotated[
        Path | None,
        typer.Option(help="folder of the tables; by default the one that the file lies in"),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="how closely the worst regret over all weights is bounded")
    ] = 0.0005,
) -> None:
    """Check a certificate by another route, and say where it differs.

    Every number is recomputed from the tables, in code that shares only the
    schema with what wrote the file: branch and bound over all weights, and
    other bootstrap draws. docs/mathematics.md says how closely they must agree.

    Exit status: 0 the file is right and the portfolio passed; 1 it is right and
    failed; 2 it differs, and a table says where; 3 it could not be checked.

    Example: palette certify data/portfolio/portfolio.json
    """
    try:
        status = _check(file, data, tolerance)
        sys.stdout.flush()  # a verdict that nobody could read is none
    except PaletteError as error:
        _say(f"palette: {error}")
        status = UNCHECKED
    except Exception as error:  # Python's own exit status of 1 would say: right, and it failed
        said = " ".join(f"{type(error).__name__}: {error}".split())
        _say(f"palette: {file} could not be checked ({said})")
        status = UNCHECKED
    raise typer.Exit(status)


def _check(file: Path, data: Path | None, tolerance: float) -> int:
    """The exit status; what it rests on is printed."""
    from palette.checking.review import review
    from palette.checking.stated import read_stated

    if not 0 < tolerance < 1:
        raise PaletteError(f"--tolerance is {tolerance:g}, but must lie between 0 and 1")
    stated = read_stated(file)
    found = review(stated, data or file.absolute().parent.parent, tolerance, _teller())
    if found.differences:
        _show(found)
        print(f"DISAGREES: {len(found.differences)} of {found.compared} claims of {file} differ")
        return DISAGREES
    passed = stated.content["passed"]
    screen.say(f"agrees: {'PASS' if passed else 'FAIL'}, {_in_numbers(stated, found)}")
    return AGREES_PASSED if passed else AGREES_FAILED


def _in_numbers(stated: "Stated", found: "Review") -> str:
    assert found.worst is not None and found.upper is not None, "what agrees was looked at"
    certificate, epsilon = stated.content["certificate"], stated.content["epsilon"]
    upper = certificate["epsilon_upper"]
    said = [
        f"epsilon {'without an upper bound' if upper is None else f'at most {upper:.4f}'} "
        f"(asked {epsilon:g}) at confidence {certificate['confidence']:.2%}",
        f"{found.compared} claims checked",
        f"all weights covered by {found.worst.simplices} simplices",
    ]
    if found.upper.low <= epsilon < found.upper.high:
        said.append(
            f"a close call: other bootstrap draws give {found.upper.low:.4f} to "
            f"{found.upper.high:.4f}"
        )
    return "; ".join(said)


def _show(found: "Review") -> None:
    table = screen.table("key", "in the file", "recomputed")
    for difference in found.differences:
        table.add_row(difference.key, difference.stated, difference.found)
    screen.console(stderr=True).print(table)


def _teller() -> "Callable[[int, int, float], None]":
    """Progress of branch and bound, a line on stderr now and then."""
    import time

    spoken = time.monotonic()

    def tell(done: int, waiting: int, worst: float) -> None:
        nonlocal spoken
        if time.monotonic() - spoken >= QUIET_SECONDS:
            spoken = time.monotonic()
            _say(f"{done} simplices done, {waiting} waiting; worst so far {worst:.5f}")

    return tell


def _say(line: str) -> None:
    """One line on stderr, if anyone reads it."""
    with suppress(BrokenPipeError):
        typer.echo(line, err=True)
