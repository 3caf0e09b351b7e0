"""Optimistic linear support (Roijers, Whiteson and Oliehoek, JAIR 2015), a yardstick for planning.

It trains at a corner of the envelope known so far, the one where most may be gained: the upper limit
at a corner comes from a linear program over the values of the trainings before. It never sees f*
elsewhere, as `palette plan` does from the base's rollouts.
"""

import numpy as np

from palette.core.envelope import cells, pairs
from palette.core.moving import Setting

SAME = 1e-9  # below it a new plane is no gain


def support(setting: Setting, epsilon: float, most: int) -> tuple[np.ndarray, bool]:
    """(K, d): the weights trained for, in their order, until no corner may lose more than ε.

    An exact oracle: a training for w gives the ideal policy there, the tangent of f*. The base is
    known from the start. Also whether that many trainings, `most` at most, are enough.
    """
    region = setting.region
    planes, trained, values = setting.base(), np.empty((0, region.d)), np.empty(0)
    queue = {_key(corner): (np.inf, corner) for corner in region.vertices()}
    while queue:
        if len(trained) == most:
            return trained, False
        key = max(queue, key=lambda corner: (queue[corner][0], corner))
        weights = queue.pop(key)[1][None]
        trained = np.vstack([trained, weights])
        values = np.r_[values, setting.value(weights)]
        new = setting.ideal.tangents(weights, (str(len(trained)),))
        if (new.worth(weights)[:, 0] <= planes.worth(weights).max(axis=1) + SAME).all():
            continue
        before, planes = planes, planes + new
        queue = {k: entry for k, entry in queue.items() if not _beats(new, before, entry[1])}
        if len(trained) < region.d:
            continue  # the limits need all of W's own corners
        fresh = np.unique(pairs(cells(planes, region))[0], axis=0)
        known = {*map(_key, trained), *queue}
        for corner in fresh:
            if _key(corner) in known:
                continue
            limit = _limit(trained, values, corner)
            loss = 1 - planes.worth(corner).max() / limit if limit > 0 else 0.0
            if loss > epsilon:
                queue[_key(corner)] = (loss, corner)
    return trained, True


def _limit(trained: np.ndarray, values: np.ndarray, corner: np.ndarray) -> float:
    """The most that any policy can be worth at a corner, by the values of f* where it is known.

    The largest `w·v − c` of a plane that is nowhere above them; its dual interpolates them.
    """
    from scipy.optimize import linprog

    return float(linprog(values, A_eq=trained.T, b_eq=corner, method="highs").fun)


def _beats(new, before, corner: np.ndarray) -> bool:
    """Whether the new plane makes a corner of the envelope obsolete (W's own corners stay)."""
    is_vertex = (corner > corner.sum() - SAME).any()
    return not is_vertex and new.worth(corner)[0] > before.worth(corner).max() + SAME


def _key(weights: np.ndarray) -> tuple[float, ...]:
    return tuple(np.round(weights, 7) + 0.0)
