"""The members side by side: what each was trained for, does, serves and weighs."""

import numpy as np
import polars as pl

from palette.reporting import colors, judges
from palette.reporting.run import Run, vertices


def table(run: Run) -> pl.DataFrame:
    """One row per policy, the base first.

    Columns: id, weight_TRAIT (null for the base), value_TRAIT, kl (nats), cost, share (on certify),
    users, region (part of W that it wins), mb (10^6 bytes); for each judge judge_TRAIT, its reward
    above the base's, with the ends _low and _high of an interval that holds for all members (on test).
    """
    traits = run.params.trait_names
    served = dict(run.routes["member"].value_counts().rows())
    won = parts_of_region(run.portfolio["cells"], traits)
    judged = judges.changes(run.judged, run.params.evaluation)
    base = {"id": "base", "kl": 0.0, "share": 0.0, **run.portfolio["base"]}
    return pl.DataFrame(
        [
            {
                "id": policy["id"],
                **{f"weight_{t}": policy.get("weights", {}).get(t) for t in traits},
                **{f"value_{t}": policy["values"][t] for t in traits},
                **{name: policy[name] for name in ("kl", "cost", "share")},
                "users": served.get(policy["id"], 0),
                "region": won.get(policy["id"], 0.0),
                "mb": run.sizes.get(policy["id"], (0.0, 0.0))[0],
                **judges.columns(judged, policy["id"]),
            }
            for policy in [base, *run.portfolio["members"]]
        ],
        infer_schema_length=None,
    )


def as_csv(members: pl.DataFrame) -> str:
    return members.with_columns(pl.col(pl.Float64).round_sig_figs(4)).write_csv()


def parts_of_region(cells: list[dict], traits: list[str]) -> dict[str, float]:
    """Member → the exact part of the region's volume that its cells fill; all add up to 1."""
    volumes: dict[str, float] = {}
    for cell in cells:
        own = volume(vertices(cell, traits))
        volumes[cell["member"]] = volumes.get(cell["member"], 0.0) + own
    total = sum(volumes.values())
    return {name: own / total for name, own in volumes.items()}


def volume(corners: np.ndarray) -> float:
    """Volume of a convex cell (V, d), without its last weight, which the others fix."""
    from scipy.spatial import ConvexHull

    free = corners[:, :-1]
    if free.shape[1] == 0:
        return 1.0
    if free.shape[1] == 1:
        return float(np.ptp(free))
    return float(ConvexHull(free).volume)


def perplexity(counts: np.ndarray) -> float | None:
    """exp of the entropy: how many equally used members would spread users the same."""
    if counts.sum() == 0:
        return None
    shares = counts[counts > 0] / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def numbers(run: Run) -> dict[str, str]:
    """Short names: members count from 1 in the portfolio's order."""
    return {"base": "base"} | {
        member["id"]: str(place) for place, member in enumerate(run.portfolio["members"], start=1)
    }


def shades(run: Run) -> dict[str, str]:
    traits = run.params.trait_names
    return {"base": colors.BASE} | {
        member["id"]: colors.mixed(np.array([member["weights"][trait] for trait in traits]))
        for member in run.portfolio["members"]
    }
