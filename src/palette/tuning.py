"""How strong an edit is, and on which layers: a stage for the base, and one for the members.

    python -m palette.tuning base       # of every method, for every cluster of users
    python -m palette.tuning members    # of the edit on top of every member, for those it serves

Every method, cluster and member has the same trials, params.tuning.strengths × params.tuning.layers
beside the identity, and the same answers for each: of the select prompts, with the same random
numbers, judged at the estimated weights of a few seen users. Nothing else takes part in the choice.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import polars as pl

from palette import edits as books
from palette import policies, routes, stage, tables
from palette.core import tuning as core
from palette.core.editing import Edit
from palette.errors import PaletteError
from palette.measuring import Policy
from palette.params import Params
from palette.trials import Choice, Measured, as_table, measure

TUNED = ("edit", "edit_random", "edit_mean", "chameleon_tuned")
"""The methods whose strength and layers are chosen; of the published rule both are given."""
IDENTITY = (0.0, "all")
KEYS = {"trials": ("method", "cluster"), "member_trials": ("member",)}
"""table → the columns that name what one choice is made for"""


@dataclass(frozen=True)
class Unit:
    """What one choice is made for: a method and a cluster, or a member."""

    name: dict[str, str]
    """its columns in the table"""
    method: str
    users: list[str]
    """who stand for it"""
    member: str = "base"
    reference: Mapping[str, float] | None = None
    """trait → weight of the member"""
    pool: str = ""
    """units of one pool keep one choice between them; alone where it is empty"""


def main(params: Params) -> None:
    what = _asked()
    book = books.read(params)
    units = clusters(params, book) if what == "trials" else members(params, book)
    found = [tables.empty(what), *tune(params, book, units)]
    table = pl.concat(found, how="diagonal_relaxed")
    tables.write(what, table.sort(*KEYS[what], "layers", "strength"))


def chosen() -> dict[tuple[str, str], Choice]:
    """(method, cluster) → strength and layers of its edits on the base."""
    rows = tables.read("trials").filter("chosen").select("method", "cluster", "strength", "layers")
    return {(method, cluster): tuple(choice) for method, cluster, *choice in rows.iter_rows()}


def above_the_first_layer(cluster: str) -> Choice:
    """The best trial of a cluster's edit that leaves the first layer alone; or the identity."""
    rows = tables.read("trials").filter(method="edit", cluster=cluster)
    able = rows.filter((pl.col("layers") != "all") | (pl.col("strength") == 0))
    if able.is_empty():
        return IDENTITY
    best = able.sort("objective", descending=True, nulls_last=True).row(0, named=True)
    return best["strength"], best["layers"]


def policy(
    book: books.Book,
    user: str,
    method: str,
    chosen: Mapping[tuple[str, str], Choice],
    edits: dict[str, Edit],
) -> Policy:
    """The policy of a user under a tuned method; its edit is added to `edits`.

    Returns:
        The base where the identity was chosen for the user's cluster.

    Raises:
        PaletteError: nothing was chosen for the user's cluster.
    """
    unit = method, book.cluster(user)
    if unit not in chosen:
        raise PaletteError(f"no {method} was tuned for cluster '{unit[1]}'; run `dvc repro tuning`")
    return edited(book, user, method, chosen[unit], edits)


def edited(
    book: books.Book,
    user: str,
    method: str,
    choice: Choice,
    edits: dict[str, Edit],
    member: str = "base",
    reference: Mapping[str, float] | None = None,
) -> Policy:
    """The base, or a member, with a user's edit at some strength on some layers.

    The edit is added to `edits` by a name that says whose, on what and how strong it is: users of
    one group share one object.

    Args:
        reference: trait → weight of the member.
    """
    strength, layers = choice
    adapters = () if member == "base" else ((str(tables.DATA / "adapters" / member), 1.0),)
    if strength == 0:
        return Policy(adapters)
    # The published directions are everyone's, whatever group the user is of.
    group = "everyone" if method.startswith("chameleon") else book.group(user)
    key = f"{method}|{group}|{member}|{layers}|{strength:g}"
    if key not in edits:
        edits[key] = book.edit(user, method, reference, layers) * strength
    return Policy(adapters, key)


