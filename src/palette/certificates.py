"""What a verdict says, and the content of portfolio.json: members, cells, certificate, conditions."""

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from palette.core.certificate import FEW, Evidence, Verdict
from palette.core.covering import least_epsilon
from palette.core.envelope import Cell
from palette.core.pruning import Bench, Pruned
from palette.core.region import Region
from palette.core.repair import Mend
from palette.params import Params

LATTICE = 500  # single policies at most that the best single one is looked for among


@dataclass(frozen=True)
class Portfolio:
    """What select decided; nothing here has seen certify."""

    bench: Bench
    """the base and the kept members, on select"""
    region: Region
    cells: list[Cell]
    """members by their index in the bench"""
    pruned: Pruned
    """members by their index among all trained ones"""


@dataclass(frozen=True)
class Judgement:
    verdict: Verdict
    weights: np.ndarray
    """(P, d): vertices"""
    members: np.ndarray
    """(P,): who is routed there"""
    thin: np.ndarray
    """(P,): share of certify prompts with too few samples for the ideal policy there"""
    unseen: float
    """by how much of f* the members' answers raise it most above what the base's rollouts show"""
    mixed: bool
    """whether members' answers take part in the estimate of f*"""
    unbounded: str
    """why there is no upper bound, where there is none"""
    looks: int
    """how often certify has been looked at, this time included"""


def describe(
    params: Params,
    plan: dict,
    portfolio: Portfolio,
    judgement: Judgement,
    certify: Bench,
    mend: Mend | None,
) -> dict[str, Any]:
    """The content of portfolio.json; infinite numbers are null.

    Members' values, cost and kl are on select, where they fix the cells and the routes; shares,
    gaps, `worst`, `thin` and `certificate` are on certify. `confidence` is what was asked for,
    `certificate.confidence` what this look was judged at.
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
        "confidence": params.portfolio.confidence,
        "traits": params.trait_names,
        "region": _by_trait(params, portfolio.region.floor),
        "passed": found.passed,
        "certificate": {
            "epsilon_point": _finite(found.epsilon_point),
            "epsilon_upper": _finite(found.epsilon_upper),
            "confidence": found.confidence,
            "draws": params.portfolio.bootstrap,
            "seed": params.portfolio.seed,
            "looks": judgement.looks,
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
        "mend": remedy(params, mend),
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
        "thin": float(judgement.thin.max()),
        "conditions": conditions(params, judgement),
    }


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """The content with a digest of itself: no signature, but an edit by hand shows."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return content | {"digest": hashlib.sha256(text.encode()).hexdigest()}


def remedy(params: Params, mend: Mend | None) -> dict[str, Any]:
    """What would mend the verdict, judged on select; nothing where it passed."""
    if mend is None:
        return {"weights": [], "expected": None, "advice": "It passed: nothing needs mending."}
    return {
        "weights": [_by_trait(params, weights) for weights in mend.weights],
        "expected": _finite(mend.expected),
        "advice": mend.advice,
    }


def trained(plan: dict) -> np.ndarray:
    """(K, d): the weights of all planned members, in their order."""
    rows = [[member["weights"][trait] for trait in plan["traits"]] for member in plan["members"]]
    return np.reshape(rows, (-1, len(plan["traits"])))


def member_shares(plan: dict, certify: Bench) -> dict[str, float | None]:
    """Trained member → share at its own weights on certify; null where the base is ideal already.

    Judged against the upward-erring f* of the member's mixture, as the verdict is: it errs downward.
    """
    weights = trained(plan)
    if not len(weights):
        return {}
    worth = certify.planes.worth(weights)
    base, reached = worth[:, 0], np.diagonal(worth[:, 1:])
    ideal = [certify.judge(1 + row).upward(own)[0] for row, own in enumerate(weights[:, None])]
    room = np.mean(ideal, axis=1) - base
    return {
        name: _finite((reached[row] - base[row]) / room[row]) if room[row] > 0 else None
        for row, name in enumerate(certify.names[1:])
    }


def gaps(region: Region, certify: Bench) -> dict[str, float | None]:
    """How hard the problem is: the worst multiplicative regret over W without a portfolio.

    `base`: of the base alone. `single`: of the best single policy, looked for among the ideal
    policies of a lattice: a description, a little above the truth, on which no verdict rests. One
    plane has one cell, so the region's own vertices are exact.
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


def unbounded(evidence: Evidence, verdict: Verdict) -> str:
    """Why a verdict has no upper bound, with the cure."""
    if not np.isfinite(evidence.ideal).all():
        return "f* overflows at some weights; raise objective.beta"
    if not math.isfinite(verdict.epsilon_point):
        return "at some weights the members are worth less than nothing, which no ε below 1 allows"
    return "the certify prompts have too few topics for this confidence; add topics"


def conditions(params: Params, judgement: Judgement) -> list[str]:
    """What the verdict rests on, as sentences for people."""
    limit, looks = params.rollouts.max_new_tokens, judgement.looks
    whose = "the base and of the members" if judgement.mixed else "the base alone"
    said = [
        "It holds on average over prompts like the certify prompts, not for each prompt.",
        f"It holds for these rewards ({', '.join(params.trait_names)}), for beta "
        f"{params.objective.beta:g}, and for sampling at temperature 1 with at most {limit} new "
        "tokens.",
        "It speaks of the unedited members, routed by each user's true weights.",
        f"It assumes that the samples of {whose} miss no kind of answer with a high reward.",
        f"It is look {looks} at the certify prompts, by the rounds of repair, judged at confidence "
        f"{judgement.verdict.confidence:.4g}; all looks together err with a probability below "
        f"{2 * (1 - params.portfolio.confidence):.2g}. Other changes made after a verdict was seen "
        "are not counted.",
    ]
    thin = float(judgement.thin.max())
    if thin > 0:
        said.append(
            f"Warning: at some weights, {thin:.0%} of the certify prompts have fewer than about "
            f"{FEW} samples that speak for the ideal policy (its KL to what they were drawn from "
            "nears the log of their number); raise rollouts.samples.certify."
        )
    if judgement.unseen > params.portfolio.epsilon / 4:
        said.append(
            "Warning: members' answers show kinds that the base's rollouts miss: with them f* is up "
            f"to {judgement.unseen:.1%} higher; raise rollouts.samples.certify, and ask what else "
            "no sample has shown."
        )
    if not math.isfinite(judgement.verdict.epsilon_upper):
        said.append(f"Warning: there is no upper bound: {judgement.unbounded}.")
    return said


def _by_trait(params: Params, numbers: Any) -> dict[str, float]:
    return dict(zip(params.trait_names, map(float, numbers), strict=True))


def _finite(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None
