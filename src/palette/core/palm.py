"""PALM's own way: a policy for every point of a hybrid geometric grid of weights, pruned after.

PALM (arXiv 2604.04144) gives quality as a multiplicative ε and an additive δ. Coordinates below
about δ/d may be cut to 0 for an additive loss of δ in all; above, steps of (1 + ε) lose a
factor of 1 − ε. No code of the paper is public: the grid is rebuilt from what it states.
"""

from collections.abc import Callable
from math import ceil, log

import numpy as np

from palette.core.covering import covering, fewest, shortfall
from palette.core.envelope import Planes
from palette.core.moving import Setting
from palette.core.region import Region

ROUNDS = 100  # of tangents added
MARGIN = 0.01  # of ε that pruning asks for beyond it, and again in every round
GREEDY_POINTS, EXACT_POINTS = 1000, 100  # of the lattice that pruning looks at first
CHUNK = 10_000_000  # numbers held at once

Choose = Callable[[np.ndarray], np.ndarray]
"""points covered by each plane, bit by bit (K, bytes) → indices of the planes chosen"""


def palm_bound(d: int, epsilon: float, delta: float) -> float:
    """PALM's bound on its portfolio, `((1/ε) log(d/δ))^(d−1)`: what the grid has, to leading order.

    Infinite for δ = 0, where a geometric grid never reaches 0.
    """
    if d == 1:
        return 1.0
    return (log(d / delta) / epsilon) ** (d - 1) if delta > 0 else float("inf")


def allowance(setting: Setting, epsilon: float, delta: float) -> tuple[float, float]:
    """The (ε, δ) that the grid is made for.

    PALM's grid needs δ > 0. Where none is given, half of ε pays for it: with
    δ = (ε/2)·min_W f*, `(1 − ε/2) f* − δ >= (1 − ε) f*` everywhere.
    """
    if delta > 0:
        return epsilon, delta
    return epsilon / 2, epsilon / 2 * least_ideal(setting)


def least_ideal(setting: Setting) -> float:
    """The least of f* over W, from below: the least of the envelope of tangents (Kelley's cuts)."""
    from scipy.optimize import linprog

    region = setting.region
    points = np.vstack([region.vertices(), region.middle()])
    goal, whole = np.r_[np.zeros(region.d), 1.0], np.r_[np.ones(region.d), 0.0]
    bounds = [*((least, None) for least in region.floor), (None, None)]
    for _ in range(ROUNDS):
        planes = setting.planes(points)
        rows = np.hstack([planes.values, -np.ones((len(planes), 1))])
        found = linprog(goal, rows, planes.costs, whole[None], [1.0], bounds, method="highs")
        lowest = found.x[None, :-1]
        if setting.value(lowest)[0] - found.fun < 1e-6:
            break
        points = np.vstack([points, lowest])
    return float(found.fun)


def levels(d: int, epsilon: float, delta: float) -> int:
    """Geometric steps of at most (1 + ε) that lead from 1 down to δ/d."""
    return max(1, ceil(log(d / delta) / np.log1p(epsilon)))


def grid(region: Region, delta: float, steps: int) -> np.ndarray:
    """(P, d): the hybrid grid, with `steps` geometric steps from 1 down to δ/d, and 0 below.

    d − 1 coordinates run over these levels; the last has the rest, and points where nothing is
    left for it are none. With floors, coordinates are shares of what the floors leave.
    """
    marks = _marks(region.d, delta, steps)
    shares = np.zeros((1, 0))
    for _ in range(region.d - 1):
        shares = np.hstack(
            [np.repeat(shares, len(marks), axis=0), np.tile(marks, len(shares))[:, None]]
        )
        shares = shares[shares.sum(axis=1) <= 1 + 1e-12]
    rest = np.maximum(1 - shares.sum(axis=1, keepdims=True), 0)
    return region.spread(np.hstack([shares, rest]))


def grid_size(d: int, delta: float, steps: int) -> int:
    """How many points `grid` has, for d up to 4, without making them.

    Raises:
        ValueError: d is above 4.
    """
    marks = np.sort(_marks(d, delta, steps))
    if d <= 2:
        return len(marks) if d == 2 else 1
    if d > 4:
        raise ValueError(f"the grid's size is counted for up to 4 traits, not {d}")
    before = marks if d == 3 else (marks[:, None] + marks[None]).ravel()
    return int(np.searchsorted(marks, 1 - before + 1e-12, side="right").sum())


