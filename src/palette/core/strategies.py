"""The strategies of a plan: which weights to train for, by ε or within a budget.

`minimal` (core/planning.py) is the one to use. The others are yardsticks: `lazy` sees f* but decides
one member at a time, `uniform`, `random` and `palm-grid` do not look where the weights are needed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from math import isfinite

import numpy as np

from palette.core import palm, planning
from palette.core.bounds import lower_bound
from palette.core.covering import covering
from palette.core.moving import Setting, hundredths
from palette.core.planning import Plan, distinct
from palette.errors import PaletteError

LARGEST = 20_000  # trainings of a plan: what is above is no plan, and its cells are not computed
GRID = 500_000  # points of PALM's grid before rounding
FINEST = 200  # geometric steps of PALM's grid where a budget says how many
DRAWS = 20_000  # of the strategy random
POINTS = 300  # of the lattice at which sequences are looked at first


@dataclass(frozen=True)
class Asked:
    """What a plan must do."""

    strategy: str
    """minimal, lazy, palm-grid, uniform or random"""
    epsilon: float
    """multiplicative slack to hold on all of W; with a budget it has no say, but for palm-grid's δ"""
    pinned: np.ndarray
    """(K, d) weights in hundredths that must be in the plan, first"""
    max_members: int | None = None
    """budget: the least ε with at most so many members, pinned ones included"""
    lattice: int = 20
    """steps of minimal's lattice of candidate weights"""
    delta: float = 0.0
    """additive slack of the portfolio, in units of w·r: below δ/d PALM's grid is cut off"""
    seed: int = 0
    """of random's draws"""


def choose(setting: Setting, asked: Asked) -> Plan:
    """The plan by the strategy asked for.

    Raises:
        PaletteError: the budget is less than the pinned weights or the coarsest grid, the grid is
            too large to list, or weights in hundredths cannot hold ε.
    """
    most, pinned = asked.max_members, asked.pinned
    if most is not None and most < len(pinned):
        raise PaletteError(
            f"plan.max_members is {most}, but plan.pinned names {len(pinned)} weights; "
            "raise it or remove rows"
        )
    if asked.strategy == "minimal" and most is None:
        return planning.minimal(setting, asked.epsilon, pinned, asked.lattice)
    if asked.strategy == "minimal" and most is not None:
        return planning.budgeted(setting, most, pinned, asked.lattice)
    if asked.strategy == "lazy" and most is None:
        return planning.lazy(setting, asked.epsilon, pinned)
    if most is None and not setting.shortfall(pinned).violated(asked.epsilon, 0.0).any():
        return _plan(setting, pinned, asked)
    return _plan(setting, WAYS[asked.strategy](setting, asked), asked)


def worst_first(setting: Setting, asked: Asked) -> np.ndarray:
    """(K, d): the first members, within the budget, of lazy's sequence: the worst vertex each time."""
    assert asked.max_members is not None, "without a budget it is planning.lazy"
    return planning.worst_first(setting, asked.pinned, asked.max_members)


