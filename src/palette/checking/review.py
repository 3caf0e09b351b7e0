"""Every number of portfolio.json, found again from the tables and compared."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from palette.checking.branching import Worst, least_epsilon, worst_regret
from palette.checking.covering import covered, stray_corners
from palette.checking.hardness import hardness
from palette.checking.mixtures import Mean, Mixture, mixtures
from palette.checking.resampling import Resampled, Upper
from palette.checking.sources import PLAN, Split, digests, read_json, read_split
from palette.checking.stated import Difference, Ledger, Stated


@dataclass(frozen=True)
class Review:
    differences: list[Difference]
    compared: int
    """how many numbers and claims were looked at"""
    worst: Worst | None
    """over all of W; None where the file fits the plan too badly to look"""
    upper: Upper | None


def review(
    stated: Stated, data: Path, tolerance: float, tell: Callable[[int, int, float], None]
) -> Review:
    """Recompute and compare, in the order in which a reader would want to know.

    Raises:
        PaletteError: a table is missing or damaged, or the tolerance is out of reach.
    """
    ledger, plan = Ledger(stated.content), read_json(data / PLAN)
    _against_plan(ledger, stated, plan)
    if ledger.differences:  # the tables speak of other traits or members than the file
        return Review(ledger.differences, ledger.compared, None, None)
    trained = [member["id"] for member in plan["members"]]
    _provenance(ledger, stated, data)
    select, certify = (
        read_split(data, split, stated.traits, trained) for split in ("select", "certify")
    )
    names, beta = ["base", *stated.members], stated.content["beta"]
    judged_by = mixtures(certify, ["base", *trained], beta)
    routing, judging = (_Planes(split, names, beta) for split in (select, certify))

    _members(ledger, stated, routing, beta)
    _shares(ledger, stated, plan, certify, judged_by)
    _cells(ledger, stated, routing)
    worst = _everywhere(ledger, stated, routing, judging, judged_by, tolerance, tell)
    upper = _verdict(ledger, stated, plan, certify, judging, judged_by)
    for which, gap in hardness(judged_by["base"], stated.floor).items():
        ledger.close(("gap", which), gap)
    return Review(ledger.differences, ledger.compared, worst, upper)


class _Planes:
    """Policies' worths on one split."""

    def __init__(self, split: Split, names: list[str], beta: float) -> None:
        self.names = names
        self.by_prompt, self.cost_by_prompt = split.worth(names, beta)
        self.values, self.costs = self.by_prompt.mean(axis=1), self.cost_by_prompt.mean(axis=1)

    def worth(self, weights: np.ndarray) -> np.ndarray:
        """(K, P) at weights (P, d)."""
        return self.values @ weights.T - self.costs[:, None]

    def of_prompts(self, name: str, weights: np.ndarray) -> np.ndarray:
        """(P, prompts) at weights (P, d), of one policy."""
        k = self.names.index(name)
        return weights @ self.by_prompt[k].T - self.cost_by_prompt[k]


def _against_plan(ledger: Ledger, stated: Stated, plan: dict) -> None:
    planned = {member["id"]: member["weights"] for member in plan["members"]}
    ledger.same(("traits",), plan["traits"])
    ledger.close(("beta",), plan["beta"])
    for trait, least in plan["floor"].items():
        ledger.close(("region", trait), least)
    for name in stated.members:
        ledger.differ(f"members.{name}", "a member", "not in the plan", name not in planned)
        for trait, weight in planned.get(name, {}).items():
            ledger.close(("members", name, "weights", trait), weight)
    known = {"base", *stated.members}
    for key, (member, _) in stated.cells.items():
        ledger.differ(f"{key}.member", member, "no member", member not in known)
    member = stated.content["worst"]["member"]
    ledger.differ("worst.member", str(member), "no member", member not in known)


def _provenance(ledger: Ledger, stated: Stated, data: Path) -> None:
    found = digests(data, stated.traits)
    for file in sorted(found.keys() | stated.content["provenance"].keys()):
        ledger.same(("provenance", file), found.get(file, "no such file"))


def _members(ledger: Ledger, stated: Stated, select: _Planes, beta: float) -> None:
    for name, values, cost in zip(select.names, select.values, select.costs, strict=True):
        key = ("base",) if name == "base" else ("members", name)
        for trait, value in zip(stated.traits, values, strict=True):
            ledger.close((*key, "values", trait), value)
        ledger.close((*key, "cost"), cost)
        if name != "base":
            ledger.close((*key, "kl"), cost / beta)


def _shares(
    ledger: Ledger, stated: Stated, plan: dict, certify: Split, judged_by: dict[str, Mixture]
) -> None:
    trained = [member["id"] for member in plan["members"]]
    planes = _Planes(certify, ["base", *trained], stated.content["beta"])
    shares = {}
    for place, member in enumerate(plan["members"], start=1):
        at = stated.weights(member["weights"])[None]
        worth = planes.worth(at)[:, 0]
        room = judged_by[member["id"]].upward(at).mean() - worth[0]
        share = (worth[place] - worth[0]) / room if room > 0 else np.inf
        shares[member["id"]] = float(share) if np.isfinite(share) else None
    for name in stated.members:
        ledger.close(("members", name, "share"), shares[name])
    known = [share for share in shares.values() if share is not None]
    ledger.close(("adapters", "share_min"), min(known, default=None))
    ledger.close(("adapters", "share_mean"), np.mean(known) if known else None)


