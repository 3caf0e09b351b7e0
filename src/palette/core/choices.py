"""What a history says of weights: how likely its rows are under each.

A row is an answer y that the user wrote, chose or rated, where the base might have said anything. A
user of weights w writes as the policy does that is best for them at their own sharpness: with chance
∝ π_ref(y|x) exp(scale · ℓ · w·r(x, y)), ℓ from 1 (chosen, or rated best) to -1 (rated worst), 0 for
a rating that says nothing. So a row has the log-likelihood ratio to the base's own answers

    scale ℓ w·Δ − log E exp(scale ℓ w·(r(x, y') − r̄(x))),   Δ = r(x, y) − r̄(x),

with r̄(x) what the base's answers to x are worth, and the mean over its answers y'. They are few for
each row, so r̄ leans on all rows' as far as prompts do not differ (a random effect), and the mean is
over all rows' answers about theirs. A share of rows is by someone else, a user like the others:
those have the chance that the prior gives, whatever w. A self-generated pair is a choice between two
(Bradley and Terry): σ(scale · w·Δ), Δ the difference of their rewards.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

USERS_AT_ONCE = 256
SINGLE = np.float32
"""Of what is computed for each row and particle: twice as fast, and exact enough to add up."""
STEP = 0.05
"""Ratings are read in steps of this."""
POINTS = np.sqrt(1.5) * np.array([-1.0, 0.0, 1.0])
"""Of a scatter of 1, equally likely."""


@dataclass(frozen=True)
class Choices:
    """What users chose. A choice is of an answer among all, or, in a pair, over the other."""

    user: np.ndarray
    """(choices,) int, which user, from 0"""
    difference: np.ndarray
    """(choices, traits) rewards, less what was expected of the base; in a pair, the other's"""
    liking: np.ndarray
    """(choices,) from 1, chosen, to -1, disliked; 1 in a pair"""
    weight: np.ndarray
    """(choices,) how much each counts, at least 0"""
    paired: np.ndarray
    """(choices,) bool"""
    base: np.ndarray
    """(answers, traits) rewards of the base's own answers, less what was expected of each"""

    def of(self, users: np.ndarray) -> "Choices":
        """The choices of some users, renumbered from 0 in the order given."""
        place = np.full(max(self.user.max(initial=-1), users.max(initial=-1)) + 1, -1)
        place[users] = np.arange(len(users))
        keep = place[self.user] >= 0
        return Choices(
            place[self.user[keep]], self.difference[keep], self.liking[keep], self.weight[keep],
            self.paired[keep], self.base,
        )  # fmt: skip

    def evidence(self, users: int) -> np.ndarray:
        """(users,) weighted number of choices."""
        return np.bincount(self.user, np.abs(self.liking) * self.weight, minlength=users)


@dataclass(frozen=True)
class Chooser:
    """How users choose, alike for all of them."""

    scale: float
    """sharpness: nats per unit of w·r"""
    strangers: float
    """share of rows by someone else"""
    scatter: float = 0.0
    """of the logarithm of sharpness over users, about that of `scale`"""


@dataclass(frozen=True)
class Prior:
    """A distribution of weights over a group: masses on points of the region."""

    particles: np.ndarray
    """(particles, traits) points of the region"""
    masses: np.ndarray
    """(particles,) positive, summing to 1"""


def from_rating(rating: np.ndarray) -> np.ndarray:
    """How a row was liked: 1 at rating 1 or none, 0 at ½, -1 at 0."""
    return np.where(np.isnan(rating), 1.0, 2 * rating - 1)


def recency(age: np.ndarray, half_life: float | None) -> np.ndarray:
    """How much a row counts: half after each half-life; wholly where its age is not known."""
    return np.where(np.isnan(age) | (half_life is None), 1.0, 0.5 ** (age / (half_life or 1.0)))


