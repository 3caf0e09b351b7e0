"""Choosing among policies on one half of the prompts, and certifying the choice on the other.

The proof that members hold (ε, δ) on all of W is, for every policy, a mixture of the members that
is worth enough at every corner of W (`linear_regret.worst_shares`). The mixtures are fixed on the
half that chose; then the claim is one mean per (policy, corner of W) over the other half's prompts,
and the largest of their upper bounds certifies it for every w at once.
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from palette.core.certificate import Evidence, UpperBound
from palette.core.envelope import Planes
from palette.core.linear_regret import Contest, worst_shares
from palette.core.region import Region
from palette.core.selecting import Choice, Say, best, smallest

DRAWS, SEED = 2000, 0  # of the bootstrap over prompts
HALVINGS = 6  # of the interval in which the margin for noise is sought


@dataclass(frozen=True)
class Measured:
    """Policies measured on the same prompts."""

    names: tuple[str, ...]
    values: np.ndarray
    """(n, prompts, d)"""
    costs: np.ndarray
    """(n, prompts)"""

    @property
    def planes(self) -> Planes:
        """The policies' means."""
        return Planes(self.names, self.values.mean(axis=1), self.costs.mean(axis=1))

    def on(self, prompts: np.ndarray) -> "Measured":
        """The same policies on some of the prompts: a mask or indices."""
        return Measured(self.names, self.values[:, prompts], self.costs[:, prompts])

    def normalized(self, by: "Measured") -> "Measured":
        """Each objective scaled so that the means in `by` span [0, 1]; a constant one becomes 0."""
        means = by.values.mean(axis=1)  # (n, d)
        low, spread = means.min(axis=0), np.ptp(means, axis=0)
        scaled = (self.values - low) / np.where(spread > 0, spread, np.inf)
        return Measured(self.names, scaled, self.costs)


@dataclass(frozen=True)
class Claim:
    """Members said to hold (ε, δ) on all of W, with the mixtures that say why."""

    region: Region
    members: np.ndarray
    """(K,): indices"""
    mixtures: np.ndarray
    """(n, K): for each policy, shares of the members that make up for it"""
    delta: float

    def bound(self, measured: Measured, confidence: float) -> UpperBound:
        """Of the mean of `(1 − ε) policy − mixture − δ`, for every (policy, corner of W)."""
        corners = self.region.vertices()  # (d, d)
        worth = np.einsum("npi,ci->ncp", measured.values, corners) - measured.costs[:, None]
        mixed = np.einsum("nk,kcp->ncp", self.mixtures, worth[self.members])
        prompts = worth.shape[-1]
        evidence = Evidence(
            worth.reshape(-1, prompts), mixed.reshape(-1, prompts), np.arange(prompts)
        )
        return UpperBound(evidence, self.delta, confidence, DRAWS, SEED)


def claim(contest: Contest, members: np.ndarray, epsilon: float, delta: float) -> Claim:
    """The mixtures that make up best for every policy, at the ε that the members just hold here.

    One fixed mixture per policy serves every ε, so that the least ε certified is one test as well.
    """
    held, _ = contest.worst(members, delta / contest.unit)
    targets = (1 - min(held, epsilon)) * contest.heights
    _, mixtures = worst_shares(targets, contest.heights[members])
    return Claim(contest.region, members, mixtures, delta)


def choose(
    measured: Measured,
    region: Region,
    epsilon: float,
    delta: float,
    confidence: float,
    size: int | None,
    say: Say,
) -> tuple[Choice, Claim]:
    """The fewest policies likely to be certified on other prompts, or the best `size` of them.

    A choice that just holds here would fail there one time in two, so (ε, δ) is tightened until
    the bound that another half is likely to give, this half's with two looks' noise, holds. What
    is said of smaller choices is said of the asked (ε, δ), by this half's means.
    """
    contest = Contest(measured.planes, region)

    judged: dict[tuple[int, ...], tuple[Claim, bool]] = {}

    def tried(tight: float) -> tuple[Choice, Claim, bool]:
        choice = smallest(contest, tight * epsilon, tight * delta, say)
        key = tuple(choice.members)
        if key not in judged:
            made = claim(contest, choice.members, epsilon, delta)
            bound = made.bound(measured, confidence)
            judged[key] = made, bool(bound.foreseen(epsilon).max() <= 0)
        return choice, *judged[key]

    if size is not None:
        choice = best(contest, size, epsilon, delta, say)
        return choice, claim(contest, choice.members, epsilon, delta)
    loose = tried(1.0)
    if loose[-1]:
        return loose[:2]
    found, low, high = tried(0.0), 0.0, 1.0
    if found[-1]:
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            attempt = tried(middle)
            if attempt[-1]:
                found, low = attempt, middle
            else:
                high = middle
    chosen, made, _ = found
    least = loose[0].lower_bound
    return replace(chosen, lower_bound=least, optimal=len(chosen.members) <= least), made


def epsilon_upper(bound: UpperBound, epsilon: float) -> float:
    """The least ε up to 1 at which no bound is above 0, infinite if none; sought near `epsilon`."""
    lead = int(bound(epsilon).argmax())
    return bound.largest_epsilon(lead, bound.least_epsilon(lead))


def choosing(prompts: tuple[str, ...]) -> np.ndarray:
    """(prompts,) bool: which half chooses, by a hash of each prompt alone."""
    return np.array([hashlib.sha256(text.encode()).digest()[0] % 2 == 0 for text in prompts])
