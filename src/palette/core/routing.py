"""Which member serves a user, and what the user may lose by it while the weights are uncertain."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np

from palette.core.envelope import Planes

TOLERANCE = 1e-9
USERS_AT_ONCE = 4096


@dataclass(frozen=True)
class Routes:
    """The routes of a batch of users; regrets are f* − J, in units of w·r."""

    member: np.ndarray
    """(users,) index into the planes"""
    regret: np.ndarray
    """(users,) at the estimated weights"""
    worst: np.ndarray
    """(users,) the largest over all weights in the user's interval"""


def route(
    planes: Planes,
    mean: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    ideal: Callable[[np.ndarray], np.ndarray],
) -> Routes:
    """Send every user to the member that is worth most at the estimated weights.

    A member's regret f*(w) − w·v + c is convex in w, so over a user's interval it is largest at a
    corner of the box cut with the simplex: finitely many points, no search.

    Args:
        planes: the members and the base; equals go to the first, so the base comes first.
        mean, low, high: (users, traits) estimated weights and the ends of their intervals,
            low ≤ mean ≤ high, within the region.
        ideal: f* at weights (points, traits), (points,).
    """
    member = planes.best(mean)
    regret = ideal(mean) - _worth(planes, member, mean)
    worst = regret.copy()
    for start in range(0, len(mean), USERS_AT_ONCE):
        some = slice(start, start + USERS_AT_ONCE)
        user, points = interval_corners(low[some], high[some])
        user = user + start
        # Users without rows share the prior's interval: ideal values are computed once for all.
        unique, place = np.unique(points.round(12), axis=0, return_inverse=True)
        losses = ideal(unique)[place.ravel()] - _worth(planes, member[user], points)
        np.maximum.at(worst, user, losses)
    return Routes(member, regret, worst)


def interval_corners(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of {low ≤ w ≤ high, Σw = 1} for many boxes at once.

    A corner has all coordinates but one at an end of their interval; the one left takes the rest.

    Args:
        low, high: (users, traits).

    Returns:
        (corners,) the user of each, ascending, and (corners, traits). A corner of several edges
        may occur more than once.
    """
    traits = low.shape[1]
    users, corners = [], []
    for free, ends in product(range(traits), product((False, True), repeat=traits - 1)):
        pick = np.insert(np.array(ends, bool), free, False)
        points = np.where(pick, high, low)
        points[:, free] += 1 - points.sum(1)
        inside = (points[:, free] >= low[:, free] - TOLERANCE) & (
            points[:, free] <= high[:, free] + TOLERANCE
        )
        users.append(np.flatnonzero(inside))
        corners.append(points[inside])
    user, points = np.concatenate(users), np.concatenate(corners)
    order = np.argsort(user, kind="stable")
    return user[order], points[order]


def _worth(planes: Planes, member: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(points,) J of one member per point at that point's weights."""
    return (weights * planes.values[member]).sum(1) - planes.costs[member]