def likelihoods(
    choices: Choices, users: int, prior: Prior, chooser: Chooser
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield blocks of (user numbers, log-likelihood (users, particles)), 0 without choices."""
    order = np.argsort(choices.user, kind="stable")
    kinds = [order[choices.paired[order] == paired] for paired in (False, True)]
    steps = np.round(choices.liking / STEP).astype(int)
    levels, level = np.unique(steps, return_inverse=True)
    scatter = POINTS * chooser.scatter if chooser.scatter else np.zeros(1)
    scales = (chooser.scale * np.exp(scatter)).astype(SINGLE)
    particles, masses = prior.particles.astype(SINGLE), prior.masses.astype(SINGLE)
    difference, weight = choices.difference.astype(SINGLE), choices.weight.astype(SINGLE)
    partition = _partition(choices.base.astype(SINGLE), particles, np.outer(scales, STEP * levels))
    weighted = bool((weight != 1).any())
    for start in range(0, users, USERS_AT_ONCE):
        some = np.arange(start, min(start + USERS_AT_ONCE, users))
        total = np.zeros((len(scales), len(some), len(prior.particles)))
        for paired, own in enumerate(kinds):
            ends = np.searchsorted(choices.user[own], [some[0], some[-1] + 1])
            rows = own[slice(*ends)]
            worth = difference[rows] @ particles.T
            taught, begins = np.unique(choices.user[rows], return_index=True)
            spans = [slice(*ends) for ends in pairwise([*begins, len(rows)])]
            for place, scale in enumerate(scales if len(rows) else ()):
                # One user's rows at a time stay in the processor's cache.
                if paired:
                    each = _preferred(scale * worth, spans)
                else:
                    liking = (scale * STEP * steps[rows, None]).astype(SINGLE)
                    each = _chosen(liking, worth, partition[place], level[rows], spans)
                    each = _mixed(each, len(rows), spans, masses, chooser.strangers)
                for user, span, log in zip(taught - start, spans, each, strict=True):
                    if weighted:
                        log *= weight[rows[span], None]
                    total[place, user] += _sum_of(log)
        yield some, np.logaddexp.reduce(total) - np.log(len(scales))


def _preferred(worth: np.ndarray, spans: Sequence[slice]) -> Iterator[np.ndarray]:
    """Log-likelihoods (rows, particles) of each span's pairs."""
    for span in spans:
        yield -np.logaddexp(0, -worth[span])


def _chosen(
    liking: np.ndarray, worth: np.ndarray, partition: np.ndarray, level: np.ndarray,
    spans: Sequence[slice],
) -> Iterator[np.ndarray]:  # fmt: skip
    """The same of answers among all; `partition` is (levels, particles)."""
    for span in spans:
        each = liking[span] * worth[span]
        each -= partition[level[span]] if len(partition) > 1 else partition
        yield each


def _mixed(
    logs: Iterable[np.ndarray], rows: int, spans: Sequence[slice], masses: np.ndarray,
    strangers: float,
) -> Iterator[np.ndarray]:  # fmt: skip
    """Log-likelihoods (rows, particles) where a share of the rows is by anyone of the prior's.

    Args:
        logs: of the rows of each span, if all were the user's own.
    """
    if not strangers:
        yield from logs
        return
    own = np.empty((rows, len(masses)), SINGLE)
    for span, log in zip(spans, logs, strict=True):
        np.exp(log, out=own[span])
    other = SINGLE(strangers) * (own @ masses)[:, None]
    for span in spans:
        part = own[span]
        part *= SINGLE(1 - strangers)
        part += other[span]
        yield np.log(part, out=part)


def _sum_of(rows: np.ndarray) -> np.ndarray:
    """(columns,) sum of at least one row: as exact as np.add.reduceat's, bit for bit, and far faster."""
    return rows[0] + _pairwise(rows[1:]) if len(rows) > 1 else rows[0]


def _pairwise(rows: np.ndarray) -> np.ndarray:
    """Sum over rows in eight parts, as numpy sums numbers that stand side by side."""
    count = len(rows)
    if count < 8:
        return rows.sum(0)
    if count > 128:
        half = count // 2 - count // 2 % 8
        return _pairwise(rows[:half]) + _pairwise(rows[half:])
    whole = count - count % 8
    parts = rows[:whole].reshape(-1, 8, rows.shape[1]).sum(0)
    while len(parts) > 1:
        parts = parts[::2] + parts[1::2]
    total = parts[0]
    for row in rows[whole:]:
        total += row
    return total


def _partition(base: np.ndarray, particles: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """(*scales, particles) log of the mean of exp(scale · w·r) over the base's answers."""
    found = np.zeros((*scales.shape, len(particles)), SINGLE)
    worth = base @ particles.T  # (answers, particles)
    for place in np.ndindex(scales.shape) if len(base) else ():
        found[place] = np.log(np.exp(SINGLE(scales[place]) * worth).mean(0))
    return found
