"""Which further weights would mend a portfolio that fails, foreseen on select alone.

What another adapter brings is foreseen as the ideal plane of its weights, less what the trained
members typically fall short of theirs.
"""

from dataclasses import dataclass
from functools import cached_property
from math import isfinite

import numpy as np

from palette.core.covering import Shortfall, covering, least, least_epsilon, shortfall
from palette.core.envelope import Planes
from palette.core.ideal import Ideal
from palette.core.moving import hundredths
from palette.core.pruning import Bench
from palette.core.region import Region

LATTICE = 500  # points at most of the lattice of candidate weights
VERTICES = 200  # the worst vertices, which are candidates too
GAIN = 0.02  # part of the ε asked: to lower the worst ε by less is not worth a training


@dataclass(frozen=True)
class Mend:
    """The weights to train for next."""

    weights: np.ndarray
    """(M, d) in hundredths; empty where no training is foreseen to help"""
    expected: float
    """the worst ε over W on select, at slack δ, foreseen after training for them"""
    advice: str
    """one sentence for people"""


@dataclass(frozen=True)
class Shortage:
    """How trained members differ from the ideal policies of their weights: medians over members."""

    values: np.ndarray
    """(d,): by how much each mean reward is lower"""
    cost: float
    """by how much the cost is higher, so that the worth at a member's own weights is right"""
    largest: float
    """the largest part of f* that a member lacks at its own weights; infinite where f* <= 0"""

    def foresee(self, ideal: Ideal, weights: np.ndarray) -> Planes:
        """The planes that training for the weights (K, d) is expected to give."""
        names = tuple(f"new {number}" for number in range(len(weights)))
        perfect = ideal.tangents(weights, names)
        return Planes(names, perfect.values - self.values, perfect.costs + self.cost)


def shortage(bench: Bench, trained: np.ndarray) -> Shortage:
    """What the bench's members lack beside the tangents of f* at their weights (K, d).

    A trait's mean reward falls short by much the same in all members, so that a member's shortfall,
    w·Δv + Δc, follows its weights: with one member left out this foresees its worth better than one
    additive or relative shortfall for all (docs/log.md).
    """
    if len(trained) == 0:
        return Shortage(np.zeros(trained.shape[1]), 0.0, 0.0)
    planes = bench.planes.take(range(1, len(bench.names)))
    perfect = bench.ideal.tangents(trained, planes.names)
    own = np.diagonal(planes.worth(trained))
    values = np.median(perfect.values - planes.values, axis=0)
    missing = np.diagonal(perfect.worth(trained)) - own
    cost = float(np.median(missing - trained @ values))
    upward = bench.ideal.upward(trained).mean(axis=1)
    return Shortage(values, cost, float(least_epsilon(upward, own, 0.0).max()))


@dataclass(frozen=True)
class Outlook:
    """A portfolio on select, and what further members would bring to it."""

    bench: Bench
    kept: tuple[int, ...]
    region: Region
    trained: np.ndarray
    """(K, d)"""

    @cached_property
    def lacking(self) -> Shortage:
        return shortage(self.bench, self.trained)

    def value(self, points: np.ndarray) -> np.ndarray:
        """(P,): f* at the weights (P, d), erring upward, as pruning sees it."""
        return self.bench.ideal.upward(points).mean(axis=1)

    def planes(self, weights: np.ndarray) -> Planes:
        """The base, the kept members, then the foreseen ones for the weights (M, d)."""
        return self.bench.planes.take((0, *self.kept)) + self.lacking.foresee(
            self.bench.ideal, weights
        )

    def shortfall(self, weights: np.ndarray) -> Shortfall:
        return shortfall(self.planes(weights), self.region, self.value)

    def fewest(self, now: Shortfall, epsilon: float, delta: float, most: int) -> np.ndarray | None:
        """(M, d): the fewest further weights foreseen to hold (ε, δ); None if more than `most`.

        Set cover of the violated vertices by the planes of a lattice's weights and of the worst
        vertices'; vertices that the chosen ones leave violated are points of the next round. A
        point that no candidate covers is a candidate itself. Trained weights are none.
        """
        lattice = self.region.lattice(self.region.lattice_steps(LATTICE, LATTICE))
        worst = now.weights[np.argsort(-now.epsilon(delta), kind="stable")[:VERTICES]]
        candidates = self._untrained(np.concatenate([lattice, worst]))
        planes, short = self.planes(candidates), now
        chosen: tuple[int, ...] = ()
        points, targets = now.weights[:0], now.ideal[:0]
        free = list(range(1 + len(self.kept)))
        while (violated := short.violated(epsilon, delta)).any():
            points = np.concatenate([points, short.weights[violated]])
            targets = np.concatenate([targets, short.ideal[violated]])
            covers = covering(planes, points, targets, epsilon, delta)[:, len(free) :]
            if not covers.any(axis=1).all():
                longer = self._untrained(np.concatenate([candidates, points[~covers.any(axis=1)]]))
                if len(longer) == len(candidates):
                    return None
                candidates, planes = longer, self.planes(longer)
                covers = covering(planes, points, targets, epsilon, delta)[:, len(free) :]
                if not covers.any(axis=1).all():
                    return None
            chosen, _ = least(covers)
            if len(chosen) > most:
                return None
            taken = planes.take([*free, *(len(free) + column for column in chosen)])
            short = shortfall(taken, self.region, self.value)
        return candidates[list(chosen)]

    def beyond(self, short: Shortfall, epsilon: float, delta: float) -> bool:
        """Whether even members trained for the very worst vertices are foreseen to miss (ε, δ)."""
        worst = np.argsort(-short.epsilon(delta), kind="stable")[:VERTICES]
        lone = self.lacking.foresee(self.bench.ideal, short.weights[worst])
        own = np.diagonal(lone.worth(short.weights[worst]))
        return bool(
            Shortfall(short.weights[worst], short.ideal[worst], own).violated(epsilon, delta).any()
        )

    def _untrained(self, weights: np.ndarray) -> np.ndarray:
        """The weights (P, d) in hundredths, each once, without those that are trained already."""
        percents = np.rint(100 * hundredths(weights)).astype(int)
        _, first = np.unique(percents, axis=0, return_index=True)
        trained = {tuple(row) for row in np.rint(100 * self.trained).astype(int)}
        fresh = [row for row in np.sort(first) if tuple(percents[row]) not in trained]
        return percents[fresh] / 100


