"""What users value: weights with intervals, from choices, under a prior that the group teaches.

A user wrote or chose one answer where the base would have given another. With Δr the difference of
the traits' rewards, that has probability σ(scale · w·Δr) under weights w (Bradley and Terry). The
prior is the distribution of weights over the group, estimated without a form for it: masses on
random points of the region by expectation maximisation (nonparametric empirical Bayes, Kiefer and
Wolfowitz 1956), each mass spread over a bump, so that it never piles up on a few points and
intervals never collapse. A user with many rows overrules the prior, a user with none has it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

PARTICLES = 2048
SPARSITIES = np.array([1.0, 1.0, 0.5, 0.25])
"""Concentrations of the draws: uniform ones alone hardly reach the corners of eight traits."""
BANDWIDTH = 0.12
"""Standard deviation of a bump, in units of weight."""
NEIGHBOURS = 4
"""A bump reaches at least this many particles, however thinly they fill many traits."""
SWEEPS = 100
NEWCOMER = 0.05
"""Share of the prior that lies evenly on all particles: tastes that the group has not shown yet."""
USERS_AT_ONCE = 256


@dataclass(frozen=True)
class Comparisons:
    """Choices of users: each says that of two answers the first was liked better."""

    user: np.ndarray
    """(comparisons,) int, which user, from 0"""
    difference: np.ndarray
    """(comparisons, traits) rewards of the first answer minus rewards of the second"""
    weight: np.ndarray
    """(comparisons,) how much each counts; negative where the second answer was liked better"""

    def of(self, users: np.ndarray) -> "Comparisons":
        """The comparisons of some users, renumbered from 0 in the order given."""
        place = np.full(max(self.user.max(initial=-1), users.max(initial=-1)) + 1, -1)
        place[users] = np.arange(len(users))
        keep = place[self.user] >= 0
        return Comparisons(place[self.user[keep]], self.difference[keep], self.weight[keep])

    def evidence(self, users: int) -> np.ndarray:
        """(users,) weighted number of comparisons."""
        return np.bincount(self.user, np.abs(self.weight), minlength=users)


@dataclass(frozen=True)
class Prior:
    """A distribution of weights over a group: masses on points of the region."""

    particles: np.ndarray
    """(particles, traits) points of the region"""
    masses: np.ndarray
    """(particles,) positive, summing to 1"""


@dataclass(frozen=True)
class Posterior:
    """Weights per user."""

    mean: np.ndarray
    """(users, traits)"""
    low: np.ndarray
    """(users, traits) lower end of the equal-tailed interval, widened to hold the mean"""
    high: np.ndarray


def from_rating(rating: np.ndarray) -> np.ndarray:
    """How much a row counts, and for which side: 1 at rating 1 or none, 0 at ½, -1 at 0."""
    return np.where(np.isnan(rating), 1.0, 2 * rating - 1)


def draw_particles(floor: np.ndarray, seed: int, count: int = PARTICLES) -> np.ndarray:
    """(count, traits) points of the region {w ≥ floor, Σw = 1}, half of them uniform."""
    floor = np.asarray(floor, float)
    sparsity = SPARSITIES[np.arange(count) % len(SPARSITIES), None]
    drawn = np.random.default_rng(seed).standard_gamma(sparsity, (count, len(floor)))
    return floor + (1 - floor.sum()) * drawn / drawn.sum(1, keepdims=True)


def fit_prior(comparisons: Comparisons, users: int, particles: np.ndarray, scale: float) -> Prior:
    """The group's distribution of weights, from the comparisons of its users.

    Args:
        comparisons: of users 0 to `users` - 1; a user without any teaches nothing.
        particles: (particles, traits) points that may carry mass.
        scale: logit of a preference per unit of w·Δr.

    Returns:
        The prior; all particles equally likely where the group has no comparisons.
    """
    taught = np.flatnonzero(comparisons.evidence(users))
    uniform = np.full(len(particles), 1 / len(particles))
    if not len(taught):
        return Prior(particles, uniform)
    blocks = _likelihoods(comparisons.of(taught), len(taught), particles, scale)
    likelihood = np.exp(np.concatenate([loglik for _, loglik in blocks]))  # (users, particles)
    bumps = _bumps(particles)
    evidence = likelihood @ bumps  # (users, bumps)
    heights = uniform
    for _ in range(SWEEPS):
        joint = evidence * heights
        heights = (joint / joint.sum(1, keepdims=True)).mean(0)
    return Prior(particles, (1 - NEWCOMER) * bumps @ heights + NEWCOMER * uniform)


def posterior(
    comparisons: Comparisons, users: int, prior: Prior, scale: float, level: float
) -> Posterior:
    """Posterior mean and equal-tailed interval of every user's weights.

    Args:
        comparisons: of users 0 to `users` - 1; users without any get the prior's.
        scale: logit of a preference per unit of w·Δr.
        level: probability that each weight's interval holds.
    """
    traits = prior.particles.shape[1]
    mean, low, high = (np.empty((users, traits)) for _ in range(3))
    order = np.argsort(prior.particles, axis=0)
    for some, loglik in _likelihoods(comparisons, users, prior.particles, scale):
        log = loglik + np.log(prior.masses)
        mass = np.exp(log - logsumexp(log, axis=1, keepdims=True))
        mean[some] = mass @ prior.particles
        for trait in range(traits):
            values = prior.particles[order[:, trait], trait]
            below = mass[:, order[:, trait]].cumsum(1)
            low[some, trait] = values[_first_above(below, (1 - level) / 2)]
            high[some, trait] = values[_first_above(below, (1 + level) / 2)]
    return Posterior(mean, np.minimum(low, mean), np.maximum(high, mean))


def _likelihoods(
    comparisons: Comparisons, users: int, particles: np.ndarray, scale: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield blocks of (user numbers, log-likelihood (users, particles) below each user's best)."""
    order = np.argsort(comparisons.user, kind="stable")
    owner = comparisons.user[order]
    for start in range(0, users, USERS_AT_ONCE):
        some = np.arange(start, min(start + USERS_AT_ONCE, users))
        first, end = np.searchsorted(owner, [some[0], some[-1] + 1])
        rows = order[first:end]
        sign = np.sign(comparisons.weight[rows])[:, None]
        logit = scale * sign * (comparisons.difference[rows] @ particles.T)
        each = -np.logaddexp(0, -logit) * np.abs(comparisons.weight[rows])[:, None]
        total = np.zeros((len(some), len(particles)))
        taught, begins = np.unique(comparisons.user[rows], return_index=True)
        if len(taught):
            total[taught - start] = np.add.reduceat(each, begins)
        yield some, total - total.max(1, keepdims=True)


def _bumps(particles: np.ndarray) -> np.ndarray:
    """(particles, bumps): each column spreads a mass of 1 around one particle."""
    square = (particles**2).sum(1)
    distance = np.maximum(square[:, None] + square - 2 * particles @ particles.T, 0)
    near = np.median(np.partition(distance, NEIGHBOURS, axis=0)[NEIGHBOURS])
    kernel = np.exp(-distance / (2 * max(BANDWIDTH**2, near)))
    return kernel / kernel.sum(0)


def _first_above(below: np.ndarray, share: float) -> np.ndarray:
    """Index per row of the first cumulative mass that reaches `share`."""
    return np.minimum((below < share).sum(1), below.shape[1] - 1)
