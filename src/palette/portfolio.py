"""Keep the fewest trained members that hold on select, fix their cells there, judge on certify.

python -m palette.portfolio   # values, rewards, plan → data/portfolio/portfolio.json
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from palette import arrays, stage, tables
from palette.core.certificate import FEW, Verdict, thin_coverage, verdict
from palette.core.covering import least_epsilon
from palette.core.envelope import Cell, cells, pairs
from palette.core.pruning import Bench, prune
from palette.core.region import Region
from palette.params import Params

PORTFOLIO = Path("portfolio/portfolio.json")
PLAN = Path("plan/plan.json")
LATTICE = 500  # single policies at most that the best single one is looked for among


def main(params: Params) -> None:
    plan = tables.read_json(tables.DATA / PLAN)
    select, certify = (read_bench(params, plan, split) for split in ("select", "certify"))
    portfolio = keep(params, select)
    judgement = judge(params, portfolio, certify)
    content = describe(params, plan, portfolio, judgement, certify) | provenance(params)
    tables.write_json(tables.DATA / PORTFOLIO, content)


@dataclass(frozen=True)
class Portfolio:
    """What select decided; nothing here has seen certify."""

    bench: Bench
    """the base and the kept members, on select"""
    region: Region
    cells: list[Cell]
    """members by their index in the bench"""


@dataclass(frozen=True)
class Judgement:
    verdict: Verdict
    weights: np.ndarray
    """(P, d): vertices"""
    members: np.ndarray
    """(P,): who is routed there"""
    thin: np.ndarray
    """(P,): share of certify prompts with too few samples for the ideal policy there"""


def read_bench(params: Params, plan: dict, split: str) -> Bench:
    """The base and all trained members on one split's prompts."""
    rollouts = arrays.scored(params, [split])
    worths = arrays.worths(params, rollouts, [member["id"] for member in plan["members"]])
    return Bench(worths.names, rollouts.ideal, worths.values, worths.costs, rollouts.topics)


def keep(params: Params, select: Bench) -> Portfolio:
    """Prune, and cut the region into the cells of what is left, by select alone."""
    asked, region = params.portfolio, Region(tuple(params.floor))
    kept = prune(
        select, region, asked.epsilon, asked.delta, asked.confidence, asked.bootstrap, asked.seed
    )
    bench = select.take((0, *kept))
    return Portfolio(bench, region, cells(bench.planes, region))


def judge(params: Params, portfolio: Portfolio, certify: Bench) -> Judgement:
    """The verdict on certify over the cells that select fixed."""
    asked = params.portfolio
    weights, members = pairs(portfolio.cells)
    places = tuple(certify.names.index(name) for name in portfolio.bench.names)
    evidence = certify.take(places).evidence(weights, members)
    found = verdict(
        evidence, asked.epsilon, asked.delta, asked.confidence, asked.bootstrap, asked.seed
    )
    _, kl = certify.ideal.policy(weights)
    return Judgement(found, weights, members, thin_coverage(kl, certify.ideal.counts))


def describe(
    params: Params, plan: dict, portfolio: Portfolio, judgement: Judgement, certify: Bench
) -> dict[str, Any]:
    """The content of portfolio.json; infinite numbers are null.

    Members' values, cost and kl are on select, where they fix the cells and the routes; shares,
    gaps, `worst` and `certificate` are on certify.
    """
    found, names = judgement.verdict, portfolio.bench.names
    planes = portfolio.bench.planes
    shares = member_shares(plan, certify)
    weights_of = {member["id"]: member["weights"] for member in plan["members"]}
    members = [
        {
            "id": name,
            "weights": weights_of[name],
            "values": _by_trait(params, planes.values[row]),
            "cost": float(planes.costs[row]),
            "kl": float(planes.costs[row] / params.objective.beta),
            "share": shares[name],
        }
        for row, name in enumerate(names)
        if row > 0
    ]
    known = [share for share in shares.values() if share is not None]
    return {
        "epsilon": found.epsilon,
        "delta": found.delta,
        "beta": params.objective.beta,
        "confidence": found.confidence,
        "traits": params.trait_names,
        "region": _by_trait(params, portfolio.region.floor),
        "passed": found.passed,
        "certificate": {
            "epsilon_point": _finite(found.epsilon_point),
            "epsilon_upper": _finite(found.epsilon_upper),
            "prompts": len(certify.topics),
            "topics": len(np.unique(certify.topics)),
        },
        "worst": {
            "weights": _by_trait(params, judgement.weights[found.worst]),
            "member": names[judgement.members[found.worst]],
            "additive": _finite(found.additive),
            "multiplicative": _finite(found.multiplicative),
            "upper": _finite(found.upper),
        },
        "base": {"values": _by_trait(params, planes.values[0]), "cost": 0.0},
        "members": members,
        "cells": [
            {
                "member": names[cell.member],
                "vertices": [_by_trait(params, vertex) for vertex in cell.vertices],
            }
            for cell in portfolio.cells
        ],
        "adapters": {
            "share_min": min(known, default=None),
            "share_mean": sum(known) / len(known) if known else None,
        },
        "gap": gaps(portfolio.region, certify),
        "conditions": conditions(params, judgement),
    }


