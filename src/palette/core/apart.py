"""Weights so far apart that no policy serves two of them: a quick bound on a portfolio's size."""

import numpy as np

from palette.core.covering import TOLERANCE, covering
from palette.core.moving import Setting

STEPS = 2000  # of the lattice at most
POINTS = 300  # of the lattice at most, and nodes of the search


def far_apart(setting: Setting, epsilon: float) -> int:
    """A number of members that every portfolio needs to hold ε for these samples' f*.

    It holds for any policies whatever, ideal or not, beside a free base. Two weights x and y are
    apart if no plane under f* reaches (1 − ε) f* at both, which convexity decides on the segment
    between them; here at its middle: `f*((x + y)/2) < (1 − ε)(f*(x) + f*(y))/2`. Weights of which
    every two are apart, and which the base does not serve, need a member each. The search for
    many such weights is over a lattice and may miss a larger set: a bound, not the best bound.
    """
    region = setting.region
    steps = region.lattice_steps(STEPS, POINTS)
    counts = region.counts(steps)
    points = region.spread(counts / steps)
    values = setting.value(points)
    rank = {tuple(point): row for row, point in enumerate(region.counts(2 * steps))}
    middles = setting.value(region.lattice(2 * steps))[
        [[rank[tuple(x + y)] for y in counts] for x in counts]
    ]
    base = setting.base().worth(points)[:, 0]
    needy = base < (1 - epsilon) * values - TOLERANCE
    apart = middles < (1 - epsilon) * (values[:, None] + values[None]) / 2 - TOLERANCE
    covers = covering(setting.planes(points), points, values, epsilon)[:, 1:]
    return len(_largest_apart(apart[np.ix_(needy, needy)], covers[needy]))


def _largest_apart(apart: np.ndarray, covers: np.ndarray) -> np.ndarray:
    """Indices of many rows of which every two are apart (P, P).

    That no two points which one plane covers (P, K) are apart follows from what apart means; said
    to the program for whole planes at once, it replaces most pairs and tightens its relaxation.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array, csr_array, vstack

    count = len(apart)
    if count == 0:
        return np.arange(0)
    together = covers.astype(np.float32) @ covers.T.astype(np.float32) > 0
    left, right = np.nonzero(np.triu(~apart & ~together, k=1))
    row = np.arange(len(left))
    pair = coo_array(
        (np.ones(2 * len(row)), (np.r_[row, row], np.r_[left, right])), shape=(len(row), count)
    )
    rows = vstack([csr_array(np.unique(covers.T, axis=0).astype(float)), pair.tocsr()])
    found = milp(
        -np.ones(count),
        integrality=np.ones(count),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(rows, ub=1),
        options={"node_limit": POINTS},
    )
    chosen = np.arange(0) if found.x is None else np.flatnonzero(found.x > 0.5)
    assert apart[np.ix_(chosen, chosen)][~np.eye(len(chosen), dtype=bool)].all()
    return chosen
