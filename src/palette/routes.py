"""Stage `routes`: which member, and which edit, serves each user; by planes and f* on select.

python -m palette.routes
"""

from typing import Any

import numpy as np
import polars as pl

from palette import stage, tables
from palette.arrays import scored
from palette.core.envelope import Planes
from palette.core.routing import Routes, route
from palette.params import Params


def main(params: Params) -> None:
    users, (mean, low, high) = estimates(params.trait_names)
    planes = read_planes(tables.read_json(tables.DATA / "portfolio" / "portfolio.json"), params)
    groups = tables.read_json(tables.DATA / "subspaces" / "layers.json")["groups"]
    ideal = scored(params, ["select"]).ideal
    routes = route(planes, mean, low, high, lambda weights: ideal.value(weights).mean(axis=1))
    tables.write("routes", as_table(users, planes, routes, groups, params.routes.max_regret))


def estimates(names: list[str]) -> tuple[list[str], list[np.ndarray]]:
    """Users, and their weights, lower and upper ends: (users, traits) each."""
    rank = {name: place for place, name in enumerate(names)}
    rows = tables.read("weights").sort("user_id", pl.col("trait").replace_strict(rank))
    columns = [rows[name].to_numpy().reshape(-1, len(names)) for name in ("weight", "low", "high")]
    return rows["user_id"].to_list()[:: len(names)], columns


def read_planes(portfolio: dict[str, Any], params: Params) -> Planes:
    """The base, which costs nothing and goes first, and the members."""
    policies = [{"id": "base", "cost": 0.0, **portfolio["base"]}, *portfolio["members"]]
    values = [[policy["values"][trait] for trait in params.trait_names] for policy in policies]
    names = tuple(policy["id"] for policy in policies)
    return Planes(names, np.array(values), np.array([policy["cost"] for policy in policies]))


def as_table(
    users: list[str], planes: Planes, routes: Routes, groups: list[str], max_regret: float
) -> pl.DataFrame:
    """The table `routes`; users without directions of their own have those of the first group."""
    everyone, *own = groups
    named = set(own)
    return pl.DataFrame({
        "user_id": users,
        "member": [planes.names[member] for member in routes.member],
        "edit": [user if user in named else everyone for user in users],
        "regret": routes.regret, "worst_regret": routes.worst,
        "uncertain": routes.worst > max_regret,
    })  # fmt: skip


if __name__ == "__main__":
    stage.run(main)
