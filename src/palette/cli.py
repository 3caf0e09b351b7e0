"""The command-line program `palette`: looks at a run and its parameters; DVC does the running.

palette --help
"""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from palette.commands import completing, screen
from palette.commands.ask import ask
from palette.commands.certify import Certify, certify
from palette.commands.cost import cost
from palette.commands.diff import diff
from palette.commands.export import export
from palette.commands.extend import extend
from palette.commands.keep_routes import keep_routes
from palette.commands.lamp import lamp
from palette.commands.select import select
from palette.commands.stale import stale
from palette.commands.traits import commands as traits
from palette.commands.users import users
from palette.errors import PaletteError

REPORT = Path("reports/index.html")
METRICS = Path("reports/metrics.json")
RUN, SERVE = "Before and after a run", "Choose, certify and serve"
INTERRUPTED = 130

commands = typer.Typer(
    name="palette",
    help="How few adapters serve all our users, and what does each user lose?",
    epilog='Example: palette ask --user u0007 "How do I clean a kettle?"\n'
    "Exit status: 0 fine; 1 a problem, in a sentence on stderr; 2 wrong use; 130\n"
    "interrupted. certify and select have their own, which their --help explains.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def app() -> None:
    """The entry point: what goes wrong becomes one sentence on stderr and an exit status."""
    screen.prepare()
    try:
        commands()
    except SystemExit as end:
        _leave(end.code)
    except PaletteError as error:
        _leave(f"palette: {error}")
    except OSError as error:
        _leave(f"palette: {_of_the_system(error)}")


def _leave(status: str | int | None) -> None:
    """End the program with a status, or a sentence, when all that was printed is written."""
    if status == INTERRUPTED:
        print("palette: interrupted", file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or it fails once more
        if not isinstance(error, BrokenPipeError):  # whoever read, as `| head -1`, has enough
            print(f"palette: {_of_the_system(error)}", file=sys.stderr)
        status = status or 1
    sys.exit(status)


def _of_the_system(error: OSError) -> str:
    """What the operating system refused, in a sentence."""
    said = error.strerror or str(error)
    if error.filename is None:
        return f"the system refused: {said}"
    return f"{error.filename} cannot be used ({said}); mend that, or name another file"


def _show_version(asked: bool) -> None:
    if asked:
        print(f"palette {version('palette')}")
        raise typer.Exit


@commands.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="and exit")
    ] = False,
) -> None:
    pass


@commands.command(rich_help_panel=RUN)
def check() -> None:
    """Validate params.yaml; nothing is run or changed.

    Example: palette check && dvc repro
    """
    from palette.lm.hub import is_base_local
    from palette.params_file import load

    base = load().base
    if base.model != "sandbox":
        is_base_local(base.model, base.revision)
    print("params.yaml: ok")


@commands.command(rich_help_panel=RUN)
def params() -> None:
    """Explain every key of params.yaml.

    Example: palette params | grep portfolio
    """
    from palette.params_file import describe

    _print_table(("key", "default", "meaning"), describe())


@commands.command(rich_help_panel=RUN)
def summary() -> None:
    """Show the verdict of the last run and what each method is worth.

    Example: palette summary
    """
    from palette import tables
    from palette.summary import headline, methods

    metrics = tables.read_json(METRICS)
    for label, value in headline(metrics):
        screen.say(f"{label:12} {value}")
    rows = [(line.name, line.objective, line.share) for line in methods(metrics)]
    _print_table(("method", "objective J (interval)", "share of what is possible"), rows)
    print(f"{'report':12} {REPORT.resolve()}")


@commands.command(rich_help_panel=RUN)
def show(
    user: Annotated[
        str, typer.Argument(help="a user_id, such as u0007", autocompletion=completing.users)
    ],
) -> None:
    """Show one user: weights with their interval, insight and route.

    Example: palette show u0007
    """
    import polars as pl

    from palette import tables

    users = tables.read("users")
    found = users.filter(pl.col("user_id") == user)
    if found.is_empty():
        raise PaletteError(f"there is no user '{user}': {tables.path('users')} lists them")
    person = found.row(0, named=True)
    print(f"{'user':12} {user}: {person['cohort']}, {person['rows']} history rows")
    mine = {
        name: tables.read(name).filter(pl.col("user_id") == user).rows(named=True)
        for name in ("routes", "insights", "weights")
    }
    for route in mine["routes"]:
        edit = f"edit {route['edit']} × {route['strength']:g} on layers {route['layers']}"
        print(
            f"{'route':12} member {route['member']}, {edit if route['strength'] else 'no edit'}, "
            f"regret {route['regret']:.3f}, at worst {route['worst_regret']:.3f}"
            + (" (uncertain)" if route["uncertain"] else "")
            + (" (moved)" if route["moved"] else "")
        )
        if route["robust"] != route["member"]:
            print(f"{'':12} {route['robust']} would lose least at worst within the interval")
    for insight in mine["insights"]:
        if insight["kind"] == "personal":
            print(f"{'insight':12} {insight['insight']}")
    rows = [
        (line["trait"], f"{line['weight']:.3f}", f"{line['low']:.3f} to {line['high']:.3f}")
        for line in mine["weights"]
    ]
    _print_table(("trait", "weight", "interval"), rows)


def _print_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    shown = screen.table(*header)
    for row in rows:
        shown.add_row(*row)
    screen.console().print(shown)


commands.command(rich_help_panel=RUN)(cost)
commands.command(rich_help_panel=RUN)(diff)
commands.command(rich_help_panel=RUN)(stale)
commands.add_typer(users, name="users", rich_help_panel=RUN)
commands.add_typer(traits, name="traits", rich_help_panel=RUN)
commands.command(rich_help_panel=SERVE)(select)
commands.command(cls=Certify, rich_help_panel=SERVE)(certify)
commands.command(rich_help_panel=SERVE)(extend)
commands.command(rich_help_panel=SERVE)(ask)
commands.command(rich_help_panel=SERVE)(keep_routes)
commands.add_typer(export, name="export", rich_help_panel=SERVE)
commands.add_typer(lamp, name="lamp", rich_help_panel=SERVE)


if __name__ == "__main__":
    app()
