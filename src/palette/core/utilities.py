"""Utilities that are not linear in the traits: is a member chosen by w·r a good one under them?

Weighted power means run from the linear model (p = 1) to the worst trait (p → −∞): the lower p,
the less a good trait makes up for a bad one.
"""

from collections.abc import Callable, Mapping

import numpy as np

from palette.core.envelope import Planes

COUNTS = 0.05  # a trait of less weight than this can not be a user's worst one

Utility = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""weights (U, d), values (K, d) → what each policy is worth to each user, before costs (U, K)"""


def power_mean(weights: np.ndarray, values: np.ndarray, p: float) -> np.ndarray:
    """(U, K): (Σ wᵢ vᵢᵖ)^(1/p); at p = 0 its limit, the geometric mean.

    A value of 0 of a trait that counts makes all of it 0 when p ≤ 0. Values below 0 have no power
    mean and are taken as 0.

    Args:
        weights: (U, d), at least 0, adding up to 1.
        values: (K, d).
    """
    values = np.maximum(values, 0)
    zero = values < np.finfo(float).tiny  # what is smaller has no inverse
    some = np.where(zero, 1.0, values)
    if p > 0:
        return (weights @ (values**p).T) ** (1 / p)
    if p == 0:
        mean = np.exp(weights @ np.log(some).T)
    else:
        # Some trait has weight, so the sum is 0 only where a value of 0 is all there is.
        total = weights @ np.where(zero, 0.0, some**p).T
        mean = np.where(total > 0, total, 1.0) ** (1 / p)
    return np.where(weights @ zero.T > 0, 0.0, mean)


def worst_trait(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(U, K): the least value among the traits that a user gives a weight above COUNTS.

    Where no weight is above it, among those above half of the largest.
    """
    least = np.minimum(COUNTS, weights.max(axis=1) / 2)
    result = np.full((len(weights), len(values)), np.inf)
    for own, value in zip(weights.T, values.T, strict=True):
        counted = np.where((own > least)[:, None], value, np.inf)
        result = np.minimum(result, counted)
    return result


UTILITIES: Mapping[str, Utility] = {
    "linear": lambda weights, values: weights @ values.T,
    "p0.5": lambda weights, values: power_mean(weights, values, 0.5),
    "p0": lambda weights, values: power_mean(weights, values, 0),
    "p-1": lambda weights, values: power_mean(weights, values, -1),
    "worst": worst_trait,
}


def utility(name: str, weights: np.ndarray, planes: Planes) -> np.ndarray:
    """(U, K): what each policy is worth to users with weights (U, d), less its cost c."""
    return UTILITIES[name](weights, planes.values) - planes.costs


def losses(routed: np.ndarray, best: np.ndarray) -> np.ndarray:
    """1 − routed / best, elementwise; never clipped.

    Where the best is worth nothing there is nothing to lose a part of: 0 for those who have it, 1
    for those with less.
    """
    part = np.divide(routed, best, out=np.zeros(np.shape(best)), where=best > 0)
    return np.where(best > 0, 1 - part, np.where(routed < best, 1.0, 0.0))
