"""What share of the possible improvement does each way to train reach, at equal numbers of samples?

    .venv/bin/python benchmarks/recipes.py              # what the table lacks; three seeds of the sandbox
    .venv/bin/python benchmarks/recipes.py --seeds 1    # one seed
    .venv/bin/python benchmarks/recipes.py --larger     # the family's recipes with 0.9 M parameters
    .venv/bin/python benchmarks/recipes.py --fresh      # all anew
    .venv/bin/python benchmarks/recipes.py --quick      # a fortieth of the samples, no file

Every recipe has as many rows in all as the default recipe: a family spends them on one training, members
share them among 13 trainings, one for each weight of the list. Judged at these weights on the select
prompts, which no training saw, with the same uniform numbers for all: J as the mean of
w·r − β log(π/π_ref), whose variance vanishes at the optimum; f* from the base's rollouts. Intervals
resample prompts. The table goes to results/recipes.csv row by row.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import adapter_peers
import numpy as np
import polars as pl
import torch
import typer
from adapter_peers import THREADS, Progress
from recipe_worlds import Files, World, made
from rich.console import Console
from rich.progress import Progress as Bar
from rich.table import Table

from palette import stage
from palette.core.prefixes import Prefixes
from palette.lm import peft_files
from palette.lm.learner import Course, Learner, Task, twin
from palette.lm.models import LanguageModel
from palette.lm.row_lora import Family, layer_sizes
from palette.params import Adapters

RESULTS = Path(__file__).parent / "results"
TABLE = RESULTS / "recipes.csv"
SEEDS, QUICK = (0, 1, 2), 40
WEIGHTS = np.array([
    [1, 0, 0], [0, 1, 0], [0, 0, 1],
    [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5],
    [0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.2, 0.2, 0.6],
    [0.1, 0.45, 0.45], [0.45, 0.1, 0.45], [0.45, 0.45, 0.1],
    [1 / 3, 1 / 3, 1 / 3],
])  # fmt: skip
SCHEMA = {
    "world": pl.String, "seed": pl.Int64, "recipe": pl.String, "rows": pl.Int64, "seconds": pl.Float64,
    "worst": pl.Float64, "worst_low": pl.Float64, "worst_high": pl.Float64,
    "mean": pl.Float64, "mean_low": pl.Float64, "mean_high": pl.Float64, "worst_at": pl.String,
}  # fmt: skip


class OwnTokens(Prefixes):
    """The target at every position is the rollout's own token, so there is no tree to make."""

    def __init__(self, answers: Sequence[Sequence[Sequence[int]]]):
        self.answers = answers

    def targets(
        self, prompt: int, sample: int, mass: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        own = np.asarray(self.answers[prompt][sample], dtype=np.int64)
        return np.arange(len(own)), own, np.ones(len(own))


class OneHot(Task):
    @cached_property
    def prefixes(self) -> OwnTokens:
        return OwnTokens(self.answers)


class Linear(Family):
    """A family whose gates are linear in w, all 1 at the start."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for head in self.heads.values():
            torch.nn.init.zeros_(head.get_parameter("weight"))

    def _seen(self, weights: torch.Tensor) -> torch.Tensor:
        return self.trunk(weights * weights.shape[-1] - 1)


def one_by_one(
    lm: LanguageModel, task: Task, settings: Adapters, progress: Progress
) -> list[Files]:
    from palette.lm.training import train_members

    each = (train_members(lm, task, own[None], settings, progress) for own in WEIGHTS)
    return [files for ((files, _),) in each]


def one_hot(lm: LanguageModel, task: Task, settings: Adapters, progress: Progress) -> list[Files]:
    return one_by_one(lm, OneHot(**vars(task)), settings, progress)


def peers(lm: LanguageModel, task: Task, settings: Adapters, progress: Progress) -> list[Files]:
    each = (adapter_peers.reinforce(lm, task, own, settings, progress) for own in WEIGHTS)
    return [peft_files.of_policy(policy.model) for policy in each]


def family(lm: LanguageModel, task: Task, settings: Adapters, progress: Progress) -> list[Files]:
    from palette.lm.training import train_family

    files, _ = train_family(lm, task, settings, progress)
    return points(peft_files.read_family(files))


def linear(lm: LanguageModel, task: Task, settings: Adapters, progress: Progress) -> list[Files]:
    from palette.lm.supervision import supervised

    policy = twin(lm)
    rows = Linear(layer_sizes(policy.model), settings.rank, WEIGHTS.shape[1], settings.seed)
    rows.attach(policy.model)
    policy.model.add_module("palette", rows)
    learner = Learner(policy, rows, None)
    supervised(learner, task, settings, Course.begin(learner, "supervised", settings, progress))
    return points(rows)


def points(rows: Family) -> list[Files]:
    each = torch.from_numpy(WEIGHTS.astype(np.float32))
    return [peft_files.of_matrices(rows.matrices(own)) for own in each]


@dataclass(frozen=True)
class Recipe:
    train: Callable[..., list[Files]]
    settings: Adapters
    trainings: int

    @property
    def steps(self) -> int:
        return self.trainings * (self.settings.steps + self.settings.rloo_steps)

    @property
    def rows(self) -> int:
        own = self.settings
        return self.trainings * (own.steps * own.batch + own.rloo_steps * own.rloo_batch)


def recipes(fraction: int) -> dict[str, Recipe]:
    """Name → recipe; a fraction of the default's rows, but for the last, which has more."""
    default, count = Adapters(), len(WEIGHTS)
    rows = Recipe(family, default, 1).rows
    cut = fraction * count

    def of(steps: int, rloo_steps: int) -> Adapters:
        changes = {"steps": steps, "rloo_steps": rloo_steps}
        return Adapters(**default.model_dump() | changes)

    alone = of(max(1, rows // cut // default.batch), 0)
    polished = of(max(1, default.steps // cut), max(1, default.rloo_steps // cut))
    on_policy = of(0, max(1, rows // cut // default.rloo_batch))
    supervised = of(rows // fraction // default.batch, 0)
    both = of(default.steps // fraction, default.rloo_steps // fraction)
    return {
        "members, one-hot targets": Recipe(one_hot, alone, count),
        "members, soft targets": Recipe(one_by_one, alone, count),
        "members, soft targets, then RLOO": Recipe(one_by_one, polished, count),
        "members, TRL's RLOO alone": Recipe(peers, on_policy, count),
        "family, linear gates, soft targets": Recipe(linear, supervised, 1),
        "family, gates, soft targets": Recipe(family, supervised, 1),
        "family, gates, soft targets, then RLOO (default)": Recipe(family, both, 1),
        "the same, three times the RLOO steps": Recipe(
            family, of(default.steps // fraction, 3 * default.rloo_steps // fraction), 1
        ),
    }


def main(
    seeds: list[int] = typer.Option(SEEDS, help="of the sandbox; each makes a world once"),  # noqa: B008
    larger: bool = typer.Option(False, help="a larger world; families alone"),
    only: str = typer.Option("", help="words in the names of the recipes to measure"),
    threads: int = typer.Option(THREADS, help="of torch; results do not depend on it, seconds do"),
    fresh: bool = typer.Option(False, help="measure again what the table has"),
    quick: bool = typer.Option(False, help="a fortieth of the samples, no file"),
) -> None:
    stage.prepare(threads)
    torch.set_num_threads(threads)
    if fresh and not quick:
        TABLE.unlink(missing_ok=True)
    table = pl.DataFrame(schema=SCHEMA) if quick else known()
    todo, name = recipes(QUICK if quick else 1), "larger" if larger else "sandbox"
    if larger:
        todo = {recipe: own for recipe, own in todo.items() if own.trainings == 1}
    todo = {recipe: own for recipe, own in todo.items() if only in recipe}
    for seed in seeds:
        done = set(table.filter(world=name, seed=seed).select("recipe", "rows").rows())
        missing = {key: own for key, own in todo.items() if (key, own.rows) not in done}
        if not missing:
            continue
        world = made(seed, larger)
        for key, recipe in missing.items():
            told = measured(world, f"{name} {seed}: {key}", recipe)
            told |= {"world": name, "seed": seed, "recipe": key}
            row = pl.DataFrame([told], schema=SCHEMA)
            table = pl.concat([table if quick else known(), row])  # another may write beside this
            if not quick:
                RESULTS.mkdir(exist_ok=True)
                table.write_csv(TABLE, float_precision=4)  # at once: the rest may be cut short
    show(table)


def known() -> pl.DataFrame:
    """What earlier runs have measured."""
    if TABLE.exists():
        return pl.read_csv(TABLE, schema=SCHEMA)
    return pl.DataFrame(schema=SCHEMA)


def measured(world: World, words: str, recipe: Recipe) -> dict[str, object]:
    with Bar(console=Console(stderr=True)) as bar:
        task = bar.add_task(words, total=recipe.steps)
        start = time.perf_counter()
        adapters = recipe.train(
            world.lm, replace(world.task), recipe.settings, lambda steps: bar.advance(task, steps)
        )
        seconds = time.perf_counter() - start
    drawn, shares = world.shares(WEIGHTS, adapters)
    worst, mean = (np.quantile(d, [0.025, 0.975]) for d in (drawn.min(1), drawn.mean(1)))
    at = " ".join(f"{weight:.2f}" for weight in WEIGHTS[shares.argmin()])
    return {
        "rows": recipe.rows, "seconds": seconds,
        "worst": shares.min(), "worst_low": worst[0], "worst_high": worst[1],
        "mean": shares.mean(), "mean_low": mean[0], "mean_high": mean[1], "worst_at": at,
    }  # fmt: skip


def show(frame: pl.DataFrame) -> None:
    table = Table(
        "world", "recipe", "rows", "seconds", "worst share (95 %)", "mean share (95 %)", "worst at",
        title=f"Share reached at {len(WEIGHTS)} weights, select prompts",
    )  # fmt: skip
    for row in frame.sort("world", "seed", descending=[True, False], maintain_order=True).iter_rows(
        named=True
    ):
        shares = (
            f"{row[what]:.3f} ({row[what + '_low']:.3f} to {row[what + '_high']:.3f})"
            for what in ("worst", "mean")
        )
        own = (
            f"{row['world']} {row['seed']}",
            row["recipe"],
            f"{row['rows']:,}",
            f"{row['seconds']:.0f}",
        )
        table.add_row(*own, *shares, row["worst_at"])
    Console(width=140).print(table)


if __name__ == "__main__":
    typer.run(main)
