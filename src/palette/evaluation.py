"""Stage `evaluation`: what each method is worth to each user, under the user's true weights.

    python -m palette.evaluation

On test prompts, which took part in no choice. Where no true weights are known (anyone's own users),
the estimated ones judge.
"""

import numpy as np
import polars as pl

from palette import arrays, baselines, policies, stage, subspaces, tables, utilities
from palette.adapters import ADAPTERS
from palette.core.envelope import Planes
from palette.params import Params
from palette.policies import Policy


def main(params: Params) -> None:
    test = arrays.scored(params, ["test"])
    users, planes, routed = judges(params), members_on(params, test), routes()
    frames = [
        from_planes(params, planes, users, routed),
        from_answers(params, tables.read("baselines"), test, users),
        from_answers(params, edited_portfolio(params, test.prompts), test, users),
        ideal(params, test, users),
    ]
    tables.write("evaluation", compare(params, pl.concat(frames, how="diagonal"), test, users))
    chosen = [routed[user] for user in users["user_id"]]
    tables.write("utilities", utilities.compare(users, _weights(params, users), chosen, planes))


def judges(params: Params) -> pl.DataFrame:
    """user_id, group, and w_TRAIT: the true weights where known, else the estimated ones."""
    names = params.trait_names
    columns = [f"w_{name}" for name in names]
    estimated = [
        {"user_id": user, **dict(zip(columns, weights, strict=True))}
        for user, weights in baselines.estimated(names).items()
    ]
    judging = pl.DataFrame(estimated)
    hidden = tables.read("hidden")
    if set(columns) <= set(hidden.columns) and len(hidden):
        # A trait that the world does not know has no true weight: estimates judge then. Of some
        # of the world's traits, the true weights are what is left of them, again summing to one.
        total = pl.sum_horizontal(columns)
        true = hidden.select("user_id", *(pl.col(name) / total for name in columns))
        judging = judging.update(true, on="user_id")
    group = pl.when(pl.col("rows") == 0).then(pl.lit("no_history")).otherwise(pl.col("cohort"))
    return (
        tables.read("users").with_columns(group=group).join(judging, on="user_id").sort("user_id")
    )


def members_on(params: Params, split: arrays.Scored) -> Planes:
    """The base and the portfolio's members, as one split's prompts have them."""
    portfolio = tables.read_json(tables.DATA / "portfolio" / "portfolio.json")
    names = [member["id"] for member in portfolio["members"]]
    return arrays.worths(params, split, names).planes


def routes(column: str = "member") -> dict[str, str]:
    """User → member, by the rule asked for; or by the rule `robust`, whatever was asked for."""
    return dict(tables.read("routes").select("user_id", column).rows())


def from_planes(
    params: Params, planes: Planes, users: pl.DataFrame, routed: dict[str, str]
) -> pl.DataFrame:
    """The unedited policies: base, the best single member for all, and the portfolio.

    The portfolio twice: as routed, and routed by the least worst regret within intervals.
    """
    robust = routes("robust")
    single = best_for_all(params)
    chosen = {
        "base": ["base"] * len(users),
        "single": [single] * len(users),
        "portfolio": [routed[user] for user in users["user_id"]],
        "portfolio_robust": [robust[user] for user in users["user_id"]],
    }
    frames = []
    for method, members in chosen.items():
        rows = [planes.names.index(member) for member in members]
        kl = planes.costs[rows] / params.objective.beta
        frames.append(_rows(params, method, users, planes.values[rows], kl))
    return pl.concat(frames)


def best_for_all(params: Params) -> str:
    """The one policy with the best mean objective over seen users' estimated weights, on select."""
    planes = members_on(params, arrays.scored(params, ["select"]))
    seen = set(tables.read("users").filter(pl.col("cohort") == "seen")["user_id"])
    weights = [w for user, w in baselines.estimated(params.trait_names).items() if user in seen]
    return planes.names[int(planes.worth(np.array(weights)).mean(axis=0).argmax())]


def edited_portfolio(params: Params, prompts: pl.DataFrame) -> pl.DataFrame:
    """Every user's routed member together with their edit."""
    chosen = {
        row["user_id"]: Policy(
            () if row["member"] == "base" else ((str(ADAPTERS / row["member"]), 1.0),), row["edit"]
        )
        for row in tables.read("routes").iter_rows(named=True)
    }
    directions = subspaces.read()
    values = policies.worth(
        params, chosen.values(), prompts, directions, "members together with edits"
    )
    return policies.assign(chosen, values, "portfolio_edit")


def from_answers(
    params: Params, values: pl.DataFrame, test: arrays.Scored, users: pl.DataFrame
) -> pl.DataFrame:
    """Mean over prompts of methods that were sampled for each user.

    Who is left with the base has the base's own worth: the noise of a few more answers of it, the
    same for all such users, would pass for a gain or a loss of the method.
    """
    base = zip(params.trait_names, test.ideal.base().mean(axis=0), strict=True)
    known = {f"reward_{trait}": reward for trait, reward in base}
    means = values.group_by("method", "user_id", "policy", maintain_order=True).agg(
        pl.col([*known, "kl"]).mean()
    )
    is_base = pl.col("policy") == "base"
    means = means.with_columns(
        pl.when(is_base).then(pl.lit(reward)).otherwise(pl.col(name)).alias(name)
        for name, reward in known.items()
    ).drop("policy")
    return means.join(users.select("user_id"), on="user_id", how="semi", maintain_order="left")


def ideal(params: Params, test: arrays.Scored, users: pl.DataFrame) -> pl.DataFrame:
    """π*_w at every user's weights."""
    values, kl = test.ideal.policy(_weights(params, users))
    return _rows(params, "ideal", users, values.mean(axis=1), kl.mean(axis=1))


def compare(
    params: Params, worth: pl.DataFrame, test: arrays.Scored, users: pl.DataFrame
) -> pl.DataFrame:
    """Objective of every row, beside the base's and the ideal at the same weights."""
    names = params.trait_names
    weights = _weights(params, users)
    references = users.with_columns(
        base=weights @ test.ideal.base().mean(axis=0),
        ideal=test.ideal.value(weights).mean(axis=1),
    )
    reward = pl.sum_horizontal(pl.col(f"w_{name}") * pl.col(f"reward_{name}") for name in names)
    return (
        worth.join(references, on="user_id", how="inner", maintain_order="left")
        .with_columns(reward=reward)
        .with_columns(objective=pl.col("reward") - params.objective.beta * pl.col("kl"))
        .sort("method", "user_id")
    )


def _rows(params, method, users, values, kl) -> pl.DataFrame:
    columns = {f"reward_{name}": values[:, i] for i, name in enumerate(params.trait_names)}
    frame = pl.DataFrame({"user_id": users["user_id"], "kl": kl, **columns})
    return frame.with_columns(method=pl.lit(method))


def _weights(params: Params, users: pl.DataFrame) -> np.ndarray:
    return users.select([f"w_{name}" for name in params.trait_names]).to_numpy()


if __name__ == "__main__":
    stage.run(main)
