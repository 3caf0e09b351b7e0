"""Stage `routes`: which member, and which edit, serves each user; by planes and f* on select.

python -m palette.routes
"""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from palette import stage, tables
from palette.arrays import scored
from palette.core.envelope import Planes
from palette.core.routing import Regrets, choose, regrets
from palette.errors import PaletteError
from palette.params import Params

USERS_AT_ONCE = 1 << 16


def main(params: Params) -> None:
    users, (mean, low, high) = estimates(params.trait_names)
    planes = read_planes(tables.read_json(tables.DATA / "portfolio" / "portfolio.json"), params)
    ideal = scored(params, ["select"]).ideal.condensed()
    before = read_previous(params.routes.previous)
    places = {name: place for place, name in enumerate(planes.names)}
    tables_of_users = []
    for start in range(0, len(users), USERS_AT_ONCE):
        some = slice(start, start + USERS_AT_ONCE)
        found = regrets(
            planes, mean[some], low[some], high[some],
            lambda weights: ideal.value(weights).mean(axis=1),
        )  # fmt: skip
        previous = np.array([places.get(before.get(user, ""), -1) for user in users[some]], int)
        member = choose(found, params.routes.rule, previous, params.routes.hysteresis)
        max_regret = params.routes.max_regret
        tables_of_users.append(as_table(users[some], planes, found, member, max_regret))
    routes = with_edits(pl.concat(tables_of_users))
    tables.write("routes", with_moves(routes, before))


def estimates(names: list[str]) -> tuple[list[str], list[np.ndarray]]:
    """Users, and their weights, lower and upper ends: (users, traits) each."""
    rank = {name: place for place, name in enumerate(names)}
    rows = tables.read("weights").sort("user_id", pl.col("trait").replace_strict(rank))
    columns = [rows[name].to_numpy().reshape(-1, len(names)) for name in ("weight", "low", "high")]
    return rows["user_id"].gather_every(len(names)).to_list(), columns


def read_planes(portfolio: dict[str, Any], params: Params) -> Planes:
    """The base, which costs nothing and goes first, and the members."""
    policies = [{"id": "base", "cost": 0.0, **portfolio["base"]}, *portfolio["members"]]
    values = [[policy["values"][trait] for trait in params.trait_names] for policy in policies]
    names = tuple(policy["id"] for policy in policies)
    return Planes(names, np.array(values), np.array([policy["cost"] for policy in policies]))


def read_previous(file: str | None) -> dict[str, str]:
    """User → member, from the file that routes.previous names; empty if it names none.

    Raises:
        PaletteError: the file is missing, lacks a column or an entry, or has a user twice.
    """
    if file is None:
        return {}
    source = Path(file)
    if not source.exists():
        raise PaletteError(
            f"routes.previous names '{source}', which does not exist; `palette keep-routes` "
            "writes inputs/routes/routes.csv"
        )
    try:
        frame = pl.read_csv(source, infer_schema=False).select("user_id", "member")
    except pl.exceptions.PolarsError:
        raise PaletteError(f"{source} is not a CSV with the columns user_id, member") from None
    if frame.null_count().sum_horizontal().item():
        raise PaletteError(f"{source} has an empty cell; give every row a user_id and a member")
    twice = frame.filter(pl.col("user_id").is_duplicated())
    if len(twice):
        raise PaletteError(f"{source} has user '{twice['user_id'][0]}' twice; keep one row")
    return dict(frame.rows())


def as_table(
    users: list[str],
    planes: Planes,
    found: Regrets,
    member: np.ndarray,
    max_regret: float,
) -> pl.DataFrame:
    """The table `routes` but for its columns on edits and moves."""
    rows = np.arange(len(users))
    worst = found.worst[rows, member]
    robust = choose(found, "robust")
    return pl.DataFrame({
        "user_id": users,
        "member": [planes.names[place] for place in member],
        "regret": found.at_mean[rows, member], "worst_regret": worst,
        "uncertain": worst > max_regret,
        "robust": [planes.names[place] for place in robust],
    })  # fmt: skip


def with_edits(routes: pl.DataFrame) -> pl.DataFrame:
    """Whose directions edit each user's answers, how strongly and on which layers.

    On a member it is what was chosen for that member; on the base, for the user's cluster.

    Raises:
        PaletteError: no choice was made for a user's member or cluster.
    """
    choice = "strength", "layers"
    clusters = tables.read("trials").filter("chosen", method="edit").select("cluster", *choice)
    members = tables.read("member_trials").filter("chosen").select("member", *choice)
    grouped = routes.join(tables.read("groups"), on="user_id").rename({"group": "edit"})
    on_base = pl.col("member") == "base"
    found = [
        grouped.filter(on_base).join(clusters, on="cluster"),
        grouped.filter(~on_base).join(members, on="member"),
    ]
    edited = pl.concat(found, how="diagonal").sort("user_id")
    unknown = routes.join(edited, on="user_id", how="anti")
    if len(unknown):
        raise PaletteError(
            f"no edit was tuned for user '{unknown['user_id'][0]}' on "
            f"'{unknown['member'][0]}'; run `dvc repro`"
        )
    return edited


def with_moves(routes: pl.DataFrame, before: dict[str, str]) -> pl.DataFrame:
    """`moved`: another member served the user before, be it that the portfolio no longer has it."""
    moved = [
        before.get(user, now) != now for user, now in routes.select("user_id", "member").rows()
    ]
    return routes.with_columns(moved=pl.Series(moved, dtype=pl.Boolean))


if __name__ == "__main__":
    stage.run(main)
