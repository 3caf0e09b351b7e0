"""`palette traits`: looks at the traits before anything is trained for them, and calibrates them.

palette traits check
palette traits calibrate help
"""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from palette.errors import PaletteError, nearest

if TYPE_CHECKING:
    import numpy as np

    from palette.params import Params

CALIBRATING = 64
"""Rollouts of each train prompt that a calibration is fitted to: quantiles need no more."""

BINS = 12
"""Of a histogram."""

commands = typer.Typer(
    no_args_is_help=True,
    help="Look at the traits before anything is trained for them.\n\nExample: palette traits check",
)


@dataclass(frozen=True)
class Answers:
    """What traits are tried on."""

    prompts: list[str]
    responses: list[str]
    source: str
    """where they are from, in words"""


@dataclass(frozen=True)
class Tried:
    """What a trait gave."""

    rewards: "np.ndarray"
    seconds: float
    """an answer"""


@commands.command()
def check(
    answers: Annotated[int, typer.Option(min=2, help="how many answers to try")] = 512,
) -> None:
    """Show how rewards spread, go together, and what scoring costs.

    The answers are the base's rollouts of train prompts where there are any,
    else the sandbox's own texts. Nothing is written. Exit status 1 where
    something is wrong with a trait, with the cure.

    Example: palette traits check --answers 1000
    """
    from palette import stage
    from palette.core import spread
    from palette.params_file import load

    params = load()
    stage.prepare(params.runtime.threads)
    some = rollouts(params, answers) or world(params, answers)
    print(f"{len(some.responses):,} {some.source}")
    tried, wrong = score(params, some)
    show(params, tried)
    wrong += spread.complaints({name: own.rewards for name, own in tried.items()})
    for sentence in wrong:
        print(f"palette: {sentence}", file=sys.stderr)
    if wrong:
        raise typer.Exit(1)


@commands.command()
def calibrate(
    trait: Annotated[str, typer.Argument(help="a trait with calibrate: quantiles")],
) -> None:
    """Fit once which scores of a trait mean 0 and 1, and freeze it.

    By quantiles of the base's train rollouts. The file is for git: fitted anew
    with other data, it would change what ε means.

    Example: palette traits calibrate polite
    """
    import polars as pl

    from palette import calibration, rewards, scores, stage, traits
    from palette.params_file import load

    params = load()
    stage.prepare(params.runtime.threads)
    if trait not in params.traits:
        raise PaletteError(f"there is no trait '{trait}'; {nearest(trait, params.traits)}")
    own = params.traits[trait]
    if not own.calibrate:
        raise PaletteError(
            f"traits.{trait} is not to be calibrated; add `calibrate: quantiles` in params.yaml"
        )
    rows = rewards.rollouts().filter(pl.col("split") == "train", pl.col("sample") < CALIBRATING)
    prompts, responses = rows["prompt"].to_list(), rows["response"].to_list()
    found = scores.score_one(params, trait, prompts, responses, by=traits.raw)
    low, high = calibration.write(trait, traits.identity(trait, own), found)
    print(
        f"{calibration.path(trait)}: a score of {low:.4g} means 0 and {high:.4g} means 1, by "
        f"{len(rows):,} of the base's answers; commit it, then `dvc repro`"
    )


def rollouts(params: "Params", count: int) -> Answers | None:
    """Some of the base's rollouts of train prompts, evenly from all; None where there are none."""
    import numpy as np
    import polars as pl

    from palette import rewards, tables

    if not (tables.path("rollouts").exists() and tables.path("prompts").exists()):
        return None
    rows = rewards.rollouts().filter(pl.col("split") == "train")
    rows = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]
    return Answers(
        rows["prompt"].to_list(), rows["response"].to_list(), "rollouts of the base's train prompts"
    )


def world(params: "Params", count: int) -> Answers:
    """Texts of the sandbox: no model is needed to write them."""
    import numpy as np

    from palette.sandbox import world

    rng, topics = np.random.default_rng(params.sandbox.seed), world.topics(params.sandbox.seed)
    asked = [topics["train"][rng.integers(len(topics["train"]))] for _ in range(count)]
    return Answers(
        [topic.ask(rng) for topic in asked],
        [world.answer(topic, world.draw_style(rng), rng) for topic in asked],
        "texts of the sandbox, since the base has no rollouts yet: `dvc repro rollouts` makes them",
    )


def score(params: "Params", answers: Answers) -> tuple[dict[str, Tried], list[str]]:
    """What every trait gives, and the sentences of those that fail."""
    import time

    from palette import scores, traits

    tried, failed = {}, []
    for name, trait in params.traits.items():
        try:
            with scores.threads(params, name):
                # The first answer takes along what is loaded once.
                traits.score_one(
                    name, trait, answers.prompts[:1], answers.responses[:1], params.runtime.device
                )
                start = time.perf_counter()
                found = traits.score_one(
                    name, trait, answers.prompts, answers.responses, params.runtime.device
                )
        except PaletteError as error:
            failed.append(str(error))
            continue
        tried[name] = Tried(found, (time.perf_counter() - start) / len(found))
    return tried, failed


def show(params: "Params", tried: dict[str, Tried]) -> None:
    """Print a row for each trait, and every two traits' correlation."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from palette.core import spread

    table = Table("trait", "kind", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("0 rewards 1", no_wrap=True, min_width=BINS)
    for title in ("mean", "spread", "at 0", "at 1", "ms an answer"):
        table.add_column(title, justify="right")
    for name, own in tried.items():
        reward, trait = own.rewards, params.traits[name]
        ends = [f"{(reward == end).mean():.0%}" for end in (0, 1)]
        kind = trait.kind + (", judge" if trait.role == "judge" else "")
        numbers = [f"{reward.mean():.3f}", f"{reward.std():.3f}", *ends, f"{1e3 * own.seconds:.3g}"]
        table.add_row(name, kind, spread.histogram(reward, BINS), *numbers)
    console = Console(highlight=False, markup=False)
    console.print(table)
    pairs = spread.correlations({name: own.rewards for name, own in tried.items()})
    for (one, other), value in pairs.items():
        console.print(f"correlation of {one} and {other}: {value:+.2f}")