def clusters(params: Params, book: books.Book) -> list[Unit]:
    """Every method and cluster, with the seen users who stand for the cluster."""
    users, weights = _estimates(params)
    stand = {
        cluster: _representatives(params, seen, users, weights)
        for cluster, seen in book.clusters.items()
    }
    return [
        Unit({"method": method, "cluster": cluster}, method, stand[cluster])
        for method, cluster in product(TUNED, sorted(stand))
    ]


def members(params: Params, book: books.Book) -> list[Unit]:
    """Every member, with some of the seen users who would be routed to it by their estimates.

    One choice for all: what an edit can still add to a member is little beside the noise of a trial.
    """
    portfolio = tables.read_json(tables.DATA / "portfolio" / "portfolio.json")
    planes = routes.read_planes(portfolio, params)
    users, weights = _estimates(params)
    serves = dict(zip(users, (planes.names[i] for i in planes.best(weights)), strict=True))
    seen = sorted(user for group in book.clusters.values() for user in group)
    units = []
    for member in portfolio["members"]:
        served = [user for user in seen if serves[user] == member["id"]]
        stand = _representatives(params, served, users, weights)
        name = {"member": member["id"]}
        units.append(Unit(name, "edit", stand, member["id"], member["weights"], "members"))
    return units


def tune(params: Params, book: books.Book, units: Sequence[Unit]) -> list[pl.DataFrame]:
    """Every trial of each unit, one of them chosen."""
    trials = [IDENTITY, *product(params.tuning.strengths, params.tuning.layers)]
    edits: dict[str, Edit] = {}
    plan = [
        [
            [edited(book, user, unit.method, trial, edits, unit.member, unit.reference)
             for user in unit.users]
            for trial in trials
        ]
        for unit in units
    ]  # fmt: skip
    tried = [policy for unit in plan for trial in unit for policy in trial]
    values = policies.worth(
        params, tried, tables.read("prompts").filter(pl.col("split") == "select"), edits,
        "tuning edits", params.tuning.samples, key=("tuning", params.tuning.seed),
        # All trials of an edit: its name without layers and strength.
        together={policy: policy.edit.rsplit("|", 2)[0] for policy in tried if policy.edit},
    )  # fmt: skip
    answers = {name: frame for (name,), frame in values.group_by("policy", maintain_order=True)}
    weights = dict(zip(*_estimates(params), strict=True))
    met = [
        measure(params, rows, [weights[user] for user in unit.users], answers)
        if unit.users
        else None
        for unit, rows in zip(units, plan, strict=True)
    ]
    return [
        as_table(trials, own, _best(unit, units, met)).with_columns(
            pl.lit(value).alias(column) for column, value in unit.name.items()
        )
        for unit, own in zip(units, met, strict=True)
    ]


def _best(unit: Unit, units: Sequence[Unit], met: Sequence[Measured | None]) -> int:
    """The trial that a unit keeps, chosen with all of its pool that somebody stands for."""
    pool = [
        own
        for other, own in zip(units, met, strict=True)
        if own is not None and (other is unit or (unit.pool and other.pool == unit.pool))
    ]
    if not pool:
        return 0
    return core.choose(
        np.mean([own.objective for own in pool], axis=0),
        np.mean([own.broken for own in pool], axis=0),
    )


def _estimates(params: Params) -> tuple[list[str], np.ndarray]:
    """Users, and their estimated weights (users, traits)."""
    users, (mean, _, _) = routes.estimates(params.trait_names)
    return users, mean


def _representatives(
    params: Params, among: Sequence[str], users: Sequence[str], weights: np.ndarray
) -> list[str]:
    place = {user: row for row, user in enumerate(users)}
    own = weights[[place[user] for user in among]]
    return [among[row] for row in core.representatives(own, params.tuning.users)]


def _asked() -> str:
    """The table to write."""
    asked = {"base": "trials", "members": "member_trials"}
    if len(sys.argv) != 2 or sys.argv[1] not in asked:
        raise PaletteError("say what to tune edits on: python -m palette.tuning base, or members")
    return asked[sys.argv[1]]


if __name__ == "__main__":
    stage.run(main)
