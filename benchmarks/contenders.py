"""Every way to plan, on the same f*: how many trainings, how many stay after pruning, how long.

Each has a process of its own, which is killed when its time is up: a solver in the middle of a program
hears nothing else. What was not done in time says so in its row.
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import ols
from joblib.externals.loky import get_reusable_executor

from palette.core import palm, planning, strategies
from palette.core.covering import cover, covering, fewest
from palette.core.moving import Setting
from palette.core.strategies import Asked
from palette.errors import PaletteError

LATTICE = 496  # points: 30 steps with three traits, as in the prototype
DELTA = 0.01  # the additive slack that PALM's grid needs: granted to it, and to no other
GREEDY, EXACT = 400_000, 20_000  # planes of a grid at most that are pruned
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


def compare(setting: Setting, epsilon: float, limit: float) -> tuple[int | None, list[Row]]:
    """The lower bound, and a row for each way to plan.

    Args:
        limit: seconds that each may take, pruning included.
    """
    none = np.empty((0, setting.region.d))
    asked = Asked("", epsilon, none)
    bound, minimal = within(limit, "minimal", partial(planned, setting, epsilon, none))
    ways: dict[str, Callable[[], np.ndarray]] = {
        "lazy": lambda: planning.lazy(setting, epsilon, none).weights,
        "uniform": lambda: strategies.uniform(setting, asked),
        "random": lambda: strategies.random(setting, asked),
        "lattice cover": lambda: lattice_cover(setting, epsilon),
        "lattice cover, at its points": lambda: lattice_cover(setting, epsilon, only_points=True),
        "optimistic linear support": lambda: optimistic(setting, epsilon),
    }
    rows = [minimal]
    for name, way in ways.items():
        work = partial(drawn, setting, asked) if name == "random" else partial(
            measure, setting, epsilon, name, way
        )  # fmt: skip
        rows.append(within(limit, name, work)[1])
    return bound, [*rows, *grid(setting, epsilon, limit)]


def within(limit: float, name: str, work: Callable[[], Any]) -> tuple[Any, Row]:
    """What `work` hands back, (extra, row); past the limit None, and a row that says so."""
    print(f"  {name}", file=sys.stderr, flush=True)
    executor = get_reusable_executor(max_workers=1, timeout=None)
    try:
        return executor.submit(work).result(timeout=limit)
    except TimeoutError:
        executor.shutdown(kill_workers=True)
        return None, Row(name, note=f"not done in {limit:g} s")


def planned(setting: Setting, epsilon: float, none: np.ndarray) -> tuple[int | None, Row]:
    bounds = []

    def minimal() -> np.ndarray:
        plan = planning.minimal(setting, epsilon, none, 20)
        bounds.append(plan.lower_bound)
        return plan.weights

    _, row = measure(setting, epsilon, "minimal", minimal)
    return next(iter(bounds), None), row


def measure(
    setting: Setting, epsilon: float, name: str, way: Callable[[], np.ndarray]
) -> tuple[None, Row]:
    started = time.perf_counter()
    try:
        weights = way()
    except PaletteError as error:
        return None, Row(name, note=str(error))
    seconds = time.perf_counter() - started
    reached = float(setting.shortfall(weights).epsilon().max())
    row = Row(name, len(weights), None, reached, seconds)
    if reached > epsilon + 1e-9:
        return None, replace(row, note="does not hold between the points")
    if len(weights) > CROWD:
        return None, replace(row, note=f"not pruned: above {CROWD} planes")
    found = cover(
        setting.planes(weights), setting.region, setting.value, setting.region.vertices(),
        epsilon, free=(0,),
    )  # fmt: skip
    note = "" if found.optimal else "kept: not proven"
    return None, replace(row, kept=len(found.members), note=note)


def drawn(setting: Setting, asked: Asked) -> tuple[None, Row]:
    """The strategy random, by the mean of some seeds."""
    rows = []
    for seed in range(DRAWN):
        own = replace(asked, seed=seed)
        way = partial(strategies.random, setting, own)
        rows.append(measure(setting, asked.epsilon, "random", way)[1])
        if rows[-1].trainings is None:
            return None, rows[-1]
    means = {key: float(np.mean([getattr(row, key) for row in rows]))
             for key in ("trainings", "reached", "seconds")}  # fmt: skip
    if all(row.kept is not None for row in rows):
        means["kept"] = float(np.mean([row.kept for row in rows]))
    return None, Row("random", **means, note=f"mean of {DRAWN} seeds")


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


def grid(setting: Setting, epsilon: float, limit: float) -> Iterator[Row]:
    """PALM's grid, a training for each point, pruned greedily and exactly."""
    d = setting.region.d
    steps = palm.levels(d, epsilon, DELTA)
    size = palm.grid_size(d, DELTA, steps)
    prunings = {"greedily": (GREEDY, palm.prune_greedy), "exactly": (EXACT, palm.prune_exact)}
    for way, (most, prune) in prunings.items():
        row = Row(f"palm-grid, pruned {way}", size, note=f"δ {DELTA}; ")
        if size > most:
            yield replace(row, note=f"{row.note}not pruned: above {most:,} planes")
            continue
        _, found = within(
            limit, row.strategy, partial(_pruned, setting, epsilon, steps, prune, row)
        )
        late = found.trainings is None
        yield replace(row, note=f"{row.note}pruning {found.note}") if late else found


def _pruned(
    setting: Setting, epsilon: float, steps: int, prune: Callable[..., Any], row: Row
) -> tuple[None, Row]:
    started = time.perf_counter()
    weights = palm.grid(setting.region, DELTA, steps)
    seconds = time.perf_counter() - started
    planes = setting.ideal.tangents(weights, tuple(map(str, range(len(weights)))))
    found = prune(setting, planes, epsilon)
    kept, proven = found if isinstance(found, tuple) else (found, True)
    reached = float(setting.shortfall(weights[kept]).epsilon().max())
    note = row.note + ("" if proven else "not proven the fewest; ") + "ε by those kept"
    return None, replace(row, kept=len(kept), reached=reached, seconds=seconds, note=note)
