"""Which weights to train for, before anything is trained: the plan and a lower bound beside it.

PALM (arXiv 2604.04144) trains at every point of a grid and prunes after; the tangents of f* say the
same of ideal policies from the base's rollouts alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from palette.core.apart import far_apart
from palette.core.bounds import Relaxation, lower_bound, relaxations
from palette.core.covering import Shortfall, covering, fewest
from palette.core.moving import Setting, hundredths, move
from palette.errors import PaletteError

CANDIDATES = 2000  # lattice points at most: a lattice over many traits is coarser than asked
FINER = (1.0, 0.9, 0.8, 0.7, 0.6)  # of ε: covers to start from
POINTS = 300  # lattice points that a plan within a budget starts from
HALVINGS = 10  # of the range of ε in that search
BUDGETED = 2  # covers of it that are moved
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

    Covers of finitely many points by integer programming give the number and the places; moving
    the members lowers the regret between the points; where that is not enough, a cover for a finer
    ε starts it again with more members, and the worst vertices join the points. Ends with the
    rounds of `relaxations`, or when a plan is as small as the bound that comes with them.

    Args:
        setting: f* from the pooled rollouts of train and select.
        epsilon: multiplicative.
        pinned: (K, d) weights that must be in the plan, in hundredths.
        steps: of the lattice of candidate weights.

    Raises:
        PaletteError: ε is finer than weights in hundredths can hold.
    """
    bound = far_apart(setting, epsilon)
    best: np.ndarray | None = None
    for relaxed in relaxations(setting, epsilon, _lattice(setting, steps)):
        bound = max(bound, relaxed.bound)
        found = _fitted(setting, epsilon, pinned, relaxed, None if best is None else len(best) - 1)
        best = best if found is None else _drop(setting, found, len(pinned), epsilon)
        if best is not None and len(best) <= max(bound, len(pinned)):
            break
    assert best is not None, "the first cover is extended until it holds"
    best = distinct(pinned, np.unique(best[len(pinned) :], axis=0)[::-1])
    return _plan(setting, best, len(pinned), bound)


def budgeted(setting: Setting, max_members: int, pinned: np.ndarray, steps: int) -> Plan:
    """The least ε found that at most so many members hold; `reached` says it.

    The first members of the lazy search, and covers with so many members, of lattice points and of
    what `relaxations` adds to them, are moved to lower their worst regret; the best is kept.

    Args:
        max_members: the pinned ones among them.
        pinned: (K, d) weights that must be in the plan, in hundredths.
        steps: of the lattice of candidate weights.

    Raises:
        PaletteError: more weights are pinned than members allowed.
    """
    if len(pinned) > max_members:
        raise PaletteError(
            f"plan.max_members is {max_members}, but {len(pinned)} weights are pinned; "
            "raise it or shorten the file of plan.pinned"
        )
    best = worst_first(setting, pinned, max_members)
    starts = [best, *_covers_within(setting, max_members, pinned, steps)]
    best, reached = _moved(setting, starts, best, len(pinned))
    # A bound for a coarser ε than the one that is reached in the end holds for that as well.
    bound = far_apart(setting, reached)
    for relaxed in relaxations(setting, reached, _lattice(setting, steps)):
        bound = max(bound, relaxed.bound)
        starts = list(_covers(setting, reached, pinned, relaxed, max_members))
        best, reached = _moved(setting, starts, best, len(pinned))
    return _plan(setting, best, len(pinned), bound)


def lazy(setting: Setting, epsilon: float, pinned: np.ndarray) -> Plan:
    """Start in the middle and train for the worst vertex until ε holds.

    The order does not depend on ε, so a finer plan begins with all of a coarser one.

    Raises:
        PaletteError: ε is finer than weights in hundredths can hold.
    """
    weights = pinned
    if setting.shortfall(weights).violated(epsilon, 0.0).any():
        weights = distinct(pinned, hundredths(setting.region.middle()[None]))
    weights = _extend(setting, weights, epsilon)
    return _plan(setting, weights, len(pinned), lower_bound(setting, epsilon))


def worst_first(setting: Setting, pinned: np.ndarray, most: int) -> np.ndarray:
    """(K, d): the pinned weights and the first of lazy's own sequence, up to so many in all."""
    weights = pinned
    if len(weights) < most:
        weights = distinct(pinned, hundredths(setting.region.middle()[None]))
    while len(weights) < most:
        longer = _with_worst(weights, setting.shortfall(weights))
        if len(longer) == len(weights):
            break
        weights = longer
    return weights


