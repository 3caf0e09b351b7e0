"""The ideal value f*(w), estimated at every w at once from scored samples.

`f*(w) = β E_x log E_{y~π_ref} exp(w·r(x, y)/β)` is the best that any policy can reach; it needs no
training, is convex, and its gradient is the mean reward of the policy that reaches it. The base's
rollouts suffice; samples of other policies join them by importance weights (`core/mixture.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from palette.core.atoms import Atoms, shared
from palette.core.envelope import Planes

CHUNK = 200_000  # scores held at once: more leave the cache, and slow down


@dataclass(frozen=True)
class Ideal:
    """Scored samples, and what they say about f*. All results are in units of a reward."""

    rewards: np.ndarray
    """(prompts, samples, d)"""
    beta: float
    """price of one nat of KL to the base"""
    log_weights: np.ndarray | None = None
    """(prompts, samples): log(π_ref/q) of samples drawn from q; −inf where there is no sample"""
    blocks: np.ndarray | None = None
    """(prompts,): into how many equal runs of consecutive samples each prompt's fall, so that the runs
    are independent and alike (a stratified mixture's single samples are not); None: each its own"""
    atoms: Atoms | None = None
    """the same samples as a list of rewards that the prompts share; None: they share too few"""

    @property
    def counts(self) -> np.ndarray:
        """(prompts,): samples of each prompt."""
        if self.log_weights is None:
            return np.full(len(self.rewards), self.rewards.shape[1])
        return np.isfinite(self.log_weights).sum(axis=1)

    def condensed(self) -> "Ideal":
        """The same plug-in estimates from fewer rows: equal rewards of a prompt become one.

        Rewards are often few numbers (a joke or none), and planning asks for f* thousands of times.
        Not for `upward`, nor for `counts`, which speak of single samples.
        """
        log_weights = self.log_weights
        if log_weights is None:
            log_weights = np.zeros(self.rewards.shape[:2])
        parts = []
        for rewards, own, count in zip(self.rewards, np.exp(log_weights), self.counts, strict=True):
            real = own > 0
            distinct, which = np.unique(rewards[real], axis=0, return_inverse=True)
            mass = np.bincount(which.ravel(), weights=own[real]) / count
            parts.append((distinct, np.log(mass * len(distinct))))
        longest = max(len(distinct) for distinct, _ in parts)
        rewards = np.zeros((len(parts), longest, self.rewards.shape[2]))
        condensed = np.full((len(parts), longest), -np.inf)
        for row, (distinct, weights) in enumerate(parts):
            rewards[row, : len(distinct)] = distinct
            condensed[row, : len(distinct)] = weights
        counts = np.isfinite(condensed).sum(axis=1)
        return Ideal(
            rewards, self.beta, condensed, atoms=shared(rewards, condensed, counts, self.beta)
        )

    def base(self) -> np.ndarray:
        """(prompts, d): mean rewards of the base itself."""
        if self.log_weights is None:
            return self.rewards.mean(axis=1)
        shares = np.exp(self.log_weights) / self.counts[:, None]
        return np.einsum("nm,nmd->nd", shares, np.nan_to_num(self.rewards))

    def value(self, weights: np.ndarray) -> np.ndarray:
        """(W, prompts): plug-in estimate of f* at weights (W, d). Convex in w; errs downward."""
        if self.atoms is not None:
            return self.atoms.value(weights)
        result = np.empty((len(weights), len(self.rewards)))
        for rows, prompt, _, scores in self._scores(weights):
            result[rows, prompt] = _log_sum(scores) - np.log(scores.shape[1])
        return self.beta * result

    def upward(self, weights: np.ndarray) -> np.ndarray:
        """(W, prompts): estimate of f* whose expectation is at least f*, whatever the sample size.

        The leave-one-out tangent of the log: log Z <= log a + Z/a − 1 for every a > 0, with a the
        mean of all other blocks, which block b does not know. Infinite where one block outweighs all
        others beyond what a float can hold.

        Raises:
            ValueError: a prompt has fewer than two blocks.
        """
        blocks = self.counts if self.blocks is None else self.blocks
        if blocks.min() < 2:
            raise ValueError("the upward-erring estimate needs two samples of every prompt")
        result = np.empty((len(weights), len(self.rewards)))
        for rows, prompt, _, scores in self._scores(weights):
            means = _log_mean_of_runs(scores, int(blocks[prompt]))
            others = _log_sum_of_others(means) - np.log(blocks[prompt] - 1)
            with np.errstate(over="ignore"):
                result[rows, prompt] = (np.exp(means - others) - 1 + others).mean(axis=1)
        return self.beta * result

    def concentration(self, weights: np.ndarray) -> np.ndarray:
        """(W, prompts): KL of π*_w to what the samples were drawn from, nats, by the samples.

        `Σ p_j log(N p_j)` over the N samples, with p_j their normalised weights under π*_w; it can
        not exceed log N, and nears it where one sample speaks for all. With the base's own samples
        it is the KL to the base that `policy` gives.
        """
        result = np.empty((len(weights), len(self.rewards)))
        for rows, prompt, _, scores in self._scores(weights):
            total = _log_sum(scores)
            shares = np.exp(scores - total[:, None])
            entropy = -(shares * np.where(shares > 0, scores - total[:, None], 0)).sum(axis=1)
            result[rows, prompt] = np.log(scores.shape[1]) - entropy
        return np.maximum(result, 0)

    def policy(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the ideal policies π*_w do: mean rewards (W, prompts, d), KL to base (W, prompts).

        Both are plug-in estimates, so that `w·v − β·KL` is exactly `value(w)`. KL in nats; it can
        not exceed the log of the number of samples, and nears it where samples are too few.
        """
        if self.atoms is not None:
            return self.atoms.policy(weights)
        means = np.empty((len(weights), len(self.rewards), self.rewards.shape[2]))
        value = np.empty(means.shape[:2])
        for rows, prompt, rewards, scores in self._scores(weights):
            total = _log_sum(scores)
            means[rows, prompt] = np.exp(scores - total[:, None]) @ rewards
            value[rows, prompt] = self.beta * (total - np.log(scores.shape[1]))
        reward = np.einsum("wd,wnd->wn", weights, means)
        return means, np.maximum(reward - value, 0) / self.beta

    def curvature(self, weights: np.ndarray) -> np.ndarray:
        """(W, d, d): the Hessian of f*, averaged over prompts: Cov of r under π*_w, over β."""
        if self.atoms is not None:
            return self.atoms.curvature(weights)
        weights = np.asarray(weights, dtype=float)
        d = self.rewards.shape[2]
        result = np.zeros((len(weights), d, d))
        for rows, _, rewards, scores in self._scores(weights):
            shares = np.exp(scores - _log_sum(scores)[:, None])
            mean = shares @ rewards
            squares = (rewards[:, :, None] * rewards[:, None, :]).reshape(len(rewards), d * d)
            second = (shares @ squares).reshape(-1, d, d)
            result[rows] += second - mean[:, :, None] * mean[:, None, :]
        return result / (len(self.rewards) * self.beta)

    def tangents(self, weights: np.ndarray, names: tuple[str, ...]) -> Planes:
        """The planes of the ideal policies trained for the weights (W, d): tangents of f*."""
        means, kl = self.policy(weights)
        return Planes(names, means.mean(axis=1), self.beta * kl.mean(axis=1))

    def _scores(self, weights: np.ndarray) -> Iterator[tuple[slice, int, np.ndarray, np.ndarray]]:
        """(rows of weights, prompt, its rewards (m, d), w·r/β + log weight (rows, m)), by chunk."""
        weights = np.asarray(weights, dtype=float)
        for prompt, rewards in enumerate(self.rewards):
            extra = 0.0
            if self.log_weights is not None:
                real = np.isfinite(self.log_weights[prompt])
                rewards, extra = rewards[real], self.log_weights[prompt][real]
            step = max(1, CHUNK // len(rewards))
            for start in range(0, len(weights), step):
                rows = slice(start, start + step)
                yield rows, prompt, rewards, weights[rows] @ rewards.T / self.beta + extra


def _log_sum(scores: np.ndarray) -> np.ndarray:
    """(rows,): log of the sum of exp over the columns; −inf for columns that are all −inf."""
    top = scores.max(axis=1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(scores - top).sum(axis=1)) + top[:, 0]


def _log_mean_of_runs(scores: np.ndarray, runs: int) -> np.ndarray:
    """(rows, runs): log of the mean of exp over each of the equal runs of consecutive columns."""
    rows, columns = scores.shape
    if runs == columns:
        return scores
    length = columns // runs
    if length * runs != columns:
        raise ValueError(f"{columns} samples do not fall into {runs} blocks of one size")
    return _log_sum(scores.reshape(rows * runs, length)).reshape(rows, runs) - np.log(length)


def _log_sum_of_others(scores: np.ndarray) -> np.ndarray:
    """(rows, m): for each column the log of the sum of exp over all other columns.

    The largest column's others are summed afresh: taking it from the total would cancel. Every
    other column holds at most half of the total, where the subtraction is safe.
    """
    row, top = np.arange(len(scores)), scores.argmax(axis=1)
    rest = scores.copy()
    rest[row, top] = -np.inf
    without_top = _log_sum(rest)
    total = np.logaddexp(scores[row, top], without_top)[:, None]
    share = np.minimum(np.exp(scores - total), 0.5)
    others = total + np.log1p(-share)
    others[row, top] = without_top
    return others
