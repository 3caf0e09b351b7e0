"""The upper bound of the worst regret on certify, by resampling topics.

Twice: by the very draws that the file names, where it must be the same number, and by draws of our
own, where it must be the same but for the noise of the draws.
"""

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


def our_draws(topics: np.ndarray) -> np.ndarray:
    """(DRAWS, T): how often each topic is drawn, in the order of their names."""
    count = len(np.unique(topics))
    drawn = np.random.default_rng(SEED).integers(count, size=(DRAWS, count))
    return np.stack([np.bincount(row, minlength=count) for row in drawn])


def their_draws(topics: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """(draws, T): the same as whoever wrote the file drew, by what its certificate says of it."""
    count = len(np.unique(topics))
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)


def stray(confidence: float, draws: int) -> float:
    """How far a level may lie from the confidence, for noise in our draws and in so many others."""
    return STRAY * float(np.sqrt(confidence * (1 - confidence) * (1 / DRAWS + 1 / draws)))


class Resampled:
    """Topics drawn with replacement, the same draws for every pair and every ε.

    Args:
        topics: (prompts,).
        times: (B, T), how often each topic is drawn, in the order of their names.
    """

    def __init__(self, topics: np.ndarray, confidence: float, times: np.ndarray) -> None:
        _, self.topic = np.unique(topics, return_inverse=True)
        self.prompts = np.bincount(self.topic).astype(float)  # (T,)
        self.confidence, self.times = confidence, times.astype(float)
        self.total = self.times @ self.prompts  # (B,)

    def upper(
        self, ideal: np.ndarray, worth: np.ndarray, delta: float, stray: float = 0.0
    ) -> Upper:
        """The largest over pairs; ideal and worth (P, prompts), of each pair's policy and weights.

        Args:
            stray: how far the levels of `low` and `high` lie from the confidence.
        """
        if len(self.prompts) < 2 or not np.isfinite(ideal).all():
            return Upper(np.inf, np.inf, np.inf)
        sums = self._by_topic(ideal), self._by_topic(worth)
        # the pairs that look worst first: after them, one look each says that the rest are better
        order = np.argsort(worth.sum(axis=1) / np.maximum(ideal.sum(axis=1), 1e-9))
        levels = [self.confidence, self.confidence - stray, self.confidence + stray]
        levels = np.clip(levels, 0, 1).tolist()
        found = {}
        for level in set(levels):
            largest = 0.0
            for pair in order:
                largest = self._least(sums[0][pair], sums[1][pair], delta, level, largest)
                if largest == np.inf:
                    break
            found[level] = largest
        return Upper(*(found[level] for level in levels))

    def bound(self, ideal: np.ndarray, worth: np.ndarray, delta: float, epsilon: float) -> float:
        """The largest bound of the mean of `(1 − ε) f* − J − δ` over the pairs, at one ε."""
        if len(self.prompts) < 2 or not np.isfinite(ideal).all():
            return np.inf
        sums = self._by_topic((1 - epsilon) * ideal - worth - delta)
        return max(self._bound(pair, self.confidence) for pair in sums)

    def _by_topic(self, of_prompts: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(self.topic, row) for row in of_prompts])

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
            ratios = np.full(
                len(shift), np.inf
            )  # a draw of one topic alone says that anything may be
            np.divide(-shift, spread, out=ratios, where=spread > 1e-12)
            rank = int(np.ceil(level * (len(ratios) - 1)))
            allowance = max(allowance, np.partition(ratios, rank)[rank])
        return mean + allowance * error
