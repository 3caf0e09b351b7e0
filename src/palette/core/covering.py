"""The fewest planes whose envelope stays within (ε, δ) of f* on all of W, by integer programming.

Planning uses it with the planes of ideal policies, pruning with those of trained ones.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from palette.core.envelope import Planes, cells, pairs
from palette.core.region import Region
from palette.core.set_cover import complete, prove

Value = Callable[[np.ndarray], np.ndarray]
"""weights (P, d) → f* (P,)"""

TOLERANCE = 1e-9
NOISE = 1e-12  # of floats: where f* is 0 a shortfall of 1e-17 is no regret
NODES = 2000  # of branch and bound in one program: a limit on nodes, unlike one on time, repeats


@dataclass(frozen=True)
class Shortfall:
    """How far an envelope stays below f*, at every vertex of its cells."""

    weights: np.ndarray
    """(P, d): the vertices, each once"""
    ideal: np.ndarray
    """(P,): f*"""
    worth: np.ndarray
    """(P,): the envelope there"""

    def epsilon(self, delta: float = 0.0) -> np.ndarray:
        """(P,): the least ε with `worth >= (1 − ε) f* − δ` at each vertex; infinite if none.

        The largest of them is the exact worst over all of W wherever f* is convex.
        """
        return least_epsilon(self.ideal, self.worth, delta)

    def violated(self, epsilon: float, delta: float) -> np.ndarray:
        """(P,) bool: where `worth < (1 − ε) f* − δ`."""
        return (1 - epsilon) * self.ideal - self.worth - delta > TOLERANCE


@dataclass(frozen=True)
class Cover:
    """The answer of `cover`: members, or the points that no plane covers."""

    members: tuple[int, ...]
    """indices of the chosen planes, the kept ones among them, the free ones not; ascending"""
    points: np.ndarray
    """(P, d): the finite set of weights that forced the answer"""
    missing: np.ndarray
    """(M, d): points that none of the planes covers; empty when the cover holds"""
    optimal: bool
    """whether no smaller cover exists among these planes; False if NODES ran out"""


def least_epsilon(ideal: np.ndarray, worth: np.ndarray, delta: float) -> np.ndarray:
    """The least ε >= 0 with `worth >= (1 − ε) ideal − δ`, elementwise; infinite where none does."""
    short = ideal - worth - delta
    with np.errstate(divide="ignore", invalid="ignore"):
        epsilon = np.where(ideal > 0, short / ideal, np.inf)
    return np.where(short <= NOISE, 0.0, np.where(np.isnan(epsilon), np.inf, epsilon))


def shortfall(planes: Planes, region: Region, value: Value) -> Shortfall:
    """The envelope of all the planes against f*, at the vertices of its exact cells."""
    weights = np.unique(pairs(cells(planes, region))[0], axis=0)
    return Shortfall(weights, value(weights), planes.worth(weights).max(axis=1))


def covering(
    planes: Planes, points: np.ndarray, ideal: np.ndarray, epsilon: float, delta: float = 0.0
) -> np.ndarray:
    """(P, K) bool: which planes hold (ε, δ) at which points (P, d), whose f* is `ideal` (P,).

    Stricter than what counts as violated, so that a violated vertex, taken as a point, is never
    again left to the same planes; but f* is not asked of a plane to the last bit.
    """
    return planes.worth(points) >= ((1 - epsilon) * ideal - delta)[:, None] - NOISE


def cover(
    planes: Planes,
    region: Region,
    value: Value,
    points: np.ndarray,
    epsilon: float,
    delta: float = 0.0,
    free: tuple[int, ...] = (),
    keep: tuple[int, ...] = (),
) -> Cover:
    """The fewest planes, beside the free ones, that hold `worth >= (1 − ε) f* − δ` on all of W.

    Solves the set cover over finitely many points, looks at the exact vertices of the chosen
    planes' cells, adds those that are violated, and repeats until none is. Each round's points
    exclude its own choice, so it ends; the last program is a relaxation of the whole question, so
    its optimum is the optimum among these planes.

    Args:
        planes: the candidates.
        value: f*, convex in w.
        points: (P, d), weights to start from.
        free: indices of planes that are there anyway and cost nothing (the base).
        keep: indices of planes that must be chosen (pinned weights).
    """
    free, keep = tuple(free), tuple(keep)
    targets = value(points)
    while True:
        covers = covering(planes, points, targets, epsilon, delta)
        hopeless = ~covers.any(axis=1)
        if hopeless.any():
            return Cover((), points, points[hopeless], False)
        members, optimal = fewest(covers, free, keep)
        chosen = sorted({*free, *members})
        if not chosen:  # no point to cover: any one plane will show where it falls short
            chosen = [0]
        short = shortfall(planes.take(chosen), region, value)
        violated = short.violated(epsilon, delta)
        if not violated.any():
            members = tuple(member for member in chosen if member not in free)
            return Cover(members, points, points[:0], optimal)
        points = np.concatenate([points, short.weights[violated]])
        targets = np.concatenate([targets, short.ideal[violated]])


def fewest(
    covers: np.ndarray, free: tuple[int, ...], keep: tuple[int, ...]
) -> tuple[tuple[int, ...], bool]:
    """Minimum set cover of the rows of a bool matrix (P, K) by columns beside the free ones.

    Returns:
        The chosen columns, `keep` first, and whether fewer are proven not to do.
    """
    open_rows = ~covers[:, [*free, *keep]].any(axis=1)
    if not open_rows.any():
        return keep, True
    columns, bound = least(covers[open_rows])
    return (*keep, *columns), len(columns) <= bound


def least(covers: np.ndarray) -> tuple[tuple[int, ...], int]:
    """Few columns of a bool matrix (P, K) that cover every row, and how few could at least.

    The second number holds however early the search ends (NODES).
    """
    rows, columns = _essential(covers)
    matrix = covers[np.ix_(rows, columns)]
    found, bound = prove(matrix, None, NODES)
    chosen = complete(matrix, np.arange(0)) if found is None else found
    return tuple(int(column) for column in columns[chosen]), bound


def _essential(covers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns that are left once those implied by others are dropped."""
    rows, columns = np.arange(covers.shape[0]), _distinct(covers)
    while True:
        matrix = covers[np.ix_(rows, columns)].astype(np.float32)
        shared = matrix.T @ matrix
        # a column whose rows all lie in another's is never needed; of equals the first stays
        kept_columns = ~_inside(shared)
        matrix = matrix[:, kept_columns]
        shared = matrix @ matrix.T
        # a row whose columns contain another's is covered whenever that one is
        kept_rows = ~_inside(shared, around=True)
        if kept_columns.all() and kept_rows.all():
            return rows, columns
        rows, columns = rows[kept_rows], columns[kept_columns]


