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
    edited = edits(users, directions.groups)
    chosen = {
        "prompt": prompting(users),
        "edit": edited,
        "edit_random": edited,
        **trained(params, users),
    }
    of_method = {"edit_random": directions.random(params.baselines.seed)}
    answers = {
        method: policies.worth(
            params, of_user.values(), prompts, of_method.get(method, directions),
            f"baseline: {method}",
        )
        for method, of_user in chosen.items()
    }  # fmt: skip
    frames = [policies.assign(chosen[method], answers[method], method) for method in chosen]
    # Another user's edit is some user's own: its answers are there already.
    other = someone_else(edited, params.baselines.seed)
    frames.append(policies.assign(other, answers["edit"], "edit_other"))
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


def trained(params: Params, users: list[str]) -> dict[str, dict[str, Policy]]:
    """The two methods that train, all their adapters together: `soup` and `per_user`."""
    names, weights = params.trait_names, estimated(params.trait_names)
    corners = {name: {other: float(other == name) for other in names} for name in names}
    few = own_adapters(params, users, weights)
    folders = {}
    wanted = corners | {f"user-{user}": own for user, own in few.items()}
    for name, files in members.train(params, wanted, "training baselines' adapters").items():
        members.write(files, FOLDER / name)
        folders[name] = str(FOLDER / name)
    return {
        "soup": {user: soup(names, weights[user], folders) for user in users},
        "per_user": {user: Policy(((folders[f"user-{user}"], 1.0),)) for user in few},
    }


def soup(names: list[str], weights: list[float], folders: dict[str, str]) -> Policy:
    """The interpolation of one adapter per trait at a user's estimated weights."""
    tenths = round_to_sum(np.array(weights) * TENTHS, TENTHS)
    parts = zip(names, tenths, strict=True)
    return Policy(tuple((folders[name], n / TENTHS) for name, n in parts if n > 0))


def own_adapters(
    params: Params, users: list[str], weights: dict[str, list[float]]
) -> dict[str, dict[str, float]]:
    """A few users with a history → trait → weight, in hundredths, of an adapter of their own."""
    rows = dict(tables.read("users").select("user_id", "rows").rows())
    known = [user for user in users if rows[user] > 0]
    step = max(1, len(known) // max(1, params.baselines.per_user))
    wanted = {}
    for user in known[::step][: params.baselines.per_user]:
        percent = round_to_sum(np.array(weights[user]) * 100, 100) / 100
        wanted[user] = dict(zip(params.trait_names, percent.tolist(), strict=True))
    return wanted


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


if __name__ == "__main__":
    stage.run(main)
