"""What edits are worth beside their controls, what they do besides, and what they came from."""

from typing import Any

import polars as pl

from palette.params import Evaluation
from palette.reporting.intervals import ends, resampled
from palette.reporting.run import Run
from palette.summary import METHODS

CONTROLS = {
    "edit": (
        "base", "edit_random", "edit_mean", "edit_other", "chameleon", "chameleon_tuned",
        "prompt", "retrieval", "sft", "dpo",
    ),
    "portfolio_edit": ("portfolio",),
}  # fmt: skip
"""method → whom it is laid beside, for the same users"""
SIDE_EFFECTS = ("broken", "surprise")

Numbers = dict[str, Any]
"""key → number, or None where there is none"""


def measure(run: Run, groups: dict[str, str]) -> Numbers:
    """All numbers on edits.

    Args:
        groups: group of users → prefix of its keys.
    """
    found = {"edits.clusters": len(run.clusters) or None, "pairs.kept": run.pairs}
    found |= {f"pairs.dropped.{reason}": count for reason, count in run.dropped.items()}
    for source, trait, r2 in run.revealed.select("source", "trait", "r2").iter_rows():
        found[f"revealed.{source}.{trait}"] = r2
    for group, prefix in groups.items():
        rows = run.evaluation.filter(group=group)
        own = over(rows, run.params.evaluation) | side_effects(rows)
        own |= uncared(rows, run.params.trait_names)
        found |= {f"{prefix}{key}": value for key, value in own.items()}
    return found


def over(evaluation: pl.DataFrame, settings: Evaluation) -> Numbers:
    """METHOD.over.CONTROL: by how much J is above the control's, for the same users, and interval.

    The interval is over users. That many of them share a control's answers to the same prompts is no
    part of it.
    """
    found: Numbers = {}
    for method, controls in CONTROLS.items():
        ours = evaluation.filter(method=method).select("user_id", ours="objective")
        for control in controls:
            both = evaluation.filter(method=control).join(ours, on="user_id").sort("user_id")
            if len(both) == 0:
                continue
            gap = both.select(pl.col("ours") - pl.col("objective")).to_numpy()  # (users, 1)
            low, high = ends(resampled(gap, settings), len(gap), settings)
            key = f"{method}.over.{control}"
            found |= {key: float(gap.mean()), f"{key}.low": low, f"{key}.high": high}
    return found


def side_effects(evaluation: pl.DataFrame) -> Numbers:
    """broken.METHOD, share of broken answers; surprise.METHOD, nats per token under the base."""
    return {
        f"{name}.{method}": rows[name].mean()
        for method in METHODS
        if len(rows := evaluation.filter(method=method))
        for name in SIDE_EFFECTS
    }


def uncared(evaluation: pl.DataFrame, traits: list[str]) -> Numbers:
    """uncared.METHOD: what it changes, against the base, in traits that a user hardly values.

    These are traits of a weight below half of an equal one, 1/(2d). Mean over users of the mean over
    such traits of their rewards, by the weights that judge; None where nobody has such a trait.
    """
    base = evaluation.filter(method="base").select(
        "user_id", *(pl.col(f"reward_{trait}").alias(f"base_{trait}") for trait in traits)
    )
    little = 1 / (2 * len(traits))
    changes = [
        pl.when(pl.col(f"w_{trait}") < little).then(
            pl.col(f"reward_{trait}") - pl.col(f"base_{trait}")
        )
        for trait in traits
    ]
    joined = (
        evaluation.join(base, on="user_id")
        .sort("method", "user_id")
        .with_columns(change=pl.mean_horizontal(changes))
    )
    return {
        f"uncared.{method}": rows["change"].mean()
        for method in METHODS
        if len(rows := joined.filter(method=method))
    }
