"""How much of the users' true weights each source reveals: insights, pairs, histories, estimates.

CHAMELEON names the quality of what is self-generated as its limit (arXiv 2503.01048, Limitations).
Where true weights are known it can be measured: what share of each weight's variance over users
does a linear reading of the source tell, of users that took no part in learning to read it?
"""

from dataclasses import replace

import numpy as np
import polars as pl

from palette import preferences, tables, tastes
from palette.core.choices import Choices
from palette.params import Params

FOLDS = 10
SHRINKAGES = np.logspace(-3, 5, 17)
"""Of ridge regression on standardised features; each fold picks its own."""
CONSTANT = 1e-12
"""Variance below this is rounding: a weight that is the same for all users has no share to tell."""


def compare(params: Params) -> pl.DataFrame:
    """The table `revealed`; empty where no true weights are known, or of too few users.

    Measured over the users with true weights who have history, an insight and a pair, the same for
    every source.
    """
    names = params.trait_names
    true = tastes.true(names)
    insights = tables.read("insights").filter(pl.col("kind") == "personal")
    people = tables.read("users").sort("user_id")
    pairs = tables.read("pairs").join(people, on="user_id", how="semi")
    whole = people.filter(pl.col("rows") > 0)
    for table in (true, insights, pairs):
        whole = whole.join(table, on="user_id", how="semi", maintain_order="left")
    if len(whole) < FOLDS:
        return tables.empty("revealed")
    place = whole.select("user_id")
    weights = place.join(true, on="user_id", how="left", maintain_order="left")
    estimated = tastes.estimated(names)
    # `preferences.compare` puts history rows first, then the pairs.
    choices = preferences.compare(params, people)
    rows = len(choices.user) - len(pairs)
    users = people.with_row_index()["index"].filter(people["user_id"].is_in(place["user_id"]))
    own = users.to_numpy()
    sources = {
        "insight": _embedded(params, place.join(insights, on="user_id", maintain_order="left")),
        "pairs": differences(_slice(choices, rows, len(choices.user), 1.0), len(people))[own],
        "history": differences(_slice(choices, 0, rows), len(people))[own],
    }
    truth = weights.select(f"w_{name}" for name in names).to_numpy()
    found = {source: told(features, truth) for source, features in sources.items()}
    found["estimate"] = shares(np.array([estimated[user] for user in place["user_id"]]), truth)
    return pl.DataFrame([
        {"source": source, "trait": trait, "r2": share, "users": len(place)}
        for source, values in found.items() for trait, share in zip(names, values, strict=True)
    ], schema=tables.empty("revealed").schema)  # fmt: skip


def told(features: np.ndarray, truth: np.ndarray) -> list[float | None]:
    """R² of each true weight, read linearly from the features of users held out in turn.

    Args:
        features: (users, anything), at least FOLDS users.
        truth: (users, traits).

    Returns:
        One number a trait, at most 1 and below 0 where the mean would have done better; None where
        all users have the same weight.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), RidgeCV(SHRINKAGES))
    folds = KFold(FOLDS, shuffle=True, random_state=0)
    columns = [cross_val_predict(model, features, column, cv=folds) for column in truth.T]
    return shares(np.column_stack(columns), truth)


def shares(guessed: np.ndarray, truth: np.ndarray) -> list[float | None]:
    """1 − (squared error) / (squared deviation from the mean) of each column, None if that is 0."""
    error = ((truth - guessed) ** 2).mean(axis=0)
    spread = truth.var(axis=0)
    return [
        None if width < CONSTANT else float(1 - missed / width)
        for missed, width in zip(error, spread, strict=True)
    ]


def differences(choices: Choices, users: int) -> np.ndarray:
    """(users, traits) each user's mean reward difference, by the choices' weights.

    A row that was disliked counts the other way round; users without any weight have zeros.
    """
    total = np.zeros((users, choices.difference.shape[1]))
    counts = choices.liking * choices.weight
    np.add.at(total, choices.user, counts[:, None] * choices.difference)
    return total / np.maximum(choices.evidence(users), CONSTANT)[:, None]


def _slice(choices: Choices, start: int, stop: int, weight: float | None = None) -> Choices:
    """Some choices; `weight` instead of their own, which preferences.pairs may have put at 0."""
    columns = ("user", "difference", "liking", "weight", "paired")
    part = {name: getattr(choices, name)[start:stop] for name in columns}
    if weight is not None:
        part["weight"] = np.full(stop - start, weight)
    return replace(choices, **part)


def _embedded(params: Params, insights: pl.DataFrame) -> np.ndarray:
    """(users, hidden) the base's embedding of each text; equal texts have equal bits."""
    from palette.lm.activations import embed
    from palette.lm.models import load_base

    lm = load_base(params.runtime.device)
    texts = insights["insight"].unique(maintain_order=True).to_list()
    place = {text: number for number, text in enumerate(texts)}
    return embed(lm, texts).numpy()[[place[text] for text in insights["insight"]]]
