"""The users who exist: what they lose by their routes, under other utilities too, and the cost."""

import numpy as np
import polars as pl

from palette.core.utilities import UTILITIES
from palette.reporting.members import perplexity
from palette.reporting.run import Run

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95}

Numbers = dict[str, float | int | None]


def routing(run: Run, groups: list[str]) -> Numbers:
    """How many users there are, how they spread over the members, and what they lose by it.

    Regrets are f* − J on select, at the estimated weights (`regret`) and at worst within the user's
    interval (`worst_regret`): of all users under `routes.`, of seen ones under `routes.seen.`.
    """
    served = run.routes["member"].value_counts()["count"].to_numpy()
    members = run.evaluation.select("user_id", "group").unique()
    counts = {f"users.{group}": len(members.filter(group=group)) for group in groups}
    seen = run.routes.join(members.filter(group="seen"), on="user_id", how="semi")
    found = counts | {
        "users.total": len(run.users),
        "users.per_user": run.evaluation.filter(method="per_user")["user_id"].n_unique(),
        "routes.members": len(served),
        "routes.largest": served.max() / served.sum() if len(served) else None,
        "routes.perplexity": perplexity(served),
        "routes.uncertain": run.routes["uncertain"].mean(),
        "routes.moved": int(run.routes["moved"].sum()),
    }
    for prefix, rows in (("routes.", run.routes), ("routes.seen.", seen)):
        for name in ("regret", "worst_regret"):
            found |= spread(f"{prefix}{name}", rows[name])
    return found


def served(run: Run) -> pl.DataFrame:
    """How many users of each group every member serves: group, member, users. Counts, no names."""
    groups = run.evaluation.select("user_id", "group").unique()
    counted = run.routes.join(groups, on="user_id").group_by("group", "member")
    return counted.agg(users=pl.len()).sort("group", "member")


def spread(key: str, numbers: pl.Series) -> Numbers:
    """Mean, quantiles and the worst; None for all of them where there is no number."""
    quantiles = {f"{key}.{name}": numbers.quantile(q, "linear") for name, q in QUANTILES.items()}
    return {f"{key}.mean": numbers.mean(), **quantiles, f"{key}.worst": numbers.max()}


def true_regret(evaluation: pl.DataFrame, groups: dict[str, str]) -> Numbers:
    """f* − J of the portfolio on test under the judging weights, for each group of users."""
    found: Numbers = {}
    rows = evaluation.filter(method="portfolio")
    for group, prefix in groups.items():
        regret = rows.filter(group=group).select(pl.col("ideal") - pl.col("objective"))
        found |= spread(f"{prefix}regret.portfolio", regret.to_series())
    return found


def utilities(run: Run) -> Numbers:
    """How much of each utility's best member routing by the linear model loses, over all users.

    `beyond` is the part of the users who lose more than the ε asked of the portfolio.
    """
    found: Numbers = {}
    for name in UTILITIES:
        loss = run.utilities.filter(utility=name)["loss"]
        found |= {
            f"utility.{name}.loss.mean": loss.mean(),
            f"utility.{name}.loss.p95": loss.quantile(0.95, "linear"),
            f"utility.{name}.loss.beyond": (loss > run.portfolio["epsilon"]).mean(),
        }
    return found


def cost(run: Run) -> Numbers:
    """What is stored and loaded, against an adapter for every user. Sizes in 10^6 bytes."""
    users, count = len(run.users), len(run.sizes)
    found: Numbers = {"cost.ratio": users / count if count else None}
    for place, key in enumerate(("cost.mb", "cost.memory.mb")):
        total = float(np.sum([size[place] for size in run.sizes.values()]))
        found |= {key: total, f"{key}.per_user": total / count * users if count else None}
    return found
