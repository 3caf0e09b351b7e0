"""Every way to plan, on the same f*: how many trainings, how many stay after pruning, how long."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import ols

from palette.core import palm, planning, strategies
from palette.core.covering import cover, covering, fewest
from palette.core.moving import Setting
from palette.core.strategies import Asked
from palette.errors import PaletteError

LATTICE = 496  # points: 30 steps with three traits, as in the prototype
DELTA = 0.01  # the additive slack that PALM's grid needs: granted to it, and to no other
GREEDY, EXACT = 400_000, 20_000  # planes of a grid at most that are pruned
SLOW = 0.05  # ε below which the lattice's own cover is left out where there are more than 3 traits
CALLS = 400  # of optimistic linear support
DRAWN = 3  # sequences of the strategy random, whose means are shown
CROWD = 300  # trainings above which the fewest of them are not looked for


@dataclass(frozen=True)
class Row:
    """What one strategy needed; None: not computed, and the note says why."""

    strategy: str
    trainings: float | None = None
    kept: float | None = None
    """after pruning the ideal policies trained for"""
    reached: float | None = None
    """ε over all of W by all trained, of PALM's grid by those kept"""
    seconds: float | None = None
    """of choosing the weights, not of pruning"""
    note: str = ""


def compare(setting: Setting, epsilon: float) -> tuple[int, list[Row]]:
    """The lower bound, and a row for each way to plan."""
    none = np.empty((0, setting.region.d))
    asked = Asked("", epsilon, none)
    bounds = []

    def minimal() -> np.ndarray:
        plan = planning.minimal(setting, epsilon, none, 20)
        bounds.append(plan.lower_bound)
        return plan.weights

    ways: dict[str, Callable[[], np.ndarray]] = {
        "minimal": minimal,
        "lazy": lambda: planning.lazy(setting, epsilon, none).weights,
        "uniform": lambda: strategies.uniform(setting, asked),
        "lattice cover": lambda: lattice_cover(setting, epsilon),
        "lattice cover, at its points": lambda: lattice_cover(setting, epsilon, only_points=True),
        "optimistic linear support": lambda: optimistic(setting, epsilon),
    }
    rows = [measure(setting, epsilon, name, way) for name, way in ways.items()]
    rows.insert(3, drawn(setting, asked))
    rows.extend(grid(setting, epsilon))
    return bounds[0], rows


def measure(setting: Setting, epsilon: float, name: str, way: Callable[[], np.ndarray]) -> Row:
    print(f"  {name}", file=sys.stderr)
    started = time.perf_counter()
    try:
        weights = way()
    except PaletteError as error:
        return Row(name, note=str(error))
    seconds = time.perf_counter() - started
    reached = float(setting.shortfall(weights).epsilon().max())
    row = Row(name, len(weights), None, reached, seconds)
    if reached > epsilon + 1e-9:
        return replace(row, note="does not hold between the points")
    if len(weights) > CROWD:
        return replace(row, note=f"not pruned: above {CROWD} planes")
    found = cover(
        setting.planes(weights), setting.region, setting.value, setting.region.vertices(),
        epsilon, free=(0,),
    )  # fmt: skip
    return replace(row, kept=len(found.members), note="" if found.optimal else "kept: not proven")


def drawn(setting: Setting, asked: Asked) -> Row:
    """The strategy random, by the mean of some seeds."""
    rows = [
        measure(
            setting, asked.epsilon, "random",
            lambda seed=seed: strategies.random(setting, replace(asked, seed=seed)),
        )
        for seed in range(DRAWN)
    ]  # fmt: skip
    if any(row.trainings is None for row in rows):
        return next(row for row in rows if row.trainings is None)
    means = {key: float(np.mean([getattr(row, key) for row in rows]))
             for key in ("trainings", "reached", "seconds")}  # fmt: skip
    if all(row.kept is not None for row in rows):
        means["kept"] = float(np.mean([row.kept for row in rows]))
    return Row("random", **means, note=f"mean of {DRAWN} seeds")


def lattice_cover(setting: Setting, epsilon: float, only_points: bool = False) -> np.ndarray:
    """The fewest weights of a lattice of up to 496, by set cover: over all of W, or at its points.

    Raises:
        PaletteError: the lattice cannot hold ε on all of W.
    """
    region = setting.region
    lattice = region.lattice(region.lattice_steps(LATTICE, LATTICE))
    planes = setting.planes(lattice)
    if only_points:
        covers = covering(planes, lattice, setting.value(lattice), epsilon)
        chosen, _ = fewest(covers, free=(0,), keep=())
        return lattice[np.array(sorted(chosen), dtype=int) - 1]
    if region.d > 3 and epsilon < SLOW:
        raise PaletteError("not run: its programs took minutes already for 5 %")
    try:
        kept, _ = palm.prune_exact(setting, planes.take(range(1, len(planes))), epsilon)
    except ValueError as error:
        raise PaletteError(f"the lattice of {len(lattice)}: {error}") from None
    return lattice[kept]


def optimistic(setting: Setting, epsilon: float) -> np.ndarray:
    weights, done = ols.support(setting, epsilon, CALLS)
    if not done:
        raise PaletteError(f"not done after {CALLS} trainings")
    return weights


def grid(setting: Setting, epsilon: float) -> Iterator[Row]:
    """PALM's grid, a training for each point, pruned greedily and exactly."""
    d = setting.region.d
    steps = palm.levels(d, epsilon, DELTA)
    size = palm.grid_size(d, DELTA, steps)
    greedy, exact = (
        Row(f"palm-grid, pruned {way}", size, note=f"δ {DELTA}; ")
        for way in ("greedily", "exactly")
    )
    too_many = {row: f"not pruned: above {most:,} planes" for row, most in
                ((greedy, GREEDY), (exact, EXACT)) if size > most}  # fmt: skip
    if greedy in too_many:
        yield from (replace(row, note=row.note + too_many[row]) for row in (greedy, exact))
        return
    started = time.perf_counter()
    weights = palm.grid(setting.region, DELTA, steps)
    seconds = time.perf_counter() - started
    print(f"  palm-grid of {size:,}", file=sys.stderr)
    planes = setting.ideal.tangents(weights, tuple(map(str, range(size))))
    yield _pruned(setting, weights, palm.prune_greedy(setting, planes, epsilon), greedy, seconds)
    if exact in too_many:
        yield replace(exact, note=exact.note + too_many[exact])
        return
    kept, proven = palm.prune_exact(setting, planes, epsilon)
    row = exact if proven else replace(exact, note=exact.note + "not proven the fewest; ")
    yield _pruned(setting, weights, kept, row, seconds)


def _pruned(
    setting: Setting, weights: np.ndarray, kept: np.ndarray, row: Row, seconds: float
) -> Row:
    reached = float(setting.shortfall(weights[kept]).epsilon().max())
    note = row.note + "ε by those kept"
    return replace(row, kept=len(kept), reached=reached, seconds=seconds, note=note)