def _cells(ledger: Ledger, stated: Stated, select: _Planes) -> None:
    planes = dict(zip(select.names, zip(select.values, select.costs, strict=True), strict=True))
    for place, wrong in stray_corners(stated.cells, stated.floor, planes):
        ledger.differ(place, "a corner of its cell", wrong)
    volume = covered([corners for _, corners in stated.cells.values()], stated.floor)
    ledger.differ("cells", "cover all of W", f"cover {volume:.6%} of W", abs(volume - 1) > 1e-6)


def _everywhere(
    ledger: Ledger,
    stated: Stated,
    select: _Planes,
    certify: _Planes,
    judged_by: dict[str, Mixture],
    tolerance: float,
    tell: Callable[[int, int, float], None],
) -> Worst:
    """The corners of the file's cells against all of W, both by the estimate of f* that is convex.

    The upward-erring one is not quite convex from a finite sample, so it is taken at corners alone,
    where the verdict takes it; that nothing lies between them is a matter of convexity.
    """
    delta, means = stated.content["delta"], {n: Mean(judged_by[n]) for n in select.names}
    weights, members = stated.pairs
    at_corners = -np.inf
    for name in sorted(set(members)):
        own = weights[[member == name for member in members]]
        ideal = means[name](own)
        short = ideal - certify.worth(own)[certify.names.index(name)] - delta
        at_corners = max(at_corners, float(least_epsilon(short, ideal).max()))
    d = len(stated.floor)
    region = stated.floor + (1 - stated.floor.sum()) * np.eye(d)
    worst = worst_regret(
        region,
        select.worth(region),
        certify.worth(region),
        lambda policy, at: means[select.names[policy]](at),
        delta,
        tolerance,
        tell,
    )
    apart = not worst.low - 1e-6 <= at_corners <= worst.high + 1e-6
    ledger.differ(
        "cells: worst over all of W",
        f"{at_corners:.7g} at their corners",
        f"{worst.low:.7g} to {worst.high:.7g}",
        apart and min(at_corners, worst.low) < 1,
    )
    return worst


def _verdict(
    ledger: Ledger,
    stated: Stated,
    plan: dict,
    certify: Split,
    judging: _Planes,
    judged_by: dict[str, Mixture],
) -> Upper:
    content, looks = stated.content, plan.get("looks", 1)
    confidence = 1 - (1 - content["confidence"]) / 2 ** (looks - 1)
    ledger.same(("certificate", "looks"), looks)
    ledger.close(("certificate", "confidence"), confidence)
    ledger.same(("certificate", "prompts"), len(certify.topics))
    ledger.same(("certificate", "topics"), len(set(certify.topics)))

    weights, members = stated.pairs
    at_worst = stated.weights(content["worst"]["weights"])
    weights, members = np.vstack([weights, at_worst]), [*members, content["worst"]["member"]]
    ideal, worth = (np.empty((len(weights), len(certify.topics))) for _ in range(2))
    thin = 0.0
    for name in sorted(set(members)):
        own = np.array([member == name for member in members])
        ideal[own] = judged_by[name].upward(weights[own])
        worth[own] = judging.of_prompts(name, weights[own])
        own[-1] = False  # the worst is one of the pairs again
        if own.any():
            thin = max(thin, float(judged_by[name].thin(weights[own]).max()))
    best, reached, delta = ideal.mean(axis=1), worth.mean(axis=1), content["delta"]
    points = least_epsilon(best - reached - delta, best)
    ledger.close(("certificate", "epsilon_point"), points[:-1].max())
    listed = np.abs(weights[:-1] - at_worst).max(axis=1) <= 1e-9
    listed &= np.array(members[:-1]) == members[-1]
    ledger.differ("worst.weights", "the worst corner", "no corner of its cell", not listed.any())
    ledger.differ(
        "worst.weights",
        f"epsilon {points[-1]:.7g}",
        f"{points[:-1].max():.7g} elsewhere",
        points[-1] < points[:-1].max() - 1e-6,
    )
    ledger.close(("worst", "additive"), best[-1] - reached[-1])
    ledger.close(("worst", "multiplicative"), 1 - reached[-1] / best[-1] if best[-1] > 0 else None)
    ledger.close(("thin",), thin)

    draws = Resampled(certify.topics, confidence, content["certificate"]["draws"])
    upper = draws.upper(ideal[:-1], worth[:-1], delta)
    own = draws.upper(ideal[-1:], worth[-1:], delta)
    ledger.between(("certificate", "epsilon_upper"), upper.low, upper.high)
    ledger.between(("worst", "upper"), own.low, own.high)
    told = content.get("certificate", {}).get("epsilon_upper")
    passed = isinstance(told, int | float) and told <= content["epsilon"]
    ledger.same(("passed",), passed)
    _mend(ledger, stated, passed)
    return upper


def _mend(ledger: Ledger, stated: Stated, passed: bool) -> None:
    """Weights to train for next lie in W, and are named for a failure alone.

    What they are expected to bring is a forecast, and not part of the verdict.
    """
    named = stated.content.get("mend", {}).get("weights", [])
    ledger.differ("mend.weights", f"{len(named)} named", "none: it passed", passed and named != [])
    for place, weights in enumerate(named):
        at = stated.weights(weights)
        outside = abs(at.sum() - 1) > 1e-6 or (at < stated.floor - 1e-6).any()
        ledger.differ(f"mend.weights.{place}", str(at.tolist()), "lies outside W", bool(outside))
