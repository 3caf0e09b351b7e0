"""The verdict: does the routed portfolio hold (ε, δ) at every w of W, and with what confidence?"""

from dataclasses import dataclass

import numpy as np

from palette.core.covering import least_epsilon

ROOT = 1e-6  # to which a bound's root in ε is found
REPEAT = np.sqrt(2)  # standard errors by which two looks at the same mean differ
CHUNK = 1_000_000  # bootstrap means held at once, in each of some six arrays
FEW = 10  # samples per mode of the ideal policy below which its estimate is not to be trusted


@dataclass(frozen=True)
class Evidence:
    """What the certify prompts say of every (vertex, member routed there), fixed on select."""

    ideal: np.ndarray
    """(P, prompts): upward-erring f* of each prompt at each pair's weights"""
    worth: np.ndarray
    """(P, prompts): the routed member's `w·v − c` on the same prompts"""
    topics: np.ndarray
    """(prompts,): resampled whole, for prompts of one topic are not independent"""


@dataclass(frozen=True)
class Verdict:
    epsilon: float
    """requested"""
    delta: float
    """requested"""
    confidence: float
    epsilon_point: float
    """the least ε that passes at δ by the point estimate"""
    epsilon_upper: float
    """the least ε that passes at δ by the upper bound; infinite where there is none"""
    passed: bool
    """epsilon_upper <= epsilon, and the bound at epsilon itself holds"""
    worst: int
    """index of the pair that decides epsilon_point"""
    additive: float
    """f* − J there"""
    multiplicative: float
    """1 − J/f* there"""
    upper: float
    """the least ε that passes there by the upper bound"""


def verdict(
    evidence: Evidence, epsilon: float, delta: float, confidence: float, draws: int, seed: int
) -> Verdict:
    """Judge `J >= (1 − ε) f* − δ` over all of W from finitely many paired means.

    On a cell `(1 − ε) f* − plane − δ` is convex, so its worst over W is the largest of its means at
    the vertices. Each mean gets its own upper bound at the asked confidence, by the studentised
    bootstrap over topics, and the largest of these bounds the largest mean: whichever pair is truly
    the worst is fixed before the certify prompts are seen, and its own bound alone must hold (an
    intersection-union test: no correction for the number of pairs is needed). The same draws serve
    every pair and every ε.
    """
    ideal, worth = evidence.ideal.mean(axis=1), evidence.worth.mean(axis=1)
    points = least_epsilon(ideal, worth, delta)
    worst = int(points.argmax())
    bound = UpperBound(evidence, delta, confidence, draws, seed)
    upper = bound.least_epsilon(worst)
    epsilon_upper = bound.largest_epsilon(worst, upper)
    return Verdict(
        epsilon=epsilon,
        delta=delta,
        confidence=confidence,
        epsilon_point=float(points[worst]),
        epsilon_upper=epsilon_upper,
        # A bound need not fall with ε at every step: it must hold at the very ε that was asked for.
        passed=epsilon_upper <= epsilon and bool(bound(epsilon).max() <= ROOT),
        worst=worst,
        additive=float(ideal[worst] - worth[worst]),
        multiplicative=float(1 - worth[worst] / ideal[worst]) if ideal[worst] > 0 else np.inf,
        upper=upper,
    )


def confidence_of_look(confidence: float, looks: int) -> float:
    """The confidence that the k-th look at certify is judged at: 1 − α/2^(k−1).

    All looks together then err with probability below 2α, the k-th alone with at most α/2^(k−1).
    """
    return 1 - (1 - confidence) / 2 ** (looks - 1)


