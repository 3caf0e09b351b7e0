"""CHAMELEON's tables in shape, on the sandbox: what of the published edit helps whom, beside ours.

    .venv/bin/python benchmarks/chameleon.py             # what results/chameleon.csv lacks; three seeds
    .venv/bin/python benchmarks/chameleon.py --seeds 0   # one
    .venv/bin/python benchmarks/chameleon.py --fresh     # all anew

Worth is a share: the mean gain of J over the base on test prompts, under the users' true weights,
divided by the mean gain that is possible. Intervals are over users. Whatever is tuned is tuned on
select prompts, for seen users' estimated weights, with the same trials for everyone. Seconds are of
finding directions and tuning, or of training one adapter, with nothing in the store.
"""

from pathlib import Path

import polars as pl
import typer
from personal_tables import World
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results" / "chameleon.csv"
SEEDS = (0, 1, 2)
SCHEMA = {
    "seed": pl.Int64, "table": pl.String, "row": pl.String, "users": pl.String, "count": pl.Int64,
    "share": pl.Float64, "low": pl.Float64, "high": pl.Float64, "seconds": pl.Float64,
}  # fmt: skip


def main(
    seeds: list[int] = typer.Option(SEEDS, help="of the sandbox; each trains a base once"),  # noqa: B008
    fresh: bool = typer.Option(False, help="measure again what the table has of these seeds"),
) -> None:
    if fresh:
        read().filter(~pl.col("seed").is_in(seeds)).write_csv(RESULTS)
    for seed in seeds:
        measure(seed)
    show(read())


def measure(seed: int) -> None:
    """Append the tables that one seed lacks, each at once: the rest may be cut short."""
    done = set(read().filter(seed=seed)["table"])
    for name, rows in World.make(seed).tables(done):
        frame = pl.DataFrame([{"seed": seed, "table": name, **row} for row in rows], SCHEMA)
        pl.concat([read(), frame]).write_csv(RESULTS, float_precision=4)


def read() -> pl.DataFrame:
    return pl.read_csv(RESULTS, schema=SCHEMA) if RESULTS.exists() else pl.DataFrame(schema=SCHEMA)


def show(table: pl.DataFrame) -> None:
    for name in table["table"].unique(maintain_order=True):
        rows = table.filter(pl.col("table") == name)
        seeds = rows["seed"].unique().sort().to_list()
        shown = Table("row", "users", *(f"seed {seed}" for seed in seeds), title=name)
        for (row, users), frame in rows.group_by("row", "users", maintain_order=True):
            told = {own["seed"]: cell(own) for own in frame.iter_rows(named=True)}
            shown.add_row(row, users, *(told.get(seed, "") for seed in seeds))
        Console(width=120).print(shown)


def cell(row: dict) -> str:
    """A share with its interval, and what it took."""
    text = f"{row['share']:.2f}"
    if row["low"] is not None:
        text += f" ({row['low']:.2f}–{row['high']:.2f})"
    return text if row["seconds"] is None else f"{text}, {row['seconds']:.1f} s"


if __name__ == "__main__":
    typer.run(main)
