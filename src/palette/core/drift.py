"""Have users' tastes moved away from those that they were routed on, and does it cost them anything?

A user whose taste is as it was writes new rows that the posterior from the old ones foretells. One
whose taste is another writes rows that only the group's prior foretells. The ratio of the two
marginal likelihoods has mean 1 while no taste moves, so its product over users is evidence in the
sense of a test martingale (Shafer and others 2011): it reaches 100 with probability 1/100 at most,
however often one looks while rows come in. No form of posterior is assumed, and no interval.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit, logsumexp

from palette.core.choices import Choices, Chooser, Prior, likelihoods
from palette.core.envelope import Planes

SURE = 100.0
"""Evidence that is believed: it errs once in a hundred references at most."""
SHARES = np.array([0.02, 0.05, 0.1, 0.2, 0.4])
"""Of users whose taste may have moved: evidence is the mean over them, as none is known."""


@dataclass(frozen=True)
class Change:
    """What users' new rows say of their tastes."""

    log_evidence: float
    """natural logarithm of the evidence that some tastes have moved"""
    probability: np.ndarray
    """(users,) that a user's taste is another than it was"""
    mean: np.ndarray
    """(users, traits) expected weights now: by new rows alone where the taste is another"""


@dataclass(frozen=True)
class Drift:
    """How far tastes have moved, and what staying with the old routes costs."""

    users: int
    """with new rows, and a route then"""
    changed: float
    """expected share of them whose taste is another"""
    log_evidence: float
    """that some have moved; natural logarithm"""
    loss: float
    """mean over them of what the old member is worth less than the best, in units of w·r"""
    worst: float
    """the largest of these losses"""
    bearable: float
    """mean loss up to which nobody is moved for it"""

    @property
    def drifted(self) -> bool:
        return self.log_evidence >= math.log(SURE) and self.loss > self.bearable


def changes(prior: Prior, chooser: Chooser, then: Choices, new: Choices, users: int) -> Change:
    """Compare users' new rows with what their old ones foretell.

    Args:
        prior, chooser: the group's, from the old rows.
        then, new: choices of users 0 to `users` - 1, in their old and in their new rows.
    """
    # One account of what the base says, or old and new rows would be measured differently.
    new = replace(new, base=then.base)
    both = _joined(then, new)
    ratio = np.empty(users)
    moved, stayed = (np.empty((users, prior.particles.shape[1])) for _ in range(2))
    blocks = (likelihoods(choices, users, prior, chooser) for choices in (then, new, both))
    for (some, old), (_, fresh), (_, whole) in zip(*blocks, strict=True):
        before, after, together = (np.log(prior.masses) + log for log in (old, fresh, whole))
        ratio[some] = _total(after) + _total(before) - _total(together)
        moved[some] = _mean(after, prior)
        stayed[some] = _mean(together, prior)
    # (shares, users): each user's evidence where such a share of users has moved
    each = np.logaddexp(np.log1p(-SHARES)[:, None], np.log(SHARES)[:, None] + ratio)
    total = each.sum(axis=1)
    weight = np.exp(total - logsumexp(total))
    evidence = float(logsumexp(total) - np.log(len(SHARES)))
    # That none has moved is as likely beforehand as that some have.
    chances = expit(np.log(SHARES / (1 - SHARES))[:, None] + ratio)
    probability = expit(evidence) * (weight @ chances)
    mean = stayed + probability[:, None] * (moved - stayed)
    return Change(evidence, probability, mean)


def losses(offered: Planes, served: Planes, member: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(users,): how much less the member that served a user is worth than the best one offered.

    A worth is linear in the weights, so at expected weights this is the loss to expect; negative
    where what served is offered no more and was better.

    Args:
        offered: the base and the members of the portfolio now.
        served: the policies that users were routed to.
        member: (users,) indices into `served`.
        weights: (users, traits), now.
    """
    own = served.worth(weights)[np.arange(len(weights)), member]
    return offered.worth(weights).max(axis=1) - own


def _joined(first: Choices, second: Choices) -> Choices:
    """The choices of both; what the base says is the first's."""
    parts = first, second
    return Choices(
        np.concatenate([part.user for part in parts]),
        np.concatenate([part.difference for part in parts]),
        np.concatenate([part.liking for part in parts]),
        np.concatenate([part.weight for part in parts]),
        np.concatenate([part.paired for part in parts]),
        first.base,
    )


def _total(log: np.ndarray) -> np.ndarray:
    """(rows,): log of the masses that log masses (rows, particles) add up to."""
    return np.asarray(logsumexp(log, axis=1))


def _mean(log: np.ndarray, prior: Prior) -> np.ndarray:
    """(rows, traits): the mean weights under log masses (rows, particles)."""
    return np.asarray(np.exp(log - _total(log)[:, None]) @ prior.particles)
