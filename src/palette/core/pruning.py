"""Which trained members stay: the fewest that hold (ε, δ) on select, with a margin for noise."""

from dataclasses import dataclass

import numpy as np

from palette.core.certificate import Evidence, UpperBound
from palette.core.covering import cover
from palette.core.envelope import Planes, cells, pairs
from palette.core.ideal import Ideal
from palette.core.region import Region

REPEAT = np.sqrt(2)  # standard errors by which two looks at the same mean differ


@dataclass(frozen=True)
class Bench:
    """Policies, the base first, measured on the prompts of one split together with f*."""

    names: tuple[str, ...]
    ideal: Ideal
    """one row per prompt"""
    values: np.ndarray
    """(K, prompts, d): mean rewards"""
    costs: np.ndarray
    """(K, prompts): β·KL"""
    topics: np.ndarray
    """(prompts,)"""

    @property
    def planes(self) -> Planes:
        return Planes(self.names, self.values.mean(axis=1), self.costs.mean(axis=1))

    def take(self, members: tuple[int, ...]) -> "Bench":
        """The same bench with these policies alone, in this order."""
        chosen = list(members)
        names = tuple(self.names[member] for member in chosen)
        return Bench(names, self.ideal, self.values[chosen], self.costs[chosen], self.topics)

    def evidence(self, weights: np.ndarray, members: np.ndarray) -> Evidence:
        """f* and the routed member's worth on every prompt, for pairs (P, d) and (P,)."""
        worth = np.einsum("pd,pnd->pn", weights, self.values[members]) - self.costs[members]
        return Evidence(self.ideal.upward(weights), worth, self.topics)


def prune(
    bench: Bench,
    region: Region,
    epsilon: float,
    delta: float,
    confidence: float,
    draws: int,
    seed: int,
) -> tuple[int, ...]:
    """Indices of the members to keep, the base (0) not counted.

    The margin is what the upper bound adds to the point estimate where it is largest, and what a
    second look on other prompts may add to that: a subset that holds with it on select is likely
    to be certified on certify. If not even all members hold, all that win somewhere stay.
    """
    planes = bench.planes
    weights, members = pairs(cells(planes, region))
    winners = tuple(int(member) for member in np.unique(members) if member > 0)
    evidence = bench.evidence(weights, members)
    mean, error, quantile = UpperBound(evidence, delta, confidence, draws, seed).parts(epsilon)
    if not np.isfinite(quantile).all():
        return winners
    largest = (mean + quantile * error).argmax()
    margin = (quantile[largest] + REPEAT) * error[largest]
    found = cover(
        planes,
        region,
        lambda points: bench.ideal.upward(points).mean(axis=1),
        weights,
        epsilon,
        delta - margin,
        free=(0,),
    )
    return winners if len(found.missing) else found.members
