"""Frozen calibrations: which scores of a trait mean 0 and 1, by what the base's answers once had.

inputs/traits/calibration/TRAIT.json is fitted once and tracked by git. Were it fitted again with the
data, the same ε would come to mean another loss.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from palette import tables
from palette.core import scaling
from palette.errors import PaletteError

FOLDER = Path("inputs/traits/calibration")


def path(name: str) -> Path:
    return FOLDER / f"{name}.json"


def write(name: str, made_of: str, scores: np.ndarray) -> tuple[float, float]:
    """Fit a trait's calibration to the scores (rows,) of the base's answers, and freeze it.

    Args:
        made_of: names what scored them: the calibration is of nothing else.

    Raises:
        PaletteError: it is fitted already, or nearly all scores are the same.
    """
    if path(name).exists() and _content(name)["made_of"] == made_of:
        raise PaletteError(
            f"{path(name)} is fitted already, and frozen so that ε keeps its meaning; delete it to "
            "fit it anew"
        )
    try:
        low, high = scaling.ends(scores)
    except ValueError as error:
        raise PaletteError(
            f"traits.{name} cannot be calibrated by quantiles ({error}); declare its range instead"
        ) from None
    content = {"low": low, "high": high, "levels": scaling.LEVELS, "answers": len(scores)}
    tables.write_json(path(name), content | {"made_of": made_of})
    return low, high


def read(name: str, made_of: str) -> tuple[float, float]:
    """The scores that mean 0 and 1.

    Raises:
        PaletteError: they are not fitted yet, or by another reward than the trait is now.
    """
    cure = f"run `palette traits calibrate {name}` and commit {path(name)}"
    if not path(name).exists():
        raise PaletteError(f"traits.{name} is not calibrated yet; {cure}")
    content = _content(name)
    if content["made_of"] != made_of:
        raise PaletteError(
            f"{path(name)} was fitted to another reward than traits.{name} is now; {cure}"
        )
    return content["low"], content["high"]


def _content(name: str) -> dict[str, Any]:
    try:
        content = tables.read_json(path(name))
        if {"low", "high", "made_of"} <= content.keys():
            return content
    except (ValueError, AttributeError):  # no JSON, or no mapping
        pass
    raise PaletteError(
        f"{path(name)} is no calibration; delete it and run `palette traits calibrate {name}`"
    )


def digest(name: str) -> str:
    """sha256 of the file; empty where there is none yet."""
    if not path(name).exists():
        return ""
    return hashlib.sha256(path(name).read_bytes()).hexdigest()
