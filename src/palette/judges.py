"""What traits held out of training say of the members' answers to the test prompts, beside the base's.

A member that gains on the rewards that it was trained for, and loses on one that it never met, may
have learnt to please the rewards alone.
"""

import polars as pl

from palette import scores, tables
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
        rows = answers.filter(member=member["id"])
        asked = rows["prompt"].to_list(), rows["response"].to_list()
        for judge in params.judges:
            given = pl.Series(f"reward_{judge}", scores.score_one(params, judge, *asked))
            said = _means(rows.with_columns(given), member["weights"], judge)
            known = _means(base, member["weights"], judge)
            known = known.rename({"reward": "base", "own": "own_base"})
            both = said.join(known, on="prompt_id", maintain_order="left")
            frames.append(both.with_columns(judge=pl.lit(judge), member=pl.lit(member["id"])))
    return pl.concat(frames)


def _means(answers: pl.DataFrame, weights: dict[str, float], judge: str) -> pl.DataFrame:
    """prompt_id, reward (the judge's) and own (w·r): means over the answers to each prompt."""
    own = pl.sum_horizontal(weight * pl.col(f"reward_{name}") for name, weight in weights.items())
    said = {"reward": pl.col(f"reward_{judge}").mean(), "own": own.mean()}
    return answers.group_by("prompt_id", maintain_order=True).agg(**said)
