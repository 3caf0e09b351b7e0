"""What a report may show of answers: to a few test prompts, and of users who are public alone.

Which they are is the same in every stage: stages that answer for users write down what these users
were answered, and the report reads it.
"""

import hashlib

import polars as pl

from palette import tables
from palette.params import Params

PROMPTS = 3
"""Test prompts whose answers are shown."""
USERS = 100
"""Users whose answers are kept at most."""


def prompts() -> pl.DataFrame:
    """prompt_id and prompt of the first test prompts: none is picked by its answers."""
    asked = tables.read("prompts").filter(split="test").sort("prompt_id")
    return asked.select("prompt_id", "prompt").head(PROMPTS)


def users(baselines: pl.DataFrame) -> list[str]:
    """The public users who are shown: of the most methods first, then by the hashes of their names.

    A user who comes or goes changes little of who else is shown.

    Args:
        baselines: rows of the table `baselines`.
    """
    counted = baselines.group_by("user_id").agg(pl.col("method").n_unique())
    methods = dict(counted.rows())
    public = tables.read("users").filter("public")["user_id"].to_list()
    return sorted(public, key=lambda user: (-methods.get(user, 0), _digest(user)))[:USERS]


def answers(baselines: pl.DataFrame) -> pl.DataFrame:
    """The table `baseline_answers`: what public users were answered, each method's first answer.

    A control that is another user's edit is left out where that user is not public.

    Args:
        baselines: rows of the table `baselines`, with the column `response`.
    """
    kept = pl.col("user_id").is_in(users(baselines))
    chosen = baselines.filter(kept).join(prompts(), on="prompt_id", how="semi")
    public = tables.read("users").filter("public")
    own = baselines.filter(method="edit").join(public, on="user_id", how="semi")["policy"].unique()
    another = (pl.col("method") == "edit_other") & ~pl.col("policy").is_in(own.implode())
    return chosen.filter(~another).sort("method", "user_id", "prompt_id")


def of_members(params: Params, members: list[str]) -> pl.DataFrame:
    """The first answer of the base and of each member: prompt_id, prompt, member, response, reward_TRAIT.

    In the order of the prompts, and for each the base first.
    """
    columns = ["member", "prompt_id", "response", *(f"reward_{t}" for t in params.trait_names)]
    base = tables.read_rewards(params.trait_names).with_columns(member=pl.lit("base"))
    first = [
        frame.filter(pl.col("sample") == 0).select(columns)
        for frame in (base, tables.read("values"))
    ]
    order = pl.DataFrame({"member": ["base", *members]})
    return (
        prompts()
        .join(order, how="cross", maintain_order="left_right")
        .join(pl.concat(first), on=["prompt_id", "member"], how="left", maintain_order="left")
    )


def _digest(user: str) -> str:
    return hashlib.sha256(f"shown {user}".encode()).hexdigest()
