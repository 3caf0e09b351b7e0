"""Intervals of means over users: which users there are is what is uncertain, not what they got."""

import numpy as np

from palette.params import Evaluation

LEAST = 10
"""Users below whom an interval is no ground to say that one method is ahead of another."""


def resampled(sample: np.ndarray, settings: Evaluation) -> np.ndarray:
    """(bootstrap, measures): means of users drawn again, from (users, measures).

    The same seed every time: samples of as many users are drawn in pairs.
    """
    users, rng = len(sample), np.random.default_rng(settings.seed)
    drawn = rng.multinomial(users, np.full(users, 1 / users), size=settings.bootstrap) / users
    return drawn @ sample


def ends(
    replicates: np.ndarray, users: int, settings: Evaluation
) -> tuple[float | None, float | None]:
    """Of the percentile interval; None where one user, or a number that is none, leaves no ground."""
    if users < 2 or not np.isfinite(replicates).all():
        return None, None
    tail = (1 - settings.confidence) / 2
    low, high = np.quantile(replicates, (tail, 1 - tail))
    return low, high
