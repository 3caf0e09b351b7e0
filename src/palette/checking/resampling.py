"""The upper bound of the worst regret on certify, by resampling topics with draws of our own."""

from dataclasses import dataclass

import numpy as np

DRAWS = 4000
SEED = 20_260_404
STRAY = 4.0  # standard deviations of bootstrap noise that two right answers may lie apart


@dataclass(frozen=True)
class Upper:
    """The least ε that passes by the upper bound, and what noise of the draws leaves open."""

    middle: float
    low: float
    high: float


class Resampled:
    """Topics drawn with replacement, the same draws for every pair and every ε.

    Args:
        draws: how many the file's own bound took; with ours they say what noise may lie between.
    """

    def __init__(self, topics: np.ndarray, confidence: float, draws: int) -> None:
        _, self.topic = np.unique(topics, return_inverse=True)
        self.prompts = np.bincount(self.topic).astype(float)  # (T,)
        self.confidence, count = confidence, len(self.prompts)
        drawn = np.random.default_rng(SEED).integers(count, size=(DRAWS, count))
        self.times = np.stack([np.bincount(row, minlength=count) for row in drawn]).astype(float)
        self.total = self.times @ self.prompts  # (B,)
        noise = np.sqrt(confidence * (1 - confidence) * (1 / DRAWS + 1 / draws))
        self.levels = {
            "middle": confidence,
            "low": max(confidence - STRAY * noise, 0.0),
            "high": min(confidence + STRAY * noise, 1.0),
        }

    def upper(self, ideal: np.ndarray, worth: np.ndarray, delta: float) -> Upper:
        """The largest over pairs; ideal and worth (P, prompts), of each pair's policy and weights."""
        if len(self.prompts) < 2 or not np.isfinite(ideal).all():
            return Upper(np.inf, np.inf, np.inf)
        sums = [np.stack([np.bincount(self.topic, row) for row in x]) for x in (ideal, worth)]
        found = {}
        for name, level in self.levels.items():
            # the pairs that look worst first: after them, one look each says that the rest are better
            order = np.argsort(worth.sum(axis=1) / np.maximum(ideal.sum(axis=1), 1e-9))
            largest = 0.0
            for pair in order:
                largest = self._least(sums[0][pair], sums[1][pair], delta, level, largest)
                if largest == np.inf:
                    break
            found[name] = largest
        return Upper(**found)

    def _least(
        self, ideal: np.ndarray, worth: np.ndarray, delta: float, level: float, at_least: float
    ) -> float:
        """The least ε >= at_least whose bound is not positive, for one pair's sums by topic (T,)."""
        from scipy.optimize import brentq

        def bound(epsilon: float) -> float:
            return self._bound((1 - epsilon) * ideal - worth - delta * self.prompts, level)

        if bound(at_least) <= 0:
            return at_least
        return float(brentq(bound, at_least, 1.0, xtol=1e-7)) if bound(1.0) <= 0 else np.inf

    def _bound(self, sums: np.ndarray, level: float) -> float:
        """Mean plus its bootstrap-t allowance, never less than Student's; `sums` by topic (T,)."""
        from scipy.stats import t as student

        count, prompts = len(sums), self.prompts.sum()
        mean = sums.sum() / prompts
        apart = sums - mean * self.prompts
        inflate = np.sqrt(count / (count - 1))
        error = inflate * np.linalg.norm(apart) / prompts
        allowance = student.ppf(self.confidence, count - 1)
        if error > 1e-12:
            shift = self.times @ apart / self.total  # (B,)
            # Σ times·(apart − shift·prompts)², multiplied out
            square = (
                self.times @ apart**2
                - 2 * shift * (self.times @ (apart * self.prompts))
                + shift**2 * (self.times @ self.prompts**2)
            )
            spread = inflate * np.sqrt(np.maximum(square, 0)) / self.total
            ratios = np.full(DRAWS, np.inf)  # a draw of one topic alone says that anything may be
            np.divide(-shift, spread, out=ratios, where=spread > 1e-12)
            rank = min(int(np.ceil(level * (DRAWS - 1))), DRAWS - 1)
            allowance = max(allowance, np.partition(ratios, rank)[rank])
        return mean + allowance * error
