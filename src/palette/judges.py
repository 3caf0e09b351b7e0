"""What traits held out of training say of the members' answers to the test prompts, beside the base's.

A member that gains on the rewards that it was trained for, and loses on one that it never met, may
have learnt to please the rewards alone.
"""

import numpy as np
import polars as pl

from palette import tables, traits
from palette.params import Params


def compare(params: Params) -> pl.DataFrame:
    """The table `judged`: a row for each judge, member of the portfolio and test prompt."""
    portfolio = tables.read_json(tables.DATA / "portfolio" / "portfolio.json")
    prompts = tables.read("prompts").filter(split="test").select("prompt_id", "prompt")
    if not params.judges or not portfolio["members"]:
        return tables.empty("judged")
    base = tables.read_rewards(list(params.traits)).join(prompts, on="prompt_id", how="semi")
    answers = tables.read("values").join(prompts, on="prompt_id", maintain_order="left")
    frames = []
    for member in portfolio["members"]:
        own = answers.filter(member=member["id"])
        weights = np.array([member["weights"][trait] for trait in params.trait_names])
        for judge, trait in params.judges.items():
            scores = traits.score_one(
                judge, trait, own["prompt"].to_list(), own["response"].to_list(),
                params.runtime.device,
            )  # fmt: skip
            said = _means(
                params, own.with_columns(pl.Series(f"reward_{judge}", scores)), weights, judge
            )
            known = _means(params, base, weights, judge).rename(
                {"reward": "base", "own": "own_base"}
            )
            both = said.join(known, on="prompt_id", maintain_order="left")
            frames.append(both.with_columns(judge=pl.lit(judge), member=pl.lit(member["id"])))
    return pl.concat(frames)


def _means(params: Params, answers: pl.DataFrame, weights: np.ndarray, judge: str) -> pl.DataFrame:
    """prompt_id, reward (the judge's) and own (w·r): means over the answers to each prompt."""
    names = [f"reward_{trait}" for trait in params.trait_names]
    own = answers.select(names).to_numpy() @ weights
    return (
        answers.select("prompt_id", reward=f"reward_{judge}").with_columns(own=pl.Series(own))
        .group_by("prompt_id", maintain_order=True).agg(pl.col("reward", "own").mean())
        .sort("prompt_id")
    )  # fmt: skip
