"""The command-line program `palette`: looks at a run and its parameters; DVC does the running.

    palette --help

Exit status: 0 fine, 1 something is wrong (one sentence on stderr), 2 wrong use of a command;
`certify` has its own, which `palette certify --help` explains.
"""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from palette.commands.ask import ask
from palette.commands.certify import Certify, certify
from palette.commands.cost import cost
from palette.commands.export import export
from palette.commands.extend import extend
from palette.commands.keep_routes import keep_routes
from palette.commands.select import select
from palette.commands.traits import commands as traits
from palette.errors import PaletteError

REPORT = Path("reports/index.html")
METRICS = Path("reports/metrics.json")

commands = typer.Typer(
    name="palette",
    help="How few adapters serve all our users, and what does each user lose?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def app() -> None:
    """The entry point: a PaletteError becomes one sentence on stderr and status 1."""
    try:
        commands()
    except PaletteError as error:
        sys.exit(f"palette: {error}")


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


@commands.command()
def check() -> None:
    """Validate params.yaml; nothing is run or changed."""
    from palette.params_file import load

    load()
    print("params.yaml: ok")


@commands.command()
def params() -> None:
    """Explain every key of params.yaml."""
    from palette.params_file import describe

    _print_table(("key", "default", "meaning"), describe())


@commands.command()
def summary() -> None:
    """Show the verdict of the last run and what each method is worth."""
    from palette import tables
    from palette.summary import headline, methods

    metrics = tables.read_json(METRICS)
    for label, value in headline(metrics):
        print(f"{label:12} {value}")
    rows = [(line.name, line.objective, line.share) for line in methods(metrics)]
    _print_table(("method", "objective J (interval)", "share of what is possible"), rows)
    print(f"{'report':12} {REPORT.resolve()}")


@commands.command()
def show(user: Annotated[str, typer.Argument(help="a user_id, such as u0007")]) -> None:
    """Show one user: weights with their interval, insight and route."""
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


for command in (ask, select, extend, keep_routes, cost, export):
    commands.command()(command)
commands.command(cls=Certify)(certify)
commands.add_typer(traits, name="traits")


def _print_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*header, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, markup=False).print(table)


if __name__ == "__main__":
    app()
