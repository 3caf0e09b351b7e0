"""Which weights to train for, before anything is trained: the plan and a lower bound beside it.

PALM (arXiv 2604.04144) trains at every point of a grid and prunes after; the tangents of f* say the
same of ideal policies from the base's rollouts alone.
"""

from dataclasses import dataclass

import numpy as np

from palette.core.apart import far_apart
from palette.core.bounds import Relaxation, lower_bound, relaxations
from palette.core.covering import covering, fewest
from palette.core.moving import Setting, hundredths, move
from palette.errors import PaletteError

CANDIDATES = 2000  # lattice points at most: a lattice over many traits is coarser than asked
FINER = (1.0, 0.9, 0.8, 0.7, 0.6)  # of ε: covers to start from
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
    bound = far_apart(setting, epsilon)
    lattice = hundredths(setting.region.lattice(setting.region.lattice_steps(steps, CANDIDATES)))
    best = None
    for relaxed in relaxations(setting, epsilon, lattice):
        bound = max(bound, relaxed.bound)
        found = _fitted(setting, epsilon, pinned, relaxed, None if best is None else len(best) - 1)
        best = best if found is None else _drop(setting, found, len(pinned), epsilon)
        if len(best) <= max(bound, len(pinned)):
            break
    best = distinct(pinned, np.unique(best[len(pinned) :], axis=0)[::-1])
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


def distinct(first: np.ndarray, then: np.ndarray) -> np.ndarray:
    """Both lists of weights, each weight once, in the order of its first appearance."""
    weights = np.concatenate([np.reshape(first, (-1, then.shape[1])), then])
    _, rows = np.unique(np.rint(weights * 100).astype(int), axis=0, return_index=True)
    return weights[np.sort(rows)]


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


def _fitted(
    setting: Setting, epsilon: float, pinned: np.ndarray, relaxed: Relaxation, most: int | None
) -> np.ndarray | None:
    """At most so many weights that hold ε: covers of the points, moved until all of W is covered.

    A cover for a finer ε has more members, better spread than a cover for ε with members added.
    """
    weights = np.concatenate([pinned, relaxed.candidates])
    planes, targets = setting.planes(weights), setting.value(relaxed.points)
    keep = tuple(range(1, len(pinned) + 1))
    for finer in FINER:
        covers = covering(planes, relaxed.points, targets, epsilon * finer)
        chosen, _ = fewest(covers, free=(0,), keep=keep)
        if most is not None and len(chosen) > most:
            return None
        start = weights[[column - 1 for column in chosen]]
        moved, holds = move(setting, start, np.arange(len(start)) < len(pinned), epsilon)
        if holds:
            return moved
    return _extend(setting, moved, epsilon) if most is None else None


def _plan(setting: Setting, weights: np.ndarray, pinned: int, bound: int) -> Plan:
    reached = float(setting.shortfall(weights).epsilon().max())
    return Plan(weights, np.arange(len(weights)) < pinned, reached, bound)


def _refuse_if(unreachable: bool, epsilon: float) -> None:
    if unreachable:
        raise PaletteError(
            f"plan.epsilon is {epsilon:g}, finer than weights in hundredths can hold; raise it"
        )