def random(setting: Setting, asked: Asked) -> np.ndarray:
    """(K, d): uniform draws from W, one sequence for each seed, as many as hold ε or are paid for."""
    shares = np.random.default_rng(asked.seed).dirichlet(np.ones(setting.region.d), size=DRAWS)
    drawn = hundredths(setting.region.spread(shares))
    if asked.max_members is not None:  # weights appear twice or more, but rarely all of them
        return distinct(asked.pinned, drawn)[: asked.max_members]
    for size in (DRAWS // 100, DRAWS // 10, DRAWS):
        sequence = distinct(asked.pinned, drawn[:size])
        length = prefix(setting, sequence, asked.epsilon, len(asked.pinned))
        if length is not None:
            return sequence[:length]
    raise PaletteError(
        f"{DRAWS} random weights do not hold plan.epsilon {asked.epsilon:g}; raise it, give "
        "plan.max_members, or use the strategy minimal"
    )


def prefix(setting: Setting, sequence: np.ndarray, epsilon: float, least: int) -> int | None:
    """The length, at least `least`, of the shortest start of a sequence (K, d) that holds ε.

    None where all of it does not. Points that only a later member covers call for all before it;
    the vertices at which that start falls short are the next points.
    """
    planes, length = setting.planes(sequence), least
    points = setting.region.lattice(setting.region.lattice_steps(100, POINTS))
    while True:
        covers = covering(planes, points, setting.value(points), epsilon)
        if not covers.any(axis=1).all():
            return None
        length = max(length, int(covers.argmax(axis=1).max()))  # the base is column 0
        short = setting.shortfall(sequence[:length])
        violated = short.violated(epsilon, 0.0)
        if not violated.any():
            return length
        points = short.weights[violated]


def uniform(setting: Setting, asked: Asked) -> np.ndarray:
    """(K, d): the coarsest full lattice that holds ε, or the finest within the budget."""
    region = setting.region
    lattices = (region.lattice(steps) for steps in range(1, region.lattice_steps(100, LARGEST) + 1))
    finer = (distinct(asked.pinned, hundredths(lattice)) for lattice in lattices)
    if asked.max_members is not None:
        return _finest(finer, asked.max_members, "uniform lattice")
    points = region.lattice(region.lattice_steps(100, POINTS))
    for weights in finer:
        covers = covering(setting.planes(weights), points, setting.value(points), asked.epsilon)
        if not covers.any(axis=1).all():
            continue
        short = setting.shortfall(weights)
        violated = short.violated(asked.epsilon, 0.0)
        if not violated.any():
            return weights
        points = np.concatenate([points, short.weights[violated]])
    raise PaletteError(
        f"no uniform lattice of up to {LARGEST} weights in hundredths holds plan.epsilon "
        f"{asked.epsilon:g}; raise it, give plan.max_members, or use the strategy minimal"
    )


def palm_grid(setting: Setting, asked: Asked) -> np.ndarray:
    """(K, d): PALM's hybrid geometric grid for (ε, δ), or the finest of its kind within the budget.

    One member a point, in hundredths, each once. Where δ is 0, see `palm.allowance`.
    """
    region = setting.region
    epsilon, delta = palm.allowance(setting, asked.epsilon, asked.delta)
    if delta <= 0:
        raise PaletteError(
            "plan.strategy palm-grid needs an additive slack where f* is 0 for some weights; give "
            "portfolio.delta, or use the strategy minimal"
        )
    if asked.max_members is not None:
        grids = (palm.grid(region, delta, steps) for steps in range(1, FINEST))
        finer = (distinct(asked.pinned, hundredths(grid)) for grid in grids)
        return _finest(finer, asked.max_members, "grid of PALM")
    size = palm.palm_bound(region.d, epsilon, delta)
    if size <= GRID:
        grid = palm.grid(region, delta, palm.levels(region.d, epsilon, delta))
        weights = distinct(asked.pinned, hundredths(grid))
        size = len(weights)
        if size <= LARGEST:
            return weights
    raise PaletteError(
        f"plan.strategy palm-grid needs about {size:,.0f} trainings for plan.epsilon "
        f"{asked.epsilon:g}, too many to list; give plan.max_members, or use the strategy minimal"
    )


WAYS: dict[str, Callable[[Setting, Asked], np.ndarray]] = {
    "lazy": worst_first,
    "random": random,
    "uniform": uniform,
    "palm-grid": palm_grid,
}


def _finest(grids: Iterator[np.ndarray], most: int, name: str) -> np.ndarray:
    """The last of ever finer grids before one is above the budget."""
    within = list(takewhile(lambda grid: len(grid) <= most, grids))
    if not within:
        raise PaletteError(
            f"plan.max_members is {most}, but the coarsest {name}, with what is "
            "pinned, has more weights; raise it or use the strategy minimal"
        )
    return within[-1]


def _plan(setting: Setting, weights: np.ndarray, asked: Asked) -> Plan:
    reached = float(setting.shortfall(weights).epsilon().max())
    epsilon = asked.epsilon if asked.max_members is None else reached
    bound = lower_bound(setting, epsilon) if isfinite(epsilon) else 0
    return Plan(weights, np.arange(len(weights)) < len(asked.pinned), reached, bound)
