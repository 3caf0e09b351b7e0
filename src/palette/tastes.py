"""What each user values: as estimated from their history, and as every method is judged by."""

import numpy as np
import polars as pl

from palette import tables

LIKED = 0.5
"""A row of a history rated below this was disliked: it is no example of what its user wants."""


def estimated(names: list[str]) -> dict[str, list[float]]:
    """User → estimated weights, in the order of the traits."""
    table = tables.read("weights").pivot("trait", index="user_id", values="weight")
    return {row[0]: list(row[1:]) for row in table.select("user_id", *names).rows()}


def true(names: list[str]) -> pl.DataFrame:
    """user_id and w_TRAIT, summing to one, of the users whose true weights are known.

    A trait that the world does not know has no true weight, and then nobody's are known. Of some of
    the world's traits, the true weights are what is left of them.
    """
    hidden, columns = tables.read("hidden"), [f"w_{name}" for name in names]
    if not set(columns) <= set(hidden.columns):
        return pl.DataFrame(schema={"user_id": pl.String})
    total = pl.sum_horizontal(columns)
    return hidden.select("user_id", *(pl.col(name) / total for name in columns))


def judging(names: list[str]) -> pl.DataFrame:
    """user_id, group, and w_TRAIT: the true weights where known, else the estimated ones."""
    columns = [f"w_{name}" for name in names]
    weights = pl.DataFrame([
        {"user_id": user, **dict(zip(columns, own, strict=True))}
        for user, own in estimated(names).items()
    ])  # fmt: skip
    if len(known := true(names)):
        weights = weights.update(known, on="user_id")
    group = pl.when(pl.col("rows") == 0).then(pl.lit("no_history")).otherwise(pl.col("cohort"))
    return (
        tables.read("users").with_columns(group=group).join(weights, on="user_id").sort("user_id")
    )


def round_to_sum(parts: np.ndarray, total: int) -> np.ndarray:
    """Integers that add up to `total`, each less than one away from its part."""
    whole = np.floor(parts)
    rest = np.argsort(whole - parts, kind="stable")[: round(total - whole.sum())]
    whole[rest] += 1
    return whole
