"""From scores of any scale to rewards in [0, 1]: affine, so that differences keep their proportions."""

import numpy as np

LEVELS = (0.01, 0.99)
"""Quantiles of the base's scores that come to mean 0 and 1. The largest and smallest scores would be
those of a single answer each, and others in every sample."""


def ends(scores: np.ndarray) -> tuple[float, float]:
    """The scores that are to mean 0 and 1, from scores (rows,) of the base's answers.

    Raises:
        ValueError: nearly all scores are the same, so that there is no scale in them.
    """
    low, high = (float(end) for end in np.quantile(scores, LEVELS))
    if not high > low:
        raise ValueError(f"at least {LEVELS[1] - LEVELS[0]:.0%} of the scores are {low:g}")
    return low, high


def rewards(scores: np.ndarray, low: float, high: float) -> np.ndarray:
    """(rows,) (score − low)/(high − low), cut off at 0 and 1. `low` may be above `high`: less is better."""
    return np.clip((scores - low) / (high - low), 0.0, 1.0)
