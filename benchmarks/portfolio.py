"""How many trainings does each strategy need, and how good is a portfolio of a given size?

    .venv/bin/python benchmarks/portfolio.py           # what the table lacks; trains three bases once
    .venv/bin/python benchmarks/portfolio.py --fresh   # all anew
    .venv/bin/python benchmarks/portfolio.py --quick   # numbers alone, three traits, one epsilon

Every strategy plans from identical rollouts, with ideal policies (tangents of f*), and is judged over
all of W, exactly. The table goes to results/portfolio.csv too, and the picture of ε against the
number of members to results/portfolio.svg. `contenders.py` says what each row is.
"""

import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import polars as pl
import typer
import worlds
from contenders import compare
from curves import draw, points
from rich.console import Console
from rich.table import Table

from palette.core.moving import Setting

RESULTS = Path(__file__).parent / "results"
TABLE = RESULTS / "portfolio.csv"
EPSILONS, TRAITS, SEEDS = (0.05, 0.02, 0.01), (2, 3, 4), (0, 1, 2)


def count(number: float) -> str:
    return f"{number:,.1f}".removesuffix(".0")


SHOWN: dict[str, Callable[[Any], str]] = {
    "world": str, "d": str, "epsilon": "{:.0%}".format, "lower_bound": str, "strategy": str,
    "trainings": count, "kept": count,
    "reached": "{:.2%}".format, "seconds": "{:.2f}".format, "note": str,
}  # fmt: skip

SCHEMA = {
    "world": pl.String, "d": pl.Int64, "epsilon": pl.Float64, "lower_bound": pl.Int64,
    "strategy": pl.String, "trainings": pl.Float64, "kept": pl.Float64, "reached": pl.Float64,
    "seconds": pl.Float64, "note": pl.String,
}  # fmt: skip


def main(
    quick: bool = typer.Option(False, help="numbers alone, and few of them"),
    limit: float = typer.Option(600, help="seconds that a strategy may take for one case"),
    fresh: bool = typer.Option(False, help="measure again what the table has"),
    seeds: list[int] = typer.Option(SEEDS, help="of the sandbox; each trains a base once"),  # noqa: B008
) -> None:
    if quick:
        show(pl.concat(cases([("numbers", 3, worlds.synthetic(3, 0))], EPSILONS[:1], set(), limit)))
        return
    RESULTS.mkdir(exist_ok=True)
    table = pl.DataFrame(schema=SCHEMA)
    if TABLE.exists() and not fresh:
        table = pl.read_csv(TABLE, schema=SCHEMA)
    done = set(table.select("world", "d", "epsilon").rows())
    for case in cases(list(settings(seeds)), EPSILONS, done, limit):
        table = pl.concat([table, case])
        table.write_csv(TABLE, float_precision=5)  # at once: the rest may be cut short
    show(table)
    picture = draw(points(worlds.sandbox(3, 0)), "Three traits of the sandbox, ideal policies")
    (RESULTS / "portfolio.svg").write_text(picture, encoding="utf-8")


def settings(seeds: list[int]) -> Iterator[tuple[str, int, Setting]]:
    for d in TRAITS:
        yield "numbers", d, worlds.synthetic(d, 0)
        for seed in seeds:
            yield f"sandbox {seed}", d, worlds.sandbox(d, seed)


def cases(
    chosen: list[tuple[str, int, Setting]], epsilons: tuple[float, ...], done: set, limit: float
) -> Iterator[pl.DataFrame]:
    """The quick ones first: of few traits and coarse; many traits and a fine ε take hours."""
    every = sorted(product(chosen, epsilons), key=lambda case: case[0][1] ** 2.6 / case[1] ** 0.8)
    for (world, d, setting), epsilon in every:
        if (world, d, epsilon) in done:
            continue
        bound, contenders = compare(setting, epsilon, limit)
        case = {"world": world, "d": d, "epsilon": epsilon, "lower_bound": bound}
        rows = [case | vars(row) for row in contenders]
        print(f"{world}, {d} traits, ε {epsilon:.0%}: done", file=sys.stderr, flush=True)
        yield pl.DataFrame(rows, schema=SCHEMA)


def show(frame: pl.DataFrame) -> None:
    table = Table(*SHOWN, title="Trainings that hold ε on all of W")
    last = None
    for row in frame.iter_rows(named=True):
        case = (row["world"], row["d"], row["epsilon"])
        if last is not None and case != last:
            table.add_section()
        last = case
        table.add_row(*("-" if row[k] is None else how(row[k]) for k, how in SHOWN.items()))
    Console(width=150).print(table)


if __name__ == "__main__":
    typer.run(main)