def _distinct(covers: np.ndarray) -> np.ndarray:
    """Indices of the columns, of equal ones the first, ascending; much faster than np.unique."""
    packed = np.packbits(covers, axis=0).T
    seen: dict[bytes, int] = {}
    for column, bits in enumerate(packed):
        seen.setdefault(bits.tobytes(), column)
    return np.array(list(seen.values()), dtype=int)


def _inside(shared: np.ndarray, around: bool = False) -> np.ndarray:
    """Which sets lie inside (or around) another one, given the sizes of all intersections."""
    size = shared.diagonal()
    within = shared == size[:, None]  # [i, j]: set i lies inside set j
    equal = within & within.T
    related = within.T if around else within
    earlier = np.tri(len(size), k=-1, dtype=bool)  # [i, j]: j comes before i
    return (related & ~equal | equal & earlier).any(axis=1)


def prices(covers: np.ndarray) -> np.ndarray:
    """(P,): what covering each row of a bool matrix (P, K) costs, by the program's relaxation.

    Its dual: rows' prices of the largest sum of which no column covers more than 1.
    """
    from scipy.optimize import linprog
    from scipy.sparse import csr_array

    count = covers.shape[0]
    matrix = csr_array(covers[:, _distinct(covers)].T.astype(float))
    found = linprog(-np.ones(count), matrix, np.ones(matrix.shape[0]), method="highs")
    return found.x
