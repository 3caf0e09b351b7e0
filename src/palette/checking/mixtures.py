"""f* from the answers of one prompt after another, whoever gave them.

Where a member is routed, q = (n0·π_ref + n1·π_k)/(n0 + n1) is what its n1 answers and the base's n0
rollouts were drawn from together; each sample counts by π_ref/q.
"""

from dataclasses import dataclass
from math import gcd, log

import numpy as np

from palette.checking.sources import Split

FEW = 10  # samples per mode of the ideal policy, below which a prompt's coverage counts as thin
CHUNK = 300_000  # scores held at once


@dataclass(frozen=True)
class Sampled:
    """The samples of one prompt."""

    rewards: np.ndarray
    """(n, d)"""
    log_weights: np.ndarray
    """(n,): log(π_ref/q)"""
    membership: np.ndarray
    """(n, g): 1 where a sample belongs to a block; the g blocks are independent and alike"""


@dataclass(frozen=True)
class Mixture:
    """The samples of all prompts by which f* is judged where one policy is routed."""

    prompts: list[Sampled]
    beta: float

    def upward(self, weights: np.ndarray) -> np.ndarray:
        """(W, prompts): f* by the leave-one-block-out tangent of the log, in units of a reward.

        `β mean_b[B_b/Ẑ₋b − 1 + log Ẑ₋b]`; infinite where a block leaves nothing to the others.
        """
        return self.beta * np.stack([_upward(own, weights / self.beta) for own in self.prompts], 1)

    def plain(self, weights: np.ndarray) -> np.ndarray:
        """(W, prompts): f* by the log of the mean, which is convex in w."""
        found = [_scaled(own, weights / self.beta) for own in self.prompts]
        means = [top + np.log(parts.mean(axis=1)) for top, parts in found]
        return self.beta * np.stack(means, axis=1)

    def slopes(self, weights: np.ndarray) -> np.ndarray:
        """(W, d): the gradient of `plain`, averaged over prompts: mean rewards of π*_w."""
        total = np.zeros(weights.shape)
        for own in self.prompts:
            _, parts = _scaled(own, weights / self.beta)
            total += parts @ own.rewards / parts.sum(axis=1, keepdims=True)
        return total / len(self.prompts)

    def thin(self, weights: np.ndarray) -> np.ndarray:
        """(W,): the share of prompts where fewer than about FEW samples speak for π*_w."""
        scarce = np.zeros(len(weights))
        for own in self.prompts:
            _, parts = _scaled(own, weights / self.beta)
            shares = parts / parts.sum(axis=1, keepdims=True)
            entropy = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=1)
            scarce += entropy < log(FEW)  # KL to q above log(n/FEW), for KL = log n − entropy
        return scarce / len(self.prompts)


def mixtures(split: Split, names: list[str], beta: float) -> dict[str, Mixture]:
    """For every policy the samples that judge it; the base's rollouts alone where there is no more.

    Alone they also serve everyone where some member's numbers leave no two blocks.
    """
    alone = [
        Sampled(own.rewards, np.zeros(len(own.base)), np.eye(len(own.base)))
        for own in split.answers["base"]
    ]
    judged = dict.fromkeys(names, Mixture(alone, beta))
    divisors = [
        gcd(len(rollouts.base), len(own.base))
        for name in split.likelihoods
        for rollouts, own in zip(split.answers["base"], split.answers[name], strict=True)
    ]
    if divisors and min(divisors) > 1:
        judged |= {name: Mixture(_joined(split, name), beta) for name in split.likelihoods}
    return judged


def _joined(split: Split, name: str) -> list[Sampled]:
    return [
        _join(rollouts.rewards, own.rewards, likelihood - rollouts.base, own.own - own.base)
        for rollouts, own, likelihood in zip(
            split.answers["base"], split.answers[name], split.likelihoods[name], strict=True
        )
    ]


def _join(base: np.ndarray, own: np.ndarray, ratio: np.ndarray, own_ratio: np.ndarray) -> Sampled:
    """Rollouts and answers of a prompt, with log(π_k/π_ref) of each."""
    n0, n1 = len(base), len(own)
    blocks = gcd(n0, n1)
    ratios = np.concatenate([ratio, own_ratio])
    # log of (n0 + n1)/(n0 + n1·π_k/π_ref), without overflow where the ratio is huge
    high = np.maximum(ratios, 0)
    log_weights = log(n0 + n1) - high - np.log(n0 * np.exp(-high) + n1 * np.exp(ratios - high))
    number = np.concatenate([np.arange(n0), np.arange(n1)]) % blocks
    return Sampled(np.concatenate([base, own]), log_weights, np.eye(blocks)[number])


def _scaled(own: Sampled, tilt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log scale (W,) and samples' exp(w·r/β)·π_ref/q (W, n) in its units, the largest being 1."""
    scores = tilt @ own.rewards.T + own.log_weights
    top = scores.max(axis=1)
    return top, np.exp(scores - top[:, None])


def _upward(own: Sampled, tilt: np.ndarray) -> np.ndarray:
    count, blocks = own.membership.shape
    top, parts = _scaled(own, tilt)
    sums = parts if blocks == count else parts @ own.membership  # (W, g)
    others = sums.sum(axis=1, keepdims=True) - sums
    # the largest block's others by themselves: taken from the total they would cancel
    row, largest = np.arange(len(sums)), sums.argmax(axis=1)
    rest = sums.copy()
    rest[row, largest] = 0
    others[row, largest] = rest.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        leverage = ((blocks - 1) * sums / others).mean(axis=1)
        logs = np.log(others).mean(axis=1) + top - log(count * (blocks - 1) / blocks)
        return np.where((others > 0).all(axis=1), leverage - 1 + logs, np.inf)


class Mean:
    """f* averaged over prompts by the log of the mean, at many weights at once; convex in w."""

    def __init__(self, mixture: Mixture) -> None:
        rewards, logs, sizes = [], [], []
        for own in mixture.prompts:
            # equal rewards of a prompt are one sample of their joint weight
            distinct, which = np.unique(own.rewards, axis=0, return_inverse=True)
            mass = np.bincount(which.ravel(), weights=np.exp(own.log_weights)) / len(own.rewards)
            kept = mass > 0
            rewards.append(distinct[kept])
            logs.append(np.log(mass[kept]))
            sizes.append(kept.sum())
        self.rewards, self.logs, self.beta = np.vstack(rewards), np.concatenate(logs), mixture.beta
        self.sizes, self.starts = np.array(sizes), np.cumsum([0, *sizes[:-1]])

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """(W,), in units of a reward."""
        step = max(1, CHUNK // len(self.logs))
        parts = [self._mean(weights[at : at + step]) for at in range(0, len(weights), step)]
        return self.beta * np.concatenate(parts)

    def _mean(self, weights: np.ndarray) -> np.ndarray:
        scores = weights @ self.rewards.T / self.beta + self.logs
        top = np.maximum.reduceat(scores, self.starts, axis=1)  # (W, prompts)
        scores -= np.repeat(top, self.sizes, axis=1)
        sums = np.add.reduceat(np.exp(scores), self.starts, axis=1)
        return (top + np.log(sums)).mean(axis=1)
