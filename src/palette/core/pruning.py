"""Which trained members stay: the fewest that hold (ε, δ) on select, with a margin for noise."""

from dataclasses import dataclass

import numpy as np

from palette.core.certificate import Evidence, UpperBound, thin_coverage
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
    mixtures: tuple[Ideal, ...] = ()
    """K estimates of f*, to judge each policy by, the base's own first; empty: `ideal` for all"""

    @property
    def planes(self) -> Planes:
        return Planes(self.names, self.values.mean(axis=1), self.costs.mean(axis=1))

    def take(self, members: tuple[int, ...]) -> "Bench":
        """The same bench with these policies alone, in this order."""
        chosen = list(members)
        names = tuple(self.names[member] for member in chosen)
        mixtures = tuple(self.mixtures[member] for member in chosen) if self.mixtures else ()
        values, costs = self.values[chosen], self.costs[chosen]
        return Bench(names, self.ideal, values, costs, self.topics, mixtures)

    def judge(self, member: int) -> Ideal:
        """The samples that speak of f* where this policy is routed."""
        return self.mixtures[member] if self.mixtures else self.ideal

    def evidence(self, weights: np.ndarray, members: np.ndarray) -> Evidence:
        """f* and the routed member's worth on every prompt, for pairs (P, d) and (P,)."""
        ideal, worth = (np.empty((len(members), len(self.topics))) for _ in range(2))
        for member in np.unique(members):
            own = members == member
            ideal[own] = self.judge(member).upward(weights[own])
            worth[own] = weights[own] @ self.values[member].T - self.costs[member]
        return Evidence(ideal, worth, self.topics)

    def thin(self, weights: np.ndarray, members: np.ndarray) -> np.ndarray:
        """(P,): the share of prompts with too few samples for the ideal policy, for each pair."""
        result = np.empty(len(members))
        for member in np.unique(members):
            own, ideal = members == member, self.judge(member)
            result[own] = thin_coverage(ideal.concentration(weights[own]), ideal.counts)
        return result

    def unseen(self, weights: np.ndarray, evidence: Evidence) -> float:
        """By how much of f* the members' answers raise it most above the base's rollouts alone.

        Far above 0, the members give answers of a kind that the rollouts miss. 0 where they are all
        there is.
        """
        if not self.mixtures:
            return 0.0
        distinct, which = np.unique(weights, axis=0, return_inverse=True)
        alone = self.ideal.upward(distinct).mean(axis=1)[which.ravel()]
        together = evidence.ideal.mean(axis=1)
        known = np.isfinite(alone) & np.isfinite(together) & (together > 0)
        return float(max(0.0, *(1 - alone[known] / together[known]))) if known.any() else 0.0


@dataclass(frozen=True)
class Pruned:
    """What pruning decided on select."""

    members: tuple[int, ...]
    """indices of the members to keep, ascending, the base (0) not counted"""
    margin: float
    """what was added to point estimates for noise, in units of w·r; infinite without a bound"""


def prune(
    bench: Bench,
    region: Region,
    epsilon: float,
    delta: float,
    confidence: float,
    draws: int,
    seed: int,
) -> Pruned:
    """The fewest members to keep.

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
        return Pruned(winners, np.inf)
    largest = (mean + quantile * error).argmax()
    margin = float((quantile[largest] + REPEAT) * error[largest])
    found = cover(
        planes,
        region,
        lambda points: bench.ideal.upward(points).mean(axis=1),
        weights,
        epsilon,
        delta - margin,
        free=(0,),
    )
    return Pruned(winners if len(found.missing) else found.members, margin)
