"""Which member serves a user, and what the user may lose by it while the weights are uncertain."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np

from palette.core.envelope import Planes

TOLERANCE = 1e-9
NUMBERS_AT_ONCE = 8_000_000  # held for one batch of users: some 64 MB in each array


@dataclass(frozen=True)
class Regrets:
    """What users lose with each member: f* − J, in units of w·r; (users, K) each."""

    at_mean: np.ndarray
    """at the estimated weights"""
    worst: np.ndarray
    """the largest over all weights in the user's interval"""


def regrets(
    planes: Planes,
    mean: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    ideal: Callable[[np.ndarray], np.ndarray],
) -> Regrets:
    """Regret of every user with every member.

    A member's regret f*(w) − w·v + c is convex in w, so over a user's interval it is largest at a
    corner of the box cut with the simplex: finitely many points, no search. f* there is the same
    for all members.

    Args:
        planes: K policies, the base among them.
        mean, low, high: (users, traits) estimated weights and the ends of their intervals,
            low ≤ mean ≤ high, within the region: floors are in `low`.
        ideal: f* at weights (points, traits), (points,); convex.
    """
    count, traits = mean.shape
    at_mean = np.empty((count, len(planes)))
    worst = np.empty_like(at_mean)
    candidates = traits * 2 ** (traits - 1)
    step = max(1, NUMBERS_AT_ONCE // (candidates * max(traits, len(planes))))
    for start in range(0, count, step):
        some = slice(start, start + step)
        at_mean[some] = ideal(mean[some])[:, None] - planes.worth(mean[some])
        user, points = interval_corners(low[some], high[some])
        # Users without rows share the prior's interval: ideal values are computed once for all.
        unique, place = np.unique(points.round(12), axis=0, return_inverse=True)
        losses = (ideal(unique)[:, None] - planes.worth(unique))[place.ravel()]
        # The mean too: an interval narrower than floats tell apart may have no other corner.
        own = at_mean[some].copy()
        first = np.flatnonzero(np.diff(user, prepend=-1))
        if len(first):
            largest = np.maximum.reduceat(losses, first)
            own[user[first]] = np.maximum(own[user[first]], largest)
        worst[some] = own
    return Regrets(at_mean, worst)


def choose(
    found: Regrets, rule: str, previous: np.ndarray | None = None, hysteresis: float = 0.0
) -> np.ndarray:
    """(users,): the member that serves each user.

    `robust` takes the least worst regret over the user's interval (minimax regret), `mean` the
    least regret at the estimate. Ties go to the one best at the mean, then to the first: put the
    base first.

    Args:
        previous: (users,), the member that served each user before, −1 where there is none. It
            goes on unless another one is better by more than `hysteresis`, in units of w·r.
    """
    score = found.worst if rule == "robust" else found.at_mean
    member = _least(found.at_mean, among=_near_least(score)).argmax(axis=1)
    if previous is None:
        return member
    users = np.arange(len(member))
    known = previous >= 0
    stays = known & (score[users, np.where(known, previous, 0)] <= score.min(axis=1) + hysteresis)
    return np.where(stays, previous, member)


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


def _near_least(score: np.ndarray) -> np.ndarray:
    """(users, K) bool: which members have the least score, but for the noise of floats."""
    return score <= score.min(axis=1, keepdims=True) + TOLERANCE


def _least(score: np.ndarray, among: np.ndarray) -> np.ndarray:
    """(users, K) bool: the same, among some of the members."""
    return among & _near_least(np.where(among, score, np.inf))
