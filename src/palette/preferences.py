"""Stage `preferences`: each user's weights, with intervals, from what the user wrote or chose.

python -m palette.preferences
"""

from datetime import UTC, datetime

import numpy as np
import polars as pl

from palette import scores, stage, tables
from palette.core.choices import Choices, Chooser, Prior, expected, from_rating, recency
from palette.core.preference import (
    COARSE,
    PARTICLES,
    Posterior,
    draw_particles,
    fit_chooser,
    fit_prior,
    posterior,
)
from palette.params import Params

PRIOR_USERS = 4096
"""Seen users that teach the prior; more would sharpen nothing that matters."""
CHOOSER_USERS = 512
"""Of these, those whose habits of choosing are measured."""
SEED = 0
DAY = 86_400.0
CHOOSER = tables.DATA / "preferences" / "chooser.json"


def main(params: Params) -> None:
    users = tables.read("users").sort("user_id")
    choices = compare(params, users)
    chooser, prior = learn(params, users, choices)
    found = posterior(choices, len(users), prior, chooser, params.preferences.level)
    evidence = choices.evidence(len(users))
    tables.write("weights", as_table(users, params.trait_names, found, evidence))
    tables.write_json(CHOOSER, {"scale": chooser.scale, "strangers": chooser.strangers})
    print(f"preferences: sharpness {chooser.scale:.2g}, {chooser.strangers:.0%} of rows by others")


def compare(params: Params, users: pl.DataFrame) -> Choices:
    """What users chose over what: history rows over what the base says, personal over neutral answers.

    Rows come first, then the pairs. A self-generated pair counts `preferences.pairs`.
    """
    place = users.select("user_id", "cohort").with_row_index("user")
    contrasts = tables.read("contrasts")
    rows = (
        tables.read("histories")
        .join(contrasts, on=["user_id", "row"], how="semi")
        .join(place, on="user_id")
        .sort("user", "row")
        .with_row_index("number")
    )
    own = rows.select("user_id", "row", "number", "prompt", "cohort")
    others = contrasts.join(own, on=["user_id", "row"]).sort("number", "sample")
    pairs = tables.read("pairs").join(place, on="user_id").sort("user", "pair")
    base, around = expected(
        rewards(params, others["prompt"], others["response"]),
        others["number"].to_numpy().astype(np.int64),
        (others["cohort"] == "seen").to_numpy(),
    )
    personal = rewards(params, pairs["prompt"], pairs["personal"])
    difference = [
        rewards(params, rows["prompt"], rows["response"]) - base,
        personal - rewards(params, pairs["prompt"], pairs["neutral"]),
    ]
    counts = recency(ages(rows), params.preferences.half_life)
    return Choices(
        pl.concat([rows["user"], pairs["user"]]).to_numpy().astype(np.int64),
        np.concatenate(difference),
        np.concatenate([from_rating(_numbers(rows["rating"])), np.ones(len(pairs))]),
        np.concatenate([counts, np.full(len(pairs), params.preferences.pairs)]),
        np.repeat([False, True], [len(rows), len(pairs)]),
        around,
    )


def rewards(params: Params, prompts: pl.Series, responses: pl.Series) -> np.ndarray:
    """(rows, traits)"""
    if prompts.is_empty():
        return np.zeros((0, len(params.trained)))
    return scores.score(params, prompts.to_list(), responses.to_list())


def ages(rows: pl.DataFrame) -> np.ndarray:
    """(rows,) days before the user's own latest row; NaN where either has no time."""
    said = rows["timestamp"].unique().drop_nulls()
    moments = {text: _seconds(text) for text in said}
    seconds = pl.col("timestamp").replace_strict(moments, default=None, return_dtype=pl.Float64)
    age = (seconds.max().over("user") - seconds) / DAY
    return _numbers(rows.select(age.alias("age"))["age"])


def learn(params: Params, users: pl.DataFrame, choices: Choices) -> tuple[Chooser, Prior]:
    """How seen users choose, and the distribution of their weights; unseen ones teach nothing."""
    seen = np.flatnonzero((users["cohort"] == "seen").to_numpy())
    drawn = np.random.default_rng(SEED).permutation(seen)
    some, few = np.sort(drawn[:PRIOR_USERS]), np.sort(drawn[:CHOOSER_USERS])
    settings, floor = params.preferences, np.array(params.floor)
    coarse = draw_particles(floor, SEED, COARSE)
    chooser = fit_chooser(choices.of(few), len(few), coarse, settings.scale, settings.strangers)
    fine = draw_particles(floor, SEED, PARTICLES)
    return chooser, fit_prior(choices.of(some), len(some), fine, chooser)


def as_table(
    users: pl.DataFrame, names: list[str], found: Posterior, evidence: np.ndarray
) -> pl.DataFrame:
    """The long table `weights`: one row per user and trait."""
    return pl.DataFrame({
        "user_id": np.repeat(users["user_id"].to_numpy(), len(names)),
        "trait": names * len(users),
        "weight": found.mean.ravel(), "low": found.low.ravel(), "high": found.high.ravel(),
        "evidence": np.repeat(evidence, len(names)),
    })  # fmt: skip


def _seconds(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _numbers(column: pl.Series) -> np.ndarray:
    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()


if __name__ == "__main__":
    stage.run(main)
