"""Stage `baselines`: what a team would do instead, whatever the portfolio; on the test prompts.

    python -m palette.baselines

Prompting, edits and their controls, the soup of one adapter per trait, and one adapter per user.
"""

from pathlib import Path

import numpy as np
import polars as pl

from palette import members, policies, stage, subspaces, tables
from palette.params import Params
from palette.policies import Policy

TENTHS = 10
"""The soup is mixed at each user's weights rounded to tenths, so that users can share one."""
FOLDER = Path(".palette/baselines")


def main(params: Params) -> None:
    prompts = tables.read("prompts").filter(pl.col("split") == "test")
    directions = subspaces.read()
    users = tables.read("users")["user_id"].to_list()
    frames = [
        _method(params, "prompt", prompting(users), prompts, directions),
        _method(params, "edit", edits(users, directions.groups), prompts, directions),
        _method(
            params, "edit_random", edits(users, directions.groups), prompts,
            directions.random(params.baselines.seed),
        ),
        _method(params, "soup", soups(params, users), prompts, directions),
        _method(params, "per_user", own_adapters(params, users), prompts, directions),
    ]  # fmt: skip
    edited = frames[1]
    other = someone_else(edits(users, directions.groups), params.baselines.seed)
    values = edited.select("policy", "prompt_id", "kl", *_rewards(params)).unique(
        ["policy", "prompt_id"], maintain_order=True
    )
    frames.append(policies.assign(other, values, "edit_other"))
    tables.write("baselines", pl.concat(frames, how="diagonal"))


def prompting(users: list[str]) -> dict[str, Policy]:
    """User → the base with the user's personal insight in the prompt; without one, the base."""
    rows = tables.read("insights").filter(pl.col("kind") == "personal")
    insights = dict(rows.select("user_id", "insight").rows())
    return {user: Policy(insight=insights.get(user, "")) for user in users}


def edits(users: list[str], groups: tuple[str, ...]) -> dict[str, Policy]:
    """User → the base under the user's own directions, else those of everyone."""
    own = set(groups)
    return {user: Policy(edit=user if user in own else groups[0]) for user in users}


def someone_else(chosen: dict[str, Policy], seed: int) -> dict[str, Policy]:
    """User → the edit of another user with directions of their own: the control of `edit`."""
    distinct = sorted({policy for policy in chosen.values()})
    rng = np.random.default_rng([seed, 1])
    result = {}
    for user, policy in chosen.items():
        rest = [other for other in distinct if other != policy] or distinct
        result[user] = rest[rng.integers(len(rest))]
    return result


def soups(params: Params, users: list[str]) -> dict[str, Policy]:
    """User → the interpolation of one adapter per trait at the user's estimated weights."""
    names = params.trait_names
    corners = {name: {other: float(other == name) for other in names} for name in names}
    folders = _train(params, corners, "training one adapter per trait")
    mixed = {}
    for user, weights in estimated(names).items():
        tenths = round_to_sum(np.array(weights) * TENTHS, TENTHS)
        parts = zip(names, tenths, strict=True)
        mixed[user] = Policy(tuple((folders[name], n / TENTHS) for name, n in parts if n > 0))
    return {user: mixed[user] for user in users}


def own_adapters(params: Params, users: list[str]) -> dict[str, Policy]:
    """A few users, each → an adapter trained for the weights estimated from their history."""
    rows = dict(tables.read("users").select("user_id", "rows").rows())
    weights = estimated(params.trait_names)
    known = [user for user in users if rows[user] > 0]
    step = max(1, len(known) // max(1, params.baselines.per_user))
    few = known[::step][: params.baselines.per_user]
    wanted = {}
    for user in few:
        percent = round_to_sum(np.array(weights[user]) * 100, 100) / 100
        wanted[f"user-{user}"] = dict(zip(params.trait_names, percent.tolist(), strict=True))
    folders = _train(params, wanted, "training an adapter for a few users")
    return {user: Policy(((folders[f"user-{user}"], 1.0),)) for user in few}


def estimated(names: list[str]) -> dict[str, list[float]]:
    """User → estimated weights, in the order of the traits."""
    table = tables.read("weights").pivot("trait", index="user_id", values="weight")
    return {row[0]: list(row[1:]) for row in table.select("user_id", *names).rows()}


def round_to_sum(parts: np.ndarray, total: int) -> np.ndarray:
    """Integers that add up to `total`, each less than one away from its part."""
    whole = np.floor(parts)
    rest = np.argsort(whole - parts, kind="stable")[: round(total - whole.sum())]
    whole[rest] += 1
    return whole


def _train(params: Params, wanted: dict[str, dict[str, float]], words: str) -> dict[str, str]:
    for name, files in members.train(params, wanted, words).items():
        members.write(files, FOLDER / name)
    return {name: str(FOLDER / name) for name in wanted}


def _method(params, name, chosen, prompts, directions) -> pl.DataFrame:
    values = policies.worth(params, chosen.values(), prompts, directions, f"baseline: {name}")
    return policies.assign(chosen, values, name)


def _rewards(params: Params) -> list[str]:
    return [f"reward_{trait}" for trait in params.trait_names]


if __name__ == "__main__":
    stage.run(main)