def prune_greedy(setting: Setting, planes: Planes, epsilon: float) -> np.ndarray:
    """Planes (indices) that with the base hold ε on all of W: each time the one that covers most.

    Points of W that a choice leaves uncovered are added until none is, and meanwhile a little more
    than ε is asked for, or the choice would go on to slip between the points.

    Args:
        planes: of the trained grid, the base not among them.

    Raises:
        ValueError: these planes do not hold ε, or hold it so barely that nothing more can be asked.
    """
    return _generate(setting, planes, epsilon, GREEDY_POINTS, _greedy)[0]


def prune_exact(setting: Setting, planes: Planes, epsilon: float) -> tuple[np.ndarray, bool]:
    """The same by integer programming: the planes, and whether they are proven to be the fewest.

    Proven where the points alone, asked for ε itself and nothing more, need as many. Columns that
    cover the same points, or less than another one, are dropped first, but what is left of a grid
    of hundreds of thousands is still too much for a program.
    """
    chosen, points = _generate(setting, planes, epsilon, EXACT_POINTS, _fewest)
    needed = _fewest(_covers(setting, setting.base() + planes, points, epsilon))
    return chosen, len(needed) == len(chosen)


def _generate(
    setting: Setting, planes: Planes, epsilon: float, points: int, choose: Choose
) -> tuple[np.ndarray, np.ndarray]:
    """The planes chosen in the end, and the points (P, d) that they had to cover."""
    region, everything = setting.region, setting.base() + planes
    seen = region.lattice(region.lattice_steps(100, points))
    for margin in np.arange(MARGIN, 0.5, MARGIN):
        chosen = choose(_covers(setting, everything, seen, epsilon * (1 - margin)))
        short = shortfall(everything.take([0, *chosen]), region, setting.value)
        violated = short.violated(epsilon, 0.0)
        if not violated.any():
            return chosen - 1, seen
        seen = np.concatenate([seen, short.weights[violated]])
    raise ValueError(f"the planes kept slip below {epsilon:g} between the points")


def _marks(d: int, delta: float, steps: int) -> np.ndarray:
    """(steps + 2,): the levels of a coordinate."""
    return np.r_[(delta / d) ** (np.arange(steps + 1) / steps), 0.0]


def _covers(setting: Setting, planes: Planes, points: np.ndarray, epsilon: float) -> np.ndarray:
    """(K, bytes): for each plane, bit by bit, the points (P, d) at which it holds ε.

    Raises:
        ValueError: no plane holds ε at one of them.
    """
    ideal = setting.value(points)
    step = max(1, CHUNK // len(points))
    parts = [range(start, len(planes))[:step] for start in range(0, len(planes), step)]
    bits = np.concatenate([
        np.packbits(covering(planes.take(part), points, ideal, epsilon), axis=0).T for part in parts
    ])  # fmt: skip
    if (np.bitwise_or.reduce(bits, axis=0) != np.packbits(np.ones(len(points), dtype=bool))).any():
        raise ValueError(f"the grid's planes do not hold {epsilon:g} everywhere")
    return bits


def _greedy(covers: np.ndarray) -> np.ndarray:
    """Planes (rows of bits) that cover every point together with the first one, which is free."""
    chosen, left = [], np.bitwise_or.reduce(covers, axis=0) & ~covers[0]
    while left.any():
        best = np.bitwise_count(covers & left).sum(axis=1, dtype=np.int64).argmax()
        chosen.append(best)
        left &= ~covers[best]
    return np.sort(np.array(chosen, dtype=int))


def _fewest(covers: np.ndarray) -> np.ndarray:
    """The same, but as few as can be (within the program's limit of nodes)."""
    left = covers & ~covers[0]
    columns = _maximal(left)
    matrix = np.unpackbits(left[columns], axis=1).T.astype(bool)
    chosen, _ = fewest(matrix[matrix.any(axis=1)], (), ())
    return np.sort(columns[list(chosen)])


def _maximal(sets: np.ndarray) -> np.ndarray:
    """Indices of the sets (rows of bits) that are not empty and lie in no other one."""
    _, first = np.unique(sets, axis=0, return_index=True)
    sizes = np.bitwise_count(sets[first]).sum(axis=1)
    outside = np.empty((len(first), sets.shape[1]), dtype=np.uint8)  # complements of those kept
    kept: list[int] = []
    for index in first[np.lexsort((first, -sizes))]:
        own = sets[index]
        if own.any() and (own & outside[: len(kept)]).any(axis=1).all():
            outside[len(kept)] = ~own
            kept.append(index)
    return np.array(kept, dtype=int)
