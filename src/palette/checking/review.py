"""Every number of portfolio.json, found again from the tables and compared."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from palette.checking.branching import Worst, least_epsilon, worst_regret
from palette.checking.covering import covered, stray_corners
from palette.checking.hardness import hardness
from palette.checking.judging import judge
from palette.checking.mixtures import Mean, Mixture, mixtures
from palette.checking.resampling import Upper
from palette.checking.shape import Plan, look_at
from palette.checking.sources import PLAN, Planes, Split, digests, read_json, read_split
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
    look_at(Plan, plan, data / PLAN)
    _against_plan(ledger, stated, plan)
    fits = not ledger.differences
    ledger.same(("digest",), stated.digest)
    if not fits:  # the tables speak of other traits or members than the file
        return Review(ledger.differences, ledger.compared, None, None)
    trained = [member["id"] for member in plan["members"]]
    _provenance(ledger, stated, data)
    select, certify = (
        read_split(data, split, stated.traits, trained) for split in ("select", "certify")
    )
    names, beta = ["base", *stated.members], stated.content["beta"]
    judged_by = mixtures(certify, ["base", *trained], beta)
    routing, judging = (Planes(split, names, beta) for split in (select, certify))

    _members(ledger, stated, routing, beta)
    _shares(ledger, stated, plan, certify, judged_by)
    _cells(ledger, stated, routing)
    worst = _everywhere(ledger, stated, routing, judging, judged_by, tolerance, tell)
    upper = judge(ledger, stated, plan, certify, judging, judged_by)
    for which, gap in hardness(judged_by["base"], stated.floor).items():
        ledger.close(("gap", which), gap)
    return Review(ledger.differences, ledger.compared, worst, upper)


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


def _members(ledger: Ledger, stated: Stated, select: Planes, beta: float) -> None:
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
    planes = Planes(certify, ["base", *trained], stated.content["beta"])
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
    ledger.close(("adapters", "share_mean"), float(np.mean(known)) if known else None)


def _cells(ledger: Ledger, stated: Stated, select: Planes) -> None:
    planes = dict(zip(select.names, zip(select.values, select.costs, strict=True), strict=True))
    for place, wrong in stray_corners(stated.cells, stated.floor, planes):
        ledger.differ(place, "a corner of its cell", wrong)
    volume = covered([corners for _, corners in stated.cells.values()], stated.floor)
    ledger.differ("cells", "cover all of W", f"cover {volume:.6%} of W", abs(volume - 1) > 1e-6)


def _everywhere(
    ledger: Ledger,
    stated: Stated,
    select: Planes,
    certify: Planes,
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
