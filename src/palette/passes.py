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
LOOKS, LOOKED_AT = 10, 96
"""Of lm.reaching: looks at a training in a phase, answers of each policy at a look."""


@dataclass(frozen=True)
class Forecast:
    """What one pass will take."""

    seconds: float
    peak: float
    """most memory that the process, or the GPU, holds at once, 10^6 bytes"""
    phases: tuple[tuple[int, float], ...] = ()
    """(steps, seconds of one) of each phase, one after another"""

    def share(self, done: int) -> float:
        """The part of all the time that so many steps take."""
        spent = 0.0
        for steps, each in self.phases:
            spent += min(done, steps) * each
            done -= min(done, steps)
        return spent / sum(steps * each for steps, each in self.phases)


@dataclass(frozen=True)
class Pass:
    """Adapters that are trained together."""

    names: list[str]
    keys: list[str]
    """the store's, of these and of those of the same part that are finished"""


@dataclass(frozen=True)
class Reckoned:
    """What a training will pass through the base, its rehearsal included; answers at their longest."""

    answers: float
    generated: float
    """tokens of those answers"""
    read: float
    """tokens passed forward alone: prompts, and answers that the base scores"""
    trained: float
    """tokens passed forward and back"""


def reckon(
    settings: Adapters, question: float, answer: float, traits: int, members: int = 1
) -> Reckoned:
    """Both phases of a family, or of so many members; `palette cost --plan` counts by the same.

    Args:
        question, answer: tokens of each, on average.
        traits: of a family's weights.
    """
    again = 2 if is_long(settings) else 0
    supervised = members * settings.batch * (settings.steps + (again if settings.steps else 0))
    steps = settings.rloo_steps + (again if settings.rloo_steps else 0)
    polished = members * settings.rloo_batch * steps
    whole, looked = question + answer, 0
    if settings.share:
        places = members if settings.kind == "members" else traits + 1
        phases = (settings.steps > 0) + (settings.rloo_steps > 0)
        looked = phases * LOOKS * LOOKED_AT * places
    read = polished * (whole + question / settings.generations) + 2 * looked * whole
    answers = polished + looked
    return Reckoned(answers, answers * answer, read, (supervised + polished) * whole)


def announce(
    settings: Adapters, passes: Sequence[Pass], words: str, reckoned: Reckoned | None = None
) -> None:
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
            f"{'es' * (len(passes) > 1)}, {' and '.join(phases)} each{limit}{_told(reckoned)}",
            file=sys.stderr,
        )


def _told(reckoned: Reckoned | None) -> str:
    if reckoned is None:
        return ""
    parts = (reckoned.trained, "train on"), (reckoned.generated, "generate")
    counted = [f"{count / 1e6:.3g} M tokens to {what}" for count, what in parts if count]
    return f": at most {' and '.join(counted)}"


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
