"""What users value: weights with intervals, from choices, under a prior that the group teaches.

How likely a history is under weights, `core/choices.py` says. The prior is the distribution of
weights over the group, estimated without a form for it: masses on random points of the region by
expectation maximisation (nonparametric empirical Bayes, Kiefer and Wolfowitz 1956), each mass spread
over a bump, so that it never piles up on a few points and intervals never collapse. A user with many
rows overrules the prior, a user with none has it. How sharply users choose, and how many rows are by
someone else, is what makes the group's histories likeliest: intervals hold only at the right ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from palette.core.choices import Choices, Chooser, Prior, likelihoods

PARTICLES = 2048
COARSE = 512
"""Particles on which a chooser is fitted."""
SPARSITIES = np.array([1.0, 1.0, 0.5, 0.25])
"""Concentrations of the draws: uniform ones alone hardly reach the corners of eight traits."""
BANDWIDTH = 0.12
"""Standard deviation of a bump, in units of weight."""
NEIGHBOURS = 4
"""A bump reaches at least this many particles, however thinly they fill many traits."""
SWEEPS, ROUNDS = 100, 3
"""Steps of the expectation maximisation, and how often it is done: each time with the rows of others
as the prior of the time before has them."""
GLANCE = 25, 2
"""The same while a chooser is looked for."""
NEWCOMER = 0.05
"""Share of the prior that lies evenly on all particles: tastes that the group has not shown yet."""
SCALES, SCALE, DOUBT = (0.5, 30.0), 5.0, 0.5
"""Of the sharpness: what it may be, and its prior, log-normal about SCALE."""
SCATTER = 0.4
"""Of the logarithm of sharpness over users. With one sharpness for all, intervals of long histories
hold too rarely; it is left out where strangers are looked for, since it would explain them away."""
STRANGERS, FEW = (0.0, 0.5), 0.2
"""Of the share of others' rows: what it may be, and the mean of its prior, exponential."""
CLOSE = 0.03
"""To which the log of the sharpness, and the share, are found."""


@dataclass(frozen=True)
class Posterior:
    """Weights per user."""

    mean: np.ndarray
    """(users, traits)"""
    low: np.ndarray
    """(users, traits) lower end of the equal-tailed interval, widened to hold the mean"""
    high: np.ndarray


def draw_particles(floor: np.ndarray, seed: int, count: int = PARTICLES) -> np.ndarray:
    """(count, traits) points of the region {w ≥ floor, Σw = 1}, half of them uniform."""
    floor = np.asarray(floor, float)
    sparsity = SPARSITIES[np.arange(count) % len(SPARSITIES), None]
    drawn = np.random.default_rng(seed).standard_gamma(sparsity, (count, len(floor)))
    return floor + (1 - floor.sum()) * drawn / drawn.sum(1, keepdims=True)


def fit_chooser(
    choices: Choices,
    users: int,
    particles: np.ndarray,
    scale: float | None = None,
    strangers: float | None = None,
) -> Chooser:
    """The sharpness and the share of others' rows that make the histories likeliest.

    Marginal likelihood under the prior that fits best, times a weak prior on both, which decides
    alone where there are no choices.

    Args:
        choices: of users 0 to `users` - 1.
        particles: (particles, traits) points that may carry mass.
        scale, strangers: kept where given.
    """

    bumps = _bumps(particles)

    def plausible(log: float, share: float) -> float:
        chooser = Chooser(np.exp(log), share)
        _, marginal = _fit(choices, users, particles, bumps, chooser, *GLANCE)
        return marginal - ((log - np.log(SCALE)) / DOUBT) ** 2 / 2 - share / FEW

    log, share = np.log(scale or SCALE), FEW if strangers is None else strangers
    for _ in range(2):  # the two hardly depend on each other
        if scale is None:
            log = _best(partial(plausible, share=share), *np.log(SCALES))
        if strangers is None:
            share = _best(partial(plausible, log), *STRANGERS)
    return Chooser(scale or float(np.exp(log)), share, SCATTER)


def _best(worth: Callable[[float], float], low: float, high: float) -> float:
    found = minimize_scalar(lambda x: -worth(x), bounds=(low, high), options={"xatol": CLOSE})
    return float(found.x)


def fit_prior(choices: Choices, users: int, particles: np.ndarray, chooser: Chooser) -> Prior:
    """The group's distribution of weights, from the choices of its users.

    Args:
        choices: of users 0 to `users` - 1; a user without any teaches nothing.
        particles: (particles, traits) points that may carry mass.

    Returns:
        The prior; all particles equally likely where the group has no choices.
    """
    return _fit(choices, users, particles, _bumps(particles), chooser, SWEEPS, ROUNDS)[0]


def _fit(
    choices: Choices, users: int, particles: np.ndarray, bumps: np.ndarray,
    chooser: Chooser, sweeps: int, rounds: int,
) -> tuple[Prior, float]:  # fmt: skip
    """The prior, and the log of the marginal likelihood under it."""
    taught = np.flatnonzero(choices.evidence(users))
    uniform = np.full(len(particles), 1 / len(particles))
    prior = Prior(particles, uniform)
    if not len(taught):
        return prior, 0.0
    own = choices.of(taught)
    for _ in range(rounds if chooser.strangers else 1):
        log = np.concatenate([part for _, part in likelihoods(own, len(taught), prior, chooser)])
        best = log.max(1, keepdims=True)
        likelihood = np.exp(log - best)  # (users, particles)
        evidence = likelihood @ bumps  # (users, bumps)
        heights = uniform
        for _ in range(sweeps):
            joint = evidence * heights
            heights = (joint / joint.sum(1, keepdims=True)).mean(0)
        prior = Prior(particles, (1 - NEWCOMER) * bumps @ heights + NEWCOMER * uniform)
    return prior, float((np.log(likelihood @ prior.masses) + best[:, 0]).sum())


def posterior(
    choices: Choices, users: int, prior: Prior, chooser: Chooser, level: float
) -> Posterior:
    """Posterior mean and equal-tailed interval of every user's weights.

    Args:
        choices: of users 0 to `users` - 1; users without any get the prior's.
        level: probability that each weight's interval holds.
    """
    traits = prior.particles.shape[1]
    mean, low, high = (np.empty((users, traits)) for _ in range(3))
    order = np.argsort(prior.particles, axis=0)
    for some, loglik in likelihoods(choices, users, prior, chooser):
        log = loglik + np.log(prior.masses)
        mass = np.exp(log - logsumexp(log, axis=1, keepdims=True))
        mean[some] = mass @ prior.particles
        for trait in range(traits):
            values = prior.particles[order[:, trait], trait]
            below = mass[:, order[:, trait]].cumsum(1)
            low[some, trait] = values[_first_above(below, (1 - level) / 2)]
            high[some, trait] = values[_first_above(below, (1 + level) / 2)]
    return Posterior(mean, np.minimum(low, mean), np.maximum(high, mean))


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
