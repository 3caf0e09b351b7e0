"""What trials of edits, or of anything else that has a strength, are worth to those who try them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from palette.measuring import Policy
from palette.params import Params

Choice = tuple[float, str]
"""strength and name of a set of layers"""


@dataclass(frozen=True)
class Measured:
    """The trials of one unit, the identity first."""

    objective: np.ndarray
    """(trials, prompts) mean of J over the users"""
    kl: np.ndarray
    """(trials,) nats"""
    broken: np.ndarray
    """(trials,) share of answers"""


def measure(
    params: Params,
    rows: Sequence[Sequence[Policy]],
    weights: Sequence[np.ndarray],
    answers: Mapping[str, pl.DataFrame],
) -> Measured:
    """What the trials of one unit are worth to those who stand for it.

    Args:
        rows: per trial, the policy of each of these users.
        weights: (traits,) of each of them.
    """
    objective, kl, broken = [], [], []
    for told in rows:
        frames = [answers[policy.name] for policy in told]
        worths = [worth(params, *both) for both in zip(frames, weights, strict=True)]
        objective.append(np.mean(worths, axis=0))
        kl.append(np.mean([frame["kl"].mean() for frame in frames]))
        broken.append(np.mean([frame["broken"].mean() for frame in frames]))
    return Measured(np.array(objective), np.array(kl), np.array(broken))


def worth(params: Params, answers: pl.DataFrame, weights: np.ndarray) -> np.ndarray:
    """(prompts,) J of one policy at some weights, from its row of `policies.worth` per prompt."""
    names = [f"reward_{name}" for name in params.trait_names]
    return (
        answers.select(names).to_numpy() @ weights
        - params.objective.beta * answers["kl"].to_numpy()
    )


def as_table(trials: Sequence[Choice], own: Measured | None, best: int) -> pl.DataFrame:
    """Rows of a unit, one of them chosen; where nobody stands for it, that alone, of unknown worth."""
    frame = pl.DataFrame({
        "layers": [layers for _, layers in trials],
        "strength": [strength for strength, _ in trials],
        "chosen": np.arange(len(trials)) == best,
    })  # fmt: skip
    if own is None:
        unknown = {name: pl.lit(None, pl.Float64) for name in ("objective", "kl", "broken")}
        return frame.filter("chosen").with_columns(**unknown)
    return frame.with_columns(objective=own.objective.mean(axis=1), kl=own.kl, broken=own.broken)