def mend(
    bench: Bench,
    kept: tuple[int, ...],
    region: Region,
    epsilon: float,
    delta: float,
    tightness: float,
    trained: np.ndarray,
    most: int,
) -> Mend:
    """The further weights that are foreseen to mend a failed portfolio, or to lower its worst ε most.

    The fewest within `most` that hold the tightened (ε, δ), or whose worst ε is least, to GAIN·ε.
    None where select holds already: pruning, which looks at select, would drop them again.

    Args:
        bench: the base and all trained members, on select.
        kept: indices of the members that the failed portfolio has, the base (0) not counted.
        epsilon: multiplicative slack asked for.
        delta: additive slack asked for.
        tightness: the part of (ε, δ) that point estimates must hold, for noise (`Pruned`).
        trained: (K, d) weights of the bench's members, in its order, the base not counted.
        most: weights at most.
    """
    outlook = Outlook(bench, kept, region, np.reshape(trained, (-1, region.d)))
    none = np.empty((0, region.d))
    now = outlook.shortfall(none)
    before = float(now.epsilon(delta).max())
    if tightness <= 0:
        return Mend(none, before, NO_BOUND)
    strict, slack = tightness * epsilon, tightness * delta
    if not now.violated(strict, slack).any():
        return Mend(none, before, HOLDS)
    chosen = _within(outlook, now, strict, slack, most)
    then = outlook.shortfall(chosen)
    after = float(then.epsilon(delta).max())
    gain = _gain(len(chosen), most, before, after)
    if not then.violated(strict, slack).any():
        advice = f"{gain}, which holds {epsilon:.1%} with a margin for noise."
    elif outlook.beyond(then, strict, slack):
        slack_name = "epsilon" if isfinite(after) else "delta"
        advice = (
            f"{gain}; {epsilon:.1%} with a margin for noise is out of reach, since members fall "
            f"short of their own optimum by up to {_percent(outlook.lacking.largest)} and a new one is "
            f"expected to do so too: train longer (adapters.steps) or raise portfolio.{slack_name}."
        )
    else:
        again = ", or extend again after the next run" if len(chosen) else ""
        more = f"takes more: raise portfolio.mend{again}"
        advice = f"{gain}; {epsilon:.1%} with a margin for noise {more}."
    return Mend(chosen, after, advice)


def _within(
    outlook: Outlook, now: Shortfall, epsilon: float, slack: float, most: int
) -> np.ndarray:
    """(M, d): the fewest weights within `most` that reach the least worst ε, to GAIN·ε.

    Steps that double down from the present worst, then bisection: a cover by many more than `most`
    takes long, and is never asked for.
    """
    best = np.empty((0, now.weights.shape[1]))
    low, high = None, min(float(now.epsilon(slack).max()), 1.0)
    step = GAIN * epsilon
    while high > epsilon and (low is None or high - low > GAIN * epsilon):
        target = max(epsilon, high - step) if low is None else (low + high) / 2
        found = outlook.fewest(now, target, slack, most)
        if found is None:
            low = target
        else:
            best, high, step = found, target, 2 * step
    return best


NO_BOUND = (
    "No adapter is named: the select prompts are so few, or of so few topics, that noise alone may "
    "exceed what is allowed; add prompts of more topics."
)
HOLDS = (
    "No adapter is named: on select the portfolio holds with a margin for noise, so pruning would "
    "drop a further one again; add prompts, so that select and certify agree."
)


def _gain(count: int, most: int, before: float, after: float) -> str:
    """What the trainings buy, as the beginning of a sentence."""
    if count == 0:
        return (
            f"No {most} adapters are expected to lower the worst ε, {_percent(before)}, on select"
        )
    adapters = "one more adapter" if count == 1 else f"{count} more adapters"
    return (
        f"Train {adapters} (`palette extend`, then `dvc repro`): on select the worst ε is expected "
        f"to fall from {_percent(before)} to {_percent(after)}"
    )


def _percent(epsilon: float) -> str:
    return f"{epsilon:.1%}" if isfinite(epsilon) else "infinity (f* is not positive there)"