def member_shares(plan: dict, certify: Bench) -> dict[str, float | None]:
    """Trained member → share at its own weights on certify; null where the base is ideal already.

    Judged against the upward-erring f*, as the verdict is: a share here errs downward.
    """
    own = {m["id"]: [m["weights"][trait] for trait in plan["traits"]] for m in plan["members"]}
    weights = np.array([own[name] for name in certify.names[1:]]).reshape(len(own), -1)
    if not own:
        return {}
    worth = certify.planes.worth(weights)
    base, reached = worth[:, 0], np.diagonal(worth[:, 1:])
    room = certify.ideal.upward(weights).mean(axis=1) - base
    return {
        name: _finite((reached[row] - base[row]) / room[row]) if room[row] > 0 else None
        for row, name in enumerate(certify.names[1:])
    }


def gaps(region: Region, certify: Bench) -> dict[str, float | None]:
    """How hard the problem is: the worst multiplicative regret over W without a portfolio.

    `base`: of the base alone. `single`: of the best single policy, looked for among the ideal
    policies of a lattice. One plane has one cell, so the region's own vertices are exact.
    """
    vertices = region.vertices()
    ideal = certify.ideal.value(vertices).mean(axis=1)
    base = certify.planes.take([0]).worth(vertices)[:, 0]
    lattice = region.lattice(region.lattice_steps(LATTICE, LATTICE))
    single = certify.ideal.tangents(lattice, tuple(map(str, range(len(lattice))))).worth(vertices)
    return {
        "base": _finite(least_epsilon(ideal, base, 0.0).max()),
        "single": _finite(least_epsilon(ideal[:, None], single, 0.0).max(axis=0).min()),
    }


def conditions(params: Params, judgement: Judgement) -> list[str]:
    """What the verdict rests on, as sentences for people."""
    limit = params.rollouts.max_new_tokens
    said = [
        "It holds on average over prompts like the certify prompts, not for each prompt.",
        f"It holds for these rewards ({', '.join(params.trait_names)}), for beta "
        f"{params.objective.beta:g}, and for sampling at temperature 1 with at most {limit} new "
        "tokens.",
        "It speaks of the unedited members, routed by each user's true weights.",
        "It assumes that the base's samples miss no kind of answer with a high reward.",
    ]
    thin = float(judgement.thin.max())
    if thin > 0:
        said.append(
            f"Warning: at some weights, {thin:.0%} of the certify prompts have fewer than about "
            f"{FEW} samples that speak for the ideal policy (its KL to the base nears the log of "
            "the number of samples); raise rollouts.samples.certify."
        )
    if not math.isfinite(judgement.verdict.epsilon_upper):
        said.append(
            "Warning: the certify prompts have too few topics for an upper bound at this "
            "confidence; add topics."
        )
    return said


def provenance(params: Params) -> dict[str, dict[str, str]]:
    """sha256 of every file that the portfolio came from."""
    files = [tables.path("prompts"), tables.path("rollouts"), tables.path("values")]
    files += [tables.path("rewards", trait) for trait in params.traits]
    files.append(tables.DATA / PLAN)
    digest = {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return {"provenance": digest}


def _by_trait(params: Params, numbers: Any) -> dict[str, float]:
    return dict(zip(params.trait_names, map(float, numbers), strict=True))


def _finite(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None


if __name__ == "__main__":
    stage.run(main)