def distinct(first: np.ndarray, then: np.ndarray) -> np.ndarray:
    """Both lists of weights, each weight once, in the order of its first appearance."""
    weights = np.concatenate([np.reshape(first, (-1, then.shape[1])), then])
    _, rows = np.unique(np.rint(weights * 100).astype(int), axis=0, return_index=True)
    return weights[np.sort(rows)]


def _with_worst(weights: np.ndarray, short: Shortfall) -> np.ndarray:
    """The weights and the worst vertex in hundredths; as they are where it is one of them."""
    return distinct(weights, hundredths(short.weights[short.epsilon().argmax()][None]))


def _extend(setting: Setting, weights: np.ndarray, epsilon: float) -> np.ndarray:
    """Train for the worst vertex, again and again, until ε holds on all of W."""
    while True:
        short = setting.shortfall(weights)
        if not short.violated(epsilon, 0.0).any():
            return weights
        longer = _with_worst(weights, short)
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


def _fitted(
    setting: Setting, epsilon: float, pinned: np.ndarray, relaxed: Relaxation, most: int | None
) -> np.ndarray | None:
    """At most so many weights that hold ε: covers of the points, moved until all of W is covered."""
    for start in _covers(setting, epsilon, pinned, relaxed, most):
        moved, holds = move(setting, start, np.arange(len(start)) < len(pinned), epsilon)
        if holds:
            return moved
    return _extend(setting, moved, epsilon) if most is None else None


def _covers(
    setting: Setting, epsilon: float, pinned: np.ndarray, relaxed: Relaxation, most: int | None
) -> Iterator[np.ndarray]:
    """The pinned weights and the fewest candidates that cover the points with them, at most so many.

    First for ε itself, then for finer ones: those have more members, better spread than a cover
    for ε with members added.
    """
    weights = np.concatenate([pinned, relaxed.candidates])
    planes = setting.planes(pinned) + relaxed.planes
    targets = setting.value(relaxed.points)
    keep = tuple(range(1, len(pinned) + 1))
    for finer in FINER:
        covers = covering(planes, relaxed.points, targets, epsilon * finer)
        chosen, _ = fewest(covers, free=(0,), keep=keep)
        if most is not None and len(chosen) > most:
            return
        yield weights[[column - 1 for column in chosen]]


def _moved(
    setting: Setting, starts: list[np.ndarray], best: np.ndarray, pinned: int
) -> tuple[np.ndarray, float]:
    """The best of the plans and of the starts moved as far down as they go, and its worst ε."""
    plans = [best]
    for start in starts:
        moved, _ = move(setting, start, np.arange(len(start)) < pinned, 0.0)
        plans.append(distinct(start[:pinned], moved[pinned:]))
    worst = [float(setting.shortfall(plan).epsilon().max()) for plan in plans]
    return plans[int(np.argmin(worst))], min(worst)


def _lattice(setting: Setting, steps: int) -> np.ndarray:
    region = setting.region
    return hundredths(region.lattice(region.lattice_steps(steps, CANDIDATES)))


def _covers_within(setting: Setting, most: int, pinned: np.ndarray, steps: int) -> list[np.ndarray]:
    """Covers of lattice points by at most so many members, for ever finer ε."""
    region = setting.region
    weights = distinct(pinned, _lattice(setting, steps))
    points = region.lattice(region.lattice_steps(steps, POINTS))
    planes, targets = setting.planes(weights), setting.value(points)
    keep = tuple(range(1, len(pinned) + 1))
    found, low, high = [], 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        covers = covering(planes, points, targets, middle)
        possible = covers.any(axis=1).all()
        chosen = fewest(covers, free=(0,), keep=keep)[0] if possible else range(most + 1)
        if len(chosen) > most:
            low = middle
        else:
            high = middle
            found.append(weights[[column - 1 for column in chosen]])
    return found[-BUDGETED:]


def _plan(setting: Setting, weights: np.ndarray, pinned: int, bound: int) -> Plan:
    reached = float(setting.shortfall(weights).epsilon().max())
    return Plan(weights, np.arange(len(weights)) < pinned, reached, bound)


def _refuse_if(unreachable: bool, epsilon: float) -> None:
    if unreachable:
        raise PaletteError(
            f"plan.epsilon is {epsilon:g}, finer than weights in hundredths can hold; raise it"
        )