class UpperBound:
    """An upper bound of the mean of `(1 − ε) f* − J − δ` at each pair, for any ε."""

    def __init__(
        self, evidence: Evidence, delta: float, confidence: float, draws: int, seed: int
    ) -> None:
        _, topic = np.unique(evidence.topics, return_inverse=True)
        self.size = np.bincount(topic).astype(float)  # (T,) prompts per topic
        of_topic = (topic == np.arange(len(self.size))[:, None]).astype(float)  # (T, prompts)
        self.finite = bool(np.isfinite(evidence.ideal).all())
        self.ideal = of_topic @ np.where(np.isfinite(evidence.ideal), evidence.ideal, 0).T  # (T, P)
        self.worth = of_topic @ evidence.worth.T
        self.delta, self.confidence = delta, confidence
        count = len(self.size)
        rng = np.random.default_rng(seed)
        self.drawn = rng.multinomial(count, np.full(count, 1 / count), size=draws).astype(float)

    def __call__(self, epsilon: float, pairs: np.ndarray | slice = slice(None)) -> np.ndarray:
        """(P,): infinite where too few topics, or an infinite f*, leave no bound at all."""
        mean, error, quantile = self.parts(epsilon, pairs)
        return mean + quantile * error

    def foreseen(self, epsilon: float) -> np.ndarray:
        """(P,): what a bound on other prompts is likely to stay below, seen from these prompts."""
        mean, error, quantile = self.parts(epsilon)
        return np.where(error > 0, mean + (quantile + REPEAT) * error, mean)

    def least_epsilon(self, pair: int) -> float:
        """The least ε in [0, 1] at which this pair's bound is at most 0; infinite if there is none."""
        from scipy.optimize import brentq

        def bound(epsilon: float) -> float:
            return float(self(epsilon, np.array([pair]))[0])

        if bound(0.0) <= 0:
            return 0.0
        if not bound(1.0) <= 0:
            return float("inf")
        return float(brentq(bound, 0.0, 1.0, xtol=1e-7))

    def largest_epsilon(self, pair: int, epsilon: float) -> float:
        """The largest of all pairs' `least_epsilon`, of which that of one pair is known.

        A pair whose bound holds at the largest ε found so far can not raise it, so that few are
        ever solved for: the more, the nearer the first was to the largest.
        """
        rest = np.delete(np.arange(self.ideal.shape[1]), pair)
        while len(rest) and np.isfinite(epsilon):
            bounds = self(epsilon, rest)
            rest, bounds = rest[~(bounds <= 0)], bounds[~(bounds <= 0)]
            if len(rest):
                lead = bounds.argmax()
                epsilon = max(epsilon, self.least_epsilon(rest[lead]))
                rest = np.delete(rest, lead)
        return epsilon

    def parts(
        self, epsilon: float, pairs: np.ndarray | slice = slice(None)
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Means, their standard errors over topics, and how many of these to add: (P,) each."""
        chosen = np.arange(self.ideal.shape[1])[pairs]
        step = max(1, CHUNK // len(self.drawn))
        few = [chosen[start : start + step] for start in range(0, len(chosen), step)]
        found = zip(*(self._parts(epsilon, part) for part in few), strict=True)
        mean, error, quantile = map(np.concatenate, found)
        return mean, error, quantile

    def _parts(
        self, epsilon: float, pairs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        count, prompts = len(self.size), self.size.sum()
        sums = (1 - epsilon) * self.ideal[:, pairs] - self.worth[:, pairs]
        sums -= self.delta * self.size[:, None]
        mean = sums.sum(axis=0) / prompts
        if count < 2 or not self.finite:
            return mean, np.full(len(mean), np.inf), np.full(len(mean), np.inf)
        centred = sums - self.size[:, None] * mean  # (T, P), each pair adds up to 0
        error = np.sqrt((centred**2).sum(axis=0) * count / (count - 1)) / prompts
        return mean, error, self._quantile(centred, error)

    def _quantile(self, centred: np.ndarray, error: np.ndarray) -> np.ndarray:
        """(P,): quantiles of each pair's studentised error over the draws of topics.

        Never less than Student's: with few topics the bootstrap is too narrow.
        """
        from scipy.stats import t as student

        count = len(self.size)
        result = np.full(len(error), float(student.ppf(self.confidence, count - 1)))
        noisy = np.flatnonzero(error > 1e-12)
        if not len(noisy):
            return result
        total = self.drawn @ self.size  # (B,) prompts in each draw
        part = centred[:, noisy]
        shift = self.drawn @ part / total[:, None]  # (B, P) drawn mean less the mean
        spread = self.drawn @ part**2
        spread -= 2 * shift * (self.drawn @ (part * self.size[:, None]))
        spread += shift**2 * (self.drawn @ self.size**2)[:, None]
        own = np.sqrt(np.maximum(spread, 0) * count / (count - 1)) / total[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            # a draw of one topic alone has no spread: it says that anything may be
            studentised = np.where(own > 1e-12, -shift / own, np.inf)
        drawn = np.quantile(studentised, self.confidence, axis=0, method="higher")
        result[noisy] = np.maximum(result[noisy], drawn)
        return result


def thin_coverage(concentration: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """(W,): the share of prompts whose samples are too few for the ideal policy at each w.

    Weights that concentrate by KL nats leave about `samples·exp(−KL)` samples to speak for π*_w;
    below FEW of them f* rests on a handful of answers. A mode that no sample has does not show.

    Args:
        concentration: (W, prompts), KL of π*_w to what the samples were drawn from, nats, by the
            samples themselves (`Ideal.concentration`).
        samples: (prompts,), how many there are.
    """
    return (concentration > np.log(samples / FEW)).mean(axis=1)
