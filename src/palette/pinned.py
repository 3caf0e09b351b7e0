"""The file of plan.pinned: weights that must be in the plan, and the round of repair that asked for them.

A CSV with one column per trait and, where repairs appended rows, the column `round`: 0 for weights
of the first plan, k for those that the k-th repair added; without it every row is of round 0.
"""

from pathlib import Path

import numpy as np
import polars as pl

from palette.core.moving import hundredths
from palette.errors import PaletteError

ROUND = "round"


def read(path: Path, traits: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Weights (K, d) in hundredths, in the file's order, and their rounds (K,).

    Weights that the file has several times come once, with the largest of their rounds.

    Raises:
        PaletteError: the file is missing, is not a table of the traits' weights, a row's weights
            are not hundredths that add up to 1, or a round is no whole number of at least 0.
    """
    if not path.exists():
        raise PaletteError(f"plan.pinned names '{path}', which does not exist")
    try:
        frame = pl.read_csv(path, infer_schema=False)
    except pl.exceptions.PolarsError:
        raise PaletteError(f"{path} is not a CSV with the columns {', '.join(traits)}") from None
    if {*frame.columns} - {ROUND} != {*traits} - {ROUND} or not {*traits} <= {*frame.columns}:
        raise PaletteError(
            f"{path} has the columns {', '.join(frame.columns)}, but must have one per trait: "
            f"{', '.join(traits)} (and may have '{ROUND}')"
        )
    weights = _weights(frame.select(traits), path)
    rounds = _rounds(frame, path) if ROUND not in traits else np.zeros(len(frame), dtype=int)
    _, first, which = np.unique(
        np.rint(100 * weights), axis=0, return_index=True, return_inverse=True
    )
    latest = np.zeros(len(first), dtype=int)  # so that no repair is forgotten, and its look paid
    np.maximum.at(latest, which.ravel(), rounds)
    order = np.argsort(first)
    return weights[first[order]], latest[order]


def _weights(frame: pl.DataFrame, path: Path) -> np.ndarray:
    numbers = frame.select(pl.all().str.strip_chars().cast(pl.Float64, strict=False))
    weights = numbers.fill_null(float("nan")).to_numpy()
    for line, row in enumerate(weights, start=2):
        if not (row >= 0).all() or abs(row.sum() - 1) > 1e-6:
            raise PaletteError(
                f"line {line} of {path} must hold weights of at least 0 that add up to 1"
            )
        if np.abs(row - hundredths(row[None])[0]).max() > 1e-6:
            raise PaletteError(
                f"line {line} of {path} is finer than hundredths; "
                "give weights of two decimals that add up to 1"
            )
    return hundredths(weights)


def _rounds(frame: pl.DataFrame, path: Path) -> np.ndarray:
    if ROUND not in frame.columns:
        return np.zeros(len(frame), dtype=int)
    texts = frame[ROUND].str.strip_chars().fill_null("0")
    for line, text in enumerate(texts, start=2):
        if not (text.isascii() and text.isdigit() and len(text) < 7):
            raise PaletteError(
                f"line {line} of {path} has the round '{text}', "
                "but must have a whole number of at least 0"
            )
    return texts.cast(pl.Int64).to_numpy()


def write(path: Path, traits: list[str], weights: np.ndarray, rounds: np.ndarray) -> None:
    """Write weights (K, d) in hundredths and their rounds (K,), whole or not at all.

    Raises:
        PaletteError: a trait has the name of the column that holds the rounds.
    """
    if ROUND in traits:
        raise PaletteError(
            f"the trait '{ROUND}' has the name of the column of {path} that counts repairs; "
            "rename the trait"
        )
    frame = pl.DataFrame(weights, schema=traits).with_columns(pl.Series(ROUND, rounds))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    frame.write_csv(temporary, float_precision=2)
    temporary.replace(path)
