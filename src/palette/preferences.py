"""Stage `preferences`: each user's weights, with intervals, from what the user wrote or chose.

    python -m palette.preferences

What is alike for all is learned from some users; then groups of users pass one after another, so that
no more than one group's rows are held by a worker.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import numpy as np
import polars as pl

from palette import scores, stage, tables
from palette.core.choices import Choices, Chooser, Prior, from_rating, recency
from palette.core.preference import (
    COARSE,
    PARTICLES,
    Posterior,
    draw_particles,
    fit_chooser,
    fit_prior,
    posterior,
)
from palette.core.said import Said, learn_said
from palette.fanout import fan_out
from palette.params import Params

PRIOR_USERS = 4096
"""Seen users that teach the prior, and what the base says; more would sharpen nothing that matters."""
CHOOSER_USERS = 512
"""Of these, those whose habits of choosing are measured."""
ROWS_AT_ONCE, OF_A_USER = 1 << 17, 16
"""History rows of the users who are looked at together, and rows that a user counts besides."""
SEED = 0
DAY = 86_400.0
CHOOSER = tables.DATA / "preferences" / "chooser.json"


@dataclass(frozen=True)
class Scored:
    """What some users wrote, chose and were offered, and the rewards of all of it."""

    rows: pl.DataFrame
    """number, user (both from 0), cohort, rating, timestamp: history rows, by user and row"""
    own: np.ndarray
    """(rows, traits)"""
    answers: np.ndarray
    """(answers, traits) of the base's own answers to the rows' prompts"""
    row: np.ndarray
    """(answers,) number of the row that each belongs to"""
    pairs: np.ndarray
    """(pairs,) user of each self-generated pair"""
    gain: np.ndarray
    """(pairs, traits) personal less neutral"""


@dataclass(frozen=True)
class Learned:
    """What is alike for all users, by the seen ones among at most PRIOR_USERS."""

    said: Said
    chooser: Chooser
    prior: Prior


def main(params: Params) -> None:
    users = tables.read("users").sort("user_id")
    parts = blocks(users)
    if len(parts) < 2:
        found = scored(params, users)
        learned = learn_all(params, users, found)
        tables.write("weights", weights(params, users, found, learned))
    else:
        some = teachers(users)
        learned = learn_all(params, some, scored(params, some))
        work = partial(_read_weights, params=params, learned=learned)
        with tables.writing("weights") as add:
            for table in fan_out(work, parts, params.runtime, "weights, in groups of users"):
                add(table)
    chooser = learned.chooser
    tables.write_json(CHOOSER, {"scale": chooser.scale, "strangers": chooser.strangers})
    print(f"preferences: sharpness {chooser.scale:.2g}, {chooser.strangers:.0%} of rows by others")


def blocks(users: pl.DataFrame) -> list[pl.DataFrame]:
    """Runs of users with some ROWS_AT_ONCE rows each."""
    before = (users["rows"] + OF_A_USER).cum_sum() - (users["rows"] + OF_A_USER)
    return (users.with_columns(block=before // ROWS_AT_ONCE)).partition_by(
        "block", maintain_order=True, include_key=False
    ) or [users]


def teachers(users: pl.DataFrame) -> pl.DataFrame:
    """Seen users who teach what is alike for all, drawn evenly; of all users where none is seen."""
    seen = np.flatnonzero((users["cohort"] == "seen").to_numpy())
    seen = seen if len(seen) else np.arange(len(users))
    return users[np.sort(np.random.default_rng(SEED).permutation(seen)[:PRIOR_USERS])]


def learn_all(params: Params, users: pl.DataFrame, found: Scored) -> Learned:
    said = hear(found)
    return Learned(said, *learn(params, users, choices(params, found, said)))


def _read_weights(users: pl.DataFrame, params: Params, learned: Learned) -> pl.DataFrame:
    return weights(params, users, scored(params, users), learned)


def weights(params: Params, users: pl.DataFrame, found: Scored, learned: Learned) -> pl.DataFrame:
    """The table `weights` of some users."""
    chosen = choices(params, found, learned.said)
    level, count = params.preferences.level, len(users)
    estimated = posterior(chosen, count, learned.prior, learned.chooser, level)
    return as_table(users, params.trait_names, estimated, chosen.evidence(count))


def compare(params: Params, users: pl.DataFrame) -> Choices:
    """What users chose over what: history rows over what the base says, personal over neutral answers.

    Rows come first, then the pairs. A self-generated pair counts `preferences.pairs`.
    """
    found = scored(params, users)
    return choices(params, found, hear(found))


def scored(params: Params, users: pl.DataFrame) -> Scored:
    """Read and score what is known of some users, sorted by name."""
    place = users.select("user_id", "cohort").with_row_index("user")
    histories, contrasts, pairs = (
        tables.read_users(name, users["user_id"]) for name in ("histories", "contrasts", "pairs")
    )
    if params.insights.users is None:
        histories = histories.join(contrasts, on=["user_id", "row"], how="semi")
    rows = histories.join(place, on="user_id").sort("user", "row").with_row_index("number")
    own = rows.select("user_id", "row", "number", "prompt")
    others = contrasts.join(own, on=["user_id", "row"]).sort("number", "sample")
    pairs = pairs.join(place, on="user_id").sort("user", "pair")
    answers = rewards(params, others["prompt"], others["response"])
    personal = rewards(params, pairs["prompt"], pairs["personal"])
    return Scored(
        rows.select("number", "user", "cohort", "rating", "timestamp"),
        rewards(params, rows["prompt"], rows["response"]),
        answers,
        others["number"].to_numpy().astype(np.int64),
        pairs["user"].to_numpy().astype(np.int64),
        personal - rewards(params, pairs["prompt"], pairs["neutral"]),
    )


def hear(found: Scored) -> Said:
    """What the base says to the prompts of seen users."""
    seen = (found.rows["cohort"] == "seen").to_numpy()
    return learn_said(found.answers, found.row, seen[found.row])


def choices(params: Params, found: Scored, said: Said) -> Choices:
    """What users chose over what, as `compare` has it."""
    rows, pairs = found.rows, found.pairs
    base = said.expected(found.answers, found.row, len(rows))
    counts = recency(ages(rows), params.preferences.half_life)
    return Choices(
        np.concatenate([rows["user"].to_numpy().astype(np.int64), pairs]),
        np.concatenate([found.own - base, found.gain]),
        np.concatenate([from_rating(_numbers(rows["rating"])), np.ones(len(pairs))]),
        np.concatenate([counts, np.full(len(pairs), params.preferences.pairs)]),
        np.repeat([False, True], [len(rows), len(pairs)]),
        said.base,
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
