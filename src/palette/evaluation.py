"""Stage `evaluation`: what each method is worth to each user, under the user's true weights.

    python -m palette.evaluation

On test prompts, which took part in no choice. Where no true weights are known (anyone's own users),
the estimated ones judge.
"""

import numpy as np
import polars as pl

from palette import (
    arrays,
    judges,
    policies,
    revealed,
    served,
    shared,
    shown,
    side_effects,
    stage,
    tables,
    tastes,
    utilities,
)
from palette.adapters import ADAPTERS
from palette.core.envelope import Planes
from palette.measuring import Policy
from palette.params import Params


def main(params: Params) -> None:
    test = arrays.scored(params, ["test"])
    users, planes, routed = tastes.judging(params.trait_names), members_on(params, test), routes()
    known, baselines = unedited(params, planes, test.prompts), tables.read("baselines")
    chosen = as_they_are(params, users, routed)
    edited = edited_portfolio(params, test.prompts, known)
    frames = [
        from_routes(chosen, known),
        from_answers(baselines, known, users),
        from_answers(edited, known, users),
        ideal(params, test, users),
    ]
    tables.write("evaluation", compare(params, pl.concat(frames, how="diagonal"), test, users))
    tables.write("answers", answers(params, chosen, edited, known, shown.users(baselines)))
    members = [routed[user] for user in users["user_id"]]
    tables.write("utilities", utilities.compare(users, _weights(params, users), members, planes))
    tables.write("revealed", revealed.compare(params))
    tables.write("judged", judges.compare(params))


def members_on(params: Params, split: arrays.Scored) -> Planes:
    """The base and the portfolio's members, as one split's prompts have them."""
    portfolio = tables.read_json(tables.DATA / "portfolio" / "portfolio.json")
    names = [member["id"] for member in portfolio["members"]]
    return arrays.worths(params, split, names).planes


def routes(column: str = "member") -> dict[str, str]:
    """User → member, by the rule asked for; or by the rule `robust`, whatever was asked for."""
    return dict(tables.read("routes").select("user_id", column).rows())


def unedited(params: Params, planes: Planes, prompts: pl.DataFrame) -> pl.DataFrame:
    """The base and the members: member, policy (its name), kl, surprise, broken and reward_TRAIT."""
    rewards = {f"reward_{name}": planes.values[:, i] for i, name in enumerate(params.trait_names)}
    members = [() if name == "base" else ((str(ADAPTERS / name), 1.0),) for name in planes.names]
    frame = pl.DataFrame({
        "member": planes.names, "policy": [Policy(adapters).name for adapters in members],
        "kl": planes.costs / params.objective.beta, **rewards,
    })  # fmt: skip
    return frame.join(
        side_effects.of_unedited(params, prompts, planes.names[1:]), on="member",
        how="left", maintain_order="left",
    )  # fmt: skip


def as_they_are(params: Params, users: pl.DataFrame, routed: dict[str, str]) -> pl.DataFrame:
    """method, user_id, member of the unedited policies: base, best single one for all, portfolio.

    The portfolio twice: as routed, and routed by the least worst regret within intervals.
    """
    robust, single = routes("robust"), best_for_all(params)
    chosen = {
        "base": ["base"] * len(users),
        "single": [single] * len(users),
        "portfolio": [routed[user] for user in users["user_id"]],
        "portfolio_robust": [robust[user] for user in users["user_id"]],
    }
    return pl.concat(
        users.select("user_id", method=pl.lit(method), member=pl.Series(members, dtype=pl.String))
        for method, members in chosen.items()
    )


def from_routes(chosen: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """The worth of the policies that are served as they are."""
    worth = chosen.join(known, on="member", how="left", maintain_order="left")
    return worth.drop("member", "policy")


def best_for_all(params: Params) -> str:
    """The one policy with the best mean objective over seen users' estimated weights, on select."""
    planes = members_on(params, arrays.scored(params, ["select"]))
    seen = set(tables.read("users").filter(pl.col("cohort") == "seen")["user_id"])
    weights = [w for user, w in tastes.estimated(params.trait_names).items() if user in seen]
    return planes.names[int(planes.worth(np.array(weights)).mean(axis=0).argmax())]


def edited_portfolio(params: Params, prompts: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """Every user's routed member together with their edit."""
    chosen, edits = served.policies(params)
    known_names = set(known["policy"])
    fresh = {user: policy for user, policy in chosen.items() if policy.name not in known_names}
    words = "members together with edits"
    values = shared.worth(params, {"portfolio_edit": fresh}, prompts, edits, words)
    values = pl.concat([values, known.drop("member")], how="diagonal")
    return policies.assign(chosen, values, "portfolio_edit")


def from_answers(values: pl.DataFrame, known: pl.DataFrame, users: pl.DataFrame) -> pl.DataFrame:
    """Mean over prompts of methods that were sampled for each user.

    Who is left with the base, or with a member as it is, has its own worth: the noise of a few more
    answers of it, the same for all such users, would pass for a gain or a loss of the method.
    """
    columns = [name for name in known.columns if name not in ("member", "policy")]
    means = values.group_by("method", "user_id", "policy", maintain_order=True).agg(
        pl.col(columns).mean()
    )
    means = means.update(known.drop("member"), on="policy").drop("policy")
    return means.join(users.select("user_id"), on="user_id", how="semi", maintain_order="left")


def answers(
    params: Params,
    chosen: pl.DataFrame,
    edited: pl.DataFrame,
    known: pl.DataFrame,
    users: list[str],
) -> pl.DataFrame:
    """The table `answers`, of some users.

    Args:
        chosen: from `as_they_are`.
        edited: from `edited_portfolio`, which has no answers of what is left as it is.
    """
    policy_of = known.select("member", "policy")
    said = shown.of_members(params, known["member"].to_list()[1:]).join(policy_of, on="member")
    told = pl.concat([said, edited], how="diagonal").select("policy", "prompt_id", "response")
    told = told.join(shown.prompts(), on="prompt_id", how="semi").unique()
    given = pl.concat([chosen.join(policy_of, on="member"), edited], how="diagonal")
    given = given.select("method", "user_id", "policy").unique()
    rows = given.filter(pl.col("user_id").is_in(users)).join(told, on="policy")
    return rows.sort("method", "user_id", "prompt_id")


def ideal(params: Params, test: arrays.Scored, users: pl.DataFrame) -> pl.DataFrame:
    """π*_w at every user's weights."""
    values, kl = test.ideal.policy(_weights(params, users))
    means = values.mean(axis=1)
    columns = {f"reward_{name}": means[:, i] for i, name in enumerate(params.trait_names)}
    frame = pl.DataFrame({"user_id": users["user_id"], "kl": kl.mean(axis=1), **columns})
    return frame.with_columns(method=pl.lit("ideal"))


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


def _weights(params: Params, users: pl.DataFrame) -> np.ndarray:
    return users.select([f"w_{name}" for name in params.trait_names]).to_numpy()


if __name__ == "__main__":
    stage.run(main)
