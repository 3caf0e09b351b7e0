"""How long do planning and the verdict take when traits and members are many?

    .venv/bin/python benchmarks/verdict.py           # d = 4, 6 and 8
    .venv/bin/python benchmarks/verdict.py --quick   # a fourth of the members

Rewards are numbers alone. Planning: four traits, 10,240 rollouts,
ε 5 %, the lower bound included. Verdict: 96 prompts of 256 rollouts, and 48 answers of each member,
which draws from the ideal policy of its own weights; cells from the planes, the pairs of vertex and
member, the evidence from each member's mixture, and the bound over all pairs.
"""

import csv
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import typer
import worlds
from rich.console import Console
from rich.table import Table

from palette.core import planning
from palette.core.certificate import verdict
from palette.core.envelope import cells, pairs
from palette.core.ideal import Ideal
from palette.core.mixture import mixture
from palette.core.pruning import Bench
from palette.core.region import Region

RESULTS = Path(__file__).parent / "results" / "verdict.csv"
PROMPTS, ROLLOUTS, ANSWERS = 96, 256, 48
CASES = ((6, 32), (8, 64))
BOOTSTRAP = 2000


def main(quick: bool = typer.Option(False, help="a fourth of the members")) -> None:
    rows = planned()
    for d, members in CASES:
        rows += judged(d, members // 4 if quick else members)
    table = Table("what", "size", "seconds", title="Time of planning and of the verdict")
    for what, size, seconds in rows:
        table.add_row(what, size, f"{seconds:.2f}")
    Console(width=100).print(table)
    if not quick:
        RESULTS.parent.mkdir(exist_ok=True)
        with RESULTS.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("what", "size", "seconds"), *rows])


def planned() -> list[tuple[str, str, float]]:
    setting = worlds.synthetic(4, 0)
    plan, seconds = timed(lambda: planning.minimal(setting, 0.05, np.empty((0, 4)), 20))
    found = f"{len(plan.weights)} members, lower bound {plan.lower_bound}"
    return [("planning, 4 traits, 10,240 rollouts, ε 5%", found, seconds)]


def judged(d: int, members: int) -> list[tuple[str, str, float]]:
    region, bench = Region((0.0,) * d), world(d, members)
    case = f"{d} traits, {members} members: "
    parts, cut = timed(lambda: cells(bench.planes, region))
    (weights, routed), listed = timed(lambda: pairs(parts))
    evidence, seen = timed(lambda: bench.evidence(weights, routed))
    found, bounded = timed(lambda: verdict(evidence, 0.05, 0.0, 0.95, BOOTSTRAP, 0))
    rows = [
        (case + "cells", f"{len(parts)} cells", cut),
        (case + "pairs", f"{len(weights):,} pairs", listed),
        (case + "evidence", f"{evidence.ideal.size:,} values of f*", seen),
        (case + "bound", f"ε {found.epsilon_point:.1%}, upper {found.epsilon_upper:.1%}", bounded),
    ]
    return [*rows, (case + "verdict", "all of these", cut + listed + seen + bounded)]


def world(d: int, members: int) -> Bench:
    """The base and members that draw from ideal policies among many answers of each prompt."""
    rng = np.random.default_rng(d)
    pool = Ideal(
        worlds.synthetic(d, d, PROMPTS).ideal.rewards, worlds.BETA
    )  # (prompts, answers, d)
    count = pool.rewards.shape[1]
    weights = rng.dirichlet(np.ones(d), size=members)
    rollouts = rng.integers(count, size=(PROMPTS, ROLLOUTS))
    rows = np.arange(PROMPTS)[:, None]
    drawn, flat = pool.rewards[rows, rollouts], np.full((PROMPTS, ROLLOUTS), -np.log(count))
    ideal = Ideal(drawn, worlds.BETA)
    values, costs, mixtures = [ideal.base()], [np.zeros(PROMPTS)], [ideal]
    for own in weights:
        scores = pool.rewards @ own / worlds.BETA
        log_chance = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
        picked = np.array([rng.choice(count, size=ANSWERS, p=np.exp(row)) for row in log_chance])
        answers = pool.rewards[rows, picked]
        values.append(answers.mean(axis=1))
        costs.append(worlds.BETA * (np.exp(log_chance) * (log_chance + np.log(count))).sum(axis=1))
        base = flat, flat[:, :ANSWERS]
        member = log_chance[rows, rollouts], log_chance[rows, picked]
        mixtures.append(mixture((drawn, answers), base, member, worlds.BETA))
    names = ("base", *map(str, range(members)))
    topics = np.arange(PROMPTS)
    return Bench(names, ideal, np.array(values), np.array(costs), topics, tuple(mixtures))


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - started
    print(f"{seconds:.1f} s", file=sys.stderr)
    return result, seconds


if __name__ == "__main__":
    typer.run(main)
