"""How few adapters are enough when every user also has an edit? On a finished run of the pipeline.

    .venv/bin/python benchmarks/fewer_members.py     # some minutes; reads data/, writes results/

The best K of the trained members, for seen users at their estimated weights on select prompts; every
user routed among them and the base; the edit on top leads from the member's weights to the user's,
its strength and layers tuned on select as in the pipeline, one choice for all members. Worth is
measured on test prompts under true weights.
"""

from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import typer
from rich.console import Console
from rich.table import Table

from palette import arrays, edits, policies, routes, shared, tables, tastes, tuning
from palette.core.editing import Edit
from palette.core.envelope import Planes
from palette.core.tuning import representatives
from palette.measuring import Policy
from palette.params import Params
from palette.params_file import load
from palette.tuning import Unit

RESULTS = Path(__file__).parent / "results" / "fewer_members.csv"
SIZES = (0, 1, 2, 3, 4, 6, 12)
DRAWS = 2000


def main(sizes: list[int] = typer.Option(SIZES, help="numbers of members")) -> None:  # noqa: B008
    params = load()
    book = edits.read(params)
    portfolio = tables.read_json(tables.DATA / "portfolio" / "portfolio.json")
    planes = routes.read_planes(portfolio, params)
    members = {member["id"]: member["weights"] for member in portfolio["members"]}
    rows = []
    for size in sorted({min(size, len(members)) for size in sizes}):
        few = best(params, book, planes, size)
        chosen, made, choice = serve(params, book, few, members)
        for name, of_user in chosen.items():
            share, low, high = measure(params, of_user, made)
            rows.append({
                "members": size, "method": name, "share": share, "low": low, "high": high,
                "strength": choice[0], "layers": choice[1],
            })  # fmt: skip
        pl.DataFrame(rows).write_csv(
            RESULTS, float_precision=4
        )  # at once: the rest may be cut short
    show(pl.DataFrame(rows))


def best(params: Params, book: edits.Book, planes: Planes, size: int) -> Planes:
    """The base and the `size` members that are worth most to seen users, routed among them."""
    users, (weights, _, _) = routes.estimates(params.trait_names)
    seen = {user for group in book.clusters.values() for user in group}
    worth = planes.worth(weights[[user in seen for user in users]])  # (users, policies)
    subsets = [(0, *some) for some in combinations(range(1, len(planes)), size)]
    return planes.take(max(subsets, key=lambda some: worth[:, some].max(axis=1).mean()))


def serve(
    params: Params, book: edits.Book, few: Planes, members: dict[str, dict[str, float]]
) -> tuple[dict[str, dict[str, Policy]], dict[str, Edit], tuning.Choice]:
    """Method → user → policy: routed, and routed with an edit on top."""
    users, (weights, _, _) = routes.estimates(params.trait_names)
    routed = {user: few.names[i] for user, i in zip(users, few.best(weights), strict=True)}
    seen = {user for group in book.clusters.values() for user in group}
    units = []
    for name in few.names:
        served = [i for i, user in enumerate(users) if routed[user] == name and user in seen]
        stand = [users[served[i]] for i in representatives(weights[served], params.tuning.users)]
        units.append(Unit({"member": name}, "edit", stand, name, members.get(name), "members"))
    tuned = [frame.filter("chosen") for frame in tuning.tune(params, book, units)]
    strength, layers = tuned[0].select("strength", "layers").row(0)
    made: dict[str, Edit] = {}
    plain, edited = (
        {
            user: tuning.edited(book, user, "edit", choice, made, name, members.get(name))
            for user, name in routed.items()
        }
        for choice in (tuning.IDENTITY, (strength, layers))
    )
    return {"routed": plain, "with edits": edited}, made, (strength, layers)


def measure(
    params: Params, chosen: dict[str, Policy], made: dict[str, Edit]
) -> tuple[float, float, float]:
    """Share over seen users under true weights on test prompts, with an interval over users."""
    test = arrays.scored(params, ["test"])
    values = shared.worth(params, {"measured": chosen}, test.prompts, made, "test prompts")
    told = policies.assign(chosen, values, "measured")
    names = [f"reward_{name}" for name in params.trait_names]
    people = (
        tastes.judging(params.trait_names).filter(group="seen")
        .join(told.group_by("user_id").agg(pl.col("kl", *names).mean()), on="user_id")
        .sort("user_id")
    )  # fmt: skip
    weights = people.select(f"w_{name}" for name in params.trait_names).to_numpy()
    base = weights @ test.ideal.base().mean(axis=0)
    gain = (people.select(names).to_numpy() * weights).sum(axis=1) - base
    gain -= params.objective.beta * people["kl"].to_numpy()
    gain[[chosen[user] == Policy() for user in people["user_id"]]] = 0.0
    room = test.ideal.value(weights).mean(axis=1) - base
    drawn = np.random.default_rng(0).multinomial(
        len(gain), np.full(len(gain), 1 / len(gain)), DRAWS
    )
    low, high = np.quantile((drawn @ gain) / (drawn @ room), [0.025, 0.975])
    return float(gain.sum() / room.sum()), float(low), float(high)


def show(table: pl.DataFrame) -> None:
    shown = Table("members", "routed", "with edits", "strength", "layers")
    for (size,), frame in table.group_by("members", maintain_order=True):
        cells = [
            f"{r['share']:.2f} ({r['low']:.2f} to {r['high']:.2f})" for r in frame.rows(named=True)
        ]
        last = frame.row(-1, named=True)
        shown.add_row(str(size), *cells, f"{last['strength']:g}", last["layers"])
    Console(width=110).print(shown)


if __name__ == "__main__":
    typer.run(main)
