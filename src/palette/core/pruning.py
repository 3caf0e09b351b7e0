"""Which trained members stay: the fewest that hold (ε, δ) on select, with a margin for noise."""

from dataclasses import dataclass

import numpy as np

from palette.core.certificate import Evidence, UpperBound, thin_coverage
from palette.core.covering import cover
from palette.core.envelope import Planes, cells, pairs
from palette.core.ideal import Ideal
from palette.core.region import Region

TIGHTER = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)  # of (ε, δ)


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
    tightness: float
    """part of (ε, δ) that a portfolio must hold on select for certify to agree; 0: none is known"""


def prune(
    bench: Bench,
    region: Region,
    epsilon: float,
    delta: float,
    confidence: float,
    draws: int,
    seed: int,
) -> Pruned:
    """The fewest members found that hold on select so well that certify is likely to agree.

    (ε, δ) is tightened until the members that then cover W are foreseen to hold: at every vertex of
    their own cells the mean, the bound's allowance for noise and what a second look on other prompts
    may add are at most 0. If nothing is foreseen to hold, all members that win somewhere stay.
    """
    planes = bench.planes
    weights, members = pairs(cells(planes, region))
    winners = tuple(int(member) for member in np.unique(members) if member > 0)

    def bound(chosen: Bench, weights: np.ndarray, members: np.ndarray) -> UpperBound:
        return UpperBound(chosen.evidence(weights, members), delta, confidence, draws, seed)

    for tightness in TIGHTER:
        found = cover(
            planes,
            region,
            lambda points: bench.ideal.upward(points).mean(axis=1),
            weights,
            tightness * epsilon,
            tightness * delta,
            free=(0,),
        )
        if len(found.missing):
            break
        chosen = bench.take((0, *found.members))
        if bound(chosen, *pairs(cells(chosen.planes, region))).foreseen(epsilon).max() <= 0:
            return Pruned(found.members, tightness)
    return Pruned(winners, _tightness(bound(bench, weights, members), epsilon, delta))


def _tightness(bound: UpperBound, epsilon: float, delta: float) -> float:
    """What is left of (ε, δ) at the pair that is foreseen worst, once noise has its allowance."""
    foreseen = bound.foreseen(epsilon)
    if not np.isfinite(foreseen).all():
        return 0.0
    worst = foreseen.argmax()
    mean = bound.parts(epsilon, np.array([worst]))[0][0]
    slack = epsilon * bound.ideal[:, worst].sum() / bound.size.sum() + delta
    return float(max(0.0, 1 - (foreseen[worst] - mean) / slack)) if slack > 0 else 0.0
