"""Stage `preferences`: each user's weights, with intervals, from what the user wrote or chose.

python -m palette.preferences
"""

import numpy as np
import polars as pl

from palette import scores, stage, tables
from palette.core.preference import (
    Comparisons,
    Posterior,
    Prior,
    draw_particles,
    fit_prior,
    from_rating,
    posterior,
)
from palette.params import Params

PRIOR_USERS = 4096
"""Seen users that teach the prior; more would sharpen nothing that matters."""
SEED = 0


def main(params: Params) -> None:
    users = tables.read("users").sort("user_id")
    choices = compare(params, users)
    prior = learn_prior(params, users, choices)
    settings = params.preferences
    found = posterior(choices, len(users), prior, settings.scale, settings.level)
    evidence = choices.evidence(len(users))
    tables.write("weights", as_table(users, params.trait_names, found, evidence))


def compare(params: Params, users: pl.DataFrame) -> Comparisons:
    """What users chose over what: history rows over contrasts, personal over neutral answers.

    A row's contrasts share its weight, so that it counts once; a self-generated pair counts
    `preferences.pairs`.
    """
    place = users.select("user_id").with_row_index("user")
    chosen = (
        tables.read("histories")
        .join(tables.read("contrasts").rename({"response": "other"}), on=["user_id", "row"])
        .with_columns(share=1 / pl.len().over("user_id", "row"))
        .join(place, on="user_id")
        .sort("user", "row", "sample")
    )
    pairs = tables.read("pairs").join(place, on="user_id").sort("user", "pair")
    weight = from_rating(chosen["rating"].fill_null(np.nan).to_numpy()) * chosen["share"].to_numpy()
    prompts = pl.concat([chosen["prompt"], pairs["prompt"]]).to_list()
    liked = pl.concat([chosen["response"], pairs["personal"]]).to_list()
    other = pl.concat([chosen["other"], pairs["neutral"]]).to_list()
    difference = np.zeros((0, len(params.trained)))
    if prompts:
        difference = scores.score(params, prompts, liked) - scores.score(params, prompts, other)
    return Comparisons(
        pl.concat([chosen["user"], pairs["user"]]).to_numpy().astype(np.int64),
        difference,
        np.concatenate([weight, np.full(len(pairs), params.preferences.pairs)]),
    )


def learn_prior(params: Params, users: pl.DataFrame, choices: Comparisons) -> Prior:
    """The distribution of weights over seen users; unseen ones teach nothing."""
    seen = np.flatnonzero((users["cohort"] == "seen").to_numpy())
    if len(seen) > PRIOR_USERS:
        drawn = np.random.default_rng(SEED).choice(seen, PRIOR_USERS, replace=False)
        seen = np.sort(drawn)
    particles = draw_particles(np.array(params.floor), SEED)
    return fit_prior(choices.of(seen), len(seen), particles, params.preferences.scale)


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


if __name__ == "__main__":
    stage.run(main)
