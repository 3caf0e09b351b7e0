"""Which weights to train for, before anything is trained: the plan and a lower bound beside it.

PALM (arXiv 2604.04144) trains at every point of a grid and prunes after; the tangents of f* say the
same of ideal policies from the base's rollouts alone.
"""

from dataclasses import dataclass

import numpy as np

from palette.core.covering import TOLERANCE, covering, fewest
from palette.core.moving import Setting, hundredths, move
from palette.errors import PaletteError

CANDIDATES = 2000  # lattice points at most: a lattice over many traits is coarser than asked
START = 100  # points that the first set cover looks at
PACKING = 300  # points in the search for the lower bound, and its nodes
ROUNDS = 20
DROPS = 3  # members that are tried, one at a time, to be dropped in the end


@dataclass(frozen=True)
class Plan:
    """The weights to train for."""

    weights: np.ndarray
    """(K, d) in hundredths; pinned ones first, in their order"""
    pinned: np.ndarray
    """(K,) bool"""
    reached: float
    """the ε that the base with the ideal policies for these weights holds on all of W"""
    lower_bound: int
    """no fewer members, of whatever kind, hold ε on these samples (see `lower_bound`)"""


def minimal(setting: Setting, epsilon: float, pinned: np.ndarray, steps: int) -> Plan:
    """The fewest weights found whose ideal policies, with the base, hold ε on all of W.

    Set cover over a finite set of points by integer programming gives the number and the places;
    moving the members off the lattice mends what lies between the points; where it does not, the
    violated vertices become points, and the worst vertices become members of a plan that holds.
    Ends when the program needs as many members as the best plan that holds, or after ROUNDS.

    Args:
        setting: f* from the pooled rollouts of train and select.
        epsilon: multiplicative.
        pinned: (K, d) weights that must be in the plan, in hundredths.
        steps: of the lattice of candidate weights.

    Raises:
        PaletteError: ε is finer than weights in hundredths can hold.
    """
    region = setting.region
    candidates = distinct(
        pinned, hundredths(region.lattice(region.lattice_steps(steps, CANDIDATES)))
    )
    points = region.lattice(region.lattice_steps(steps, START))
    keep = tuple(range(1, len(pinned) + 1))
    best = None
    planes = setting.planes(candidates)
    targets = setting.value(points)
    for _ in range(ROUNDS):
        covers = covering(planes, points, targets, epsilon)
        hopeless = ~covers.any(axis=1)
        if hopeless.any():  # the lattice is too coarse there: train for the very point
            candidates = distinct(candidates, hundredths(points[hopeless]))
            planes = setting.planes(candidates)
            covers = covering(planes, points, targets, epsilon)
            _refuse_if((~covers.any(axis=1)).any(), epsilon)
        chosen, _ = fewest(covers, free=(0,), keep=keep)
        if best is not None and len(chosen) >= len(best):
            break
        start = candidates[[member - 1 for member in chosen]]
        fixed = np.arange(len(start)) < len(pinned)
        moved, holds = move(setting, start, fixed, epsilon)
        plan = moved if holds else _extend(setting, moved, epsilon)
        best = plan if best is None or len(plan) < len(best) else best
        if holds:
            break
        for weights in (start, moved):
            short = setting.shortfall(weights)
            violated = short.violated(epsilon, 0.0)
            points = np.concatenate([points, short.weights[violated]])
            targets = np.concatenate([targets, short.ideal[violated]])
    best = _drop(setting, best, len(pinned), epsilon)
    best = distinct(pinned, np.unique(best[len(pinned) :], axis=0)[::-1])
    return _plan(setting, epsilon, best, len(pinned))


def lazy(setting: Setting, epsilon: float, pinned: np.ndarray) -> Plan:
    """Start in the middle and train for the worst vertex until ε holds.

    The order does not depend on ε, so a finer plan begins with all of a coarser one.

    Raises:
        PaletteError: ε is finer than weights in hundredths can hold.
    """
    weights = pinned
    if setting.shortfall(weights).violated(epsilon, 0.0).any():
        weights = distinct(pinned, hundredths(setting.region.middle()[None]))
    return _plan(setting, epsilon, _extend(setting, weights, epsilon), len(pinned))


def lower_bound(setting: Setting, epsilon: float) -> int:
    """A number of members that every portfolio needs to hold ε for these samples' f*.

    It holds for any policies whatever, ideal or not, beside a free base. Two weights x and y are
    apart if no plane under f* reaches (1 − ε) f* at both, which convexity decides on the segment
    between them; here at its middle: `f*((x + y)/2) < (1 − ε)(f*(x) + f*(y))/2`. Weights of which
    every two are apart, and which the base does not serve, need a member each. The search for
    many such weights is over a lattice and may miss a larger set: a bound, not the best bound.
    """
    region = setting.region
    steps = region.lattice_steps(CANDIDATES, PACKING)
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


def distinct(first: np.ndarray, then: np.ndarray) -> np.ndarray:
    """Both lists of weights, each weight once, in the order of its first appearance."""
    weights = np.concatenate([np.reshape(first, (-1, then.shape[1])), then])
    _, rows = np.unique(np.rint(weights * 100).astype(int), axis=0, return_index=True)
    return weights[np.sort(rows)]


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
        options={"node_limit": PACKING},
    )
    chosen = np.arange(0) if found.x is None else np.flatnonzero(found.x > 0.5)
    assert apart[np.ix_(chosen, chosen)][~np.eye(len(chosen), dtype=bool)].all()
    return chosen


def _extend(setting: Setting, weights: np.ndarray, epsilon: float) -> np.ndarray:
    """Train for the worst vertex, again and again, until ε holds on all of W."""
    while True:
        short = setting.shortfall(weights)
        if not short.violated(epsilon, 0.0).any():
            return weights
        worst = short.weights[short.epsilon().argmax()]
        longer = distinct(weights, hundredths(worst[None]))
        _refuse_if(len(longer) == len(weights), epsilon)
        weights = longer


def _drop(setting: Setting, weights: np.ndarray, pinned: int, epsilon: float) -> np.ndarray:
    """Drop members for as long as the others can move so that ε still holds."""
    fixed = np.arange(len(weights)) < pinned
    without = [np.delete(weights, member, axis=0) for member in range(pinned, len(weights))]
    harm = [setting.shortfall(rest).epsilon().max() for rest in without]
    for choice in np.argsort(harm, kind="stable")[:DROPS]:
        rest, holds = move(setting, without[choice], fixed[:-1], epsilon)
        if holds:
            return _drop(setting, rest, pinned, epsilon)
    return weights


def _plan(setting: Setting, epsilon: float, weights: np.ndarray, pinned: int) -> Plan:
    reached = float(setting.shortfall(weights).epsilon().max())
    is_pinned = np.arange(len(weights)) < pinned
    return Plan(weights, is_pinned, reached, lower_bound(setting, epsilon))


def _refuse_if(unreachable: bool, epsilon: float) -> None:
    if unreachable:
        raise PaletteError(
            f"plan.epsilon is {epsilon:g}, finer than weights in hundredths can hold; raise it"
        )
