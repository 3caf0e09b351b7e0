"""Every number of a run under a flat key: what a pull request compares, one value a line."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from palette.params import Evaluation
from palette.reporting import edits, judges, users
from palette.reporting.intervals import ends, resampled
from palette.reporting.members import parts_of_region, perplexity
from palette.reporting.run import Run
from palette.summary import METHODS

Metrics = dict[str, Any]
"""key → number, or None where there is none"""
GROUPS = {"seen": "", "unseen": "unseen.", "no_history": "no_history."}
"""group of users → prefix of its keys"""


def measure(run: Run) -> Metrics:
    """All metrics, sorted by key and rounded; what is absent or infinite is None."""
    found = verdict(run) | methods(run.evaluation, run.params.evaluation)
    found |= users.routing(run, list(GROUPS)) | users.true_regret(run.evaluation, GROUPS)
    found |= traits(run.evaluation, run.params.trait_names, run.params.evaluation)
    found |= judges.measure(run.judged, run.params.evaluation)
    found |= users.utilities(run) | users.cost(run) | edits.measure(run, GROUPS)
    if run.params.base.model == "sandbox":
        found |= {f"sandbox.gap.{name}": gap for name, gap in run.portfolio["gap"].items()}
        found |= {f"sandbox.skill.{name}": skill for name, skill in run.skills.items()}
    return {key: rounded(found[key]) for key in sorted(found)}


def verdict(run: Run) -> Metrics:
    """What was planned, what was kept, and how it was judged on certify."""
    portfolio, plan, certificate = run.portfolio, run.plan, run.portfolio["certificate"]
    won = parts_of_region(portfolio["cells"], run.params.trait_names)
    return {
        "portfolio.size": len(portfolio["members"]),
        "portfolio.perplexity": perplexity(np.array(list(won.values()))),
        "plan.trainings": plan["trainings"],
        "plan.lower_bound": plan["lower_bound"],
        "plan.palm_bound": plan["palm_bound"],
        "plan.reached": plan["reached"],
        "certificate.epsilon.requested": portfolio["epsilon"],
        "certificate.epsilon.point": certificate["epsilon_point"],
        "certificate.epsilon.upper": certificate["epsilon_upper"],
        "certificate.delta.requested": portfolio["delta"],
        "certificate.confidence": certificate["confidence"],
        "certificate.looks": certificate["looks"],
        "certificate.prompts": certificate["prompts"],
        "certificate.topics": certificate["topics"],
        "certificate.passed": int(portfolio["passed"]),
        "certificate.regret": portfolio["worst"]["additive"],
        "certificate.thin": portfolio["thin"],
        "adapters.trainings": len(run.steps),
        "adapters.cut_short": cut_short(run),
        "adapters.reached": len(run.reached),
        "adapters.share.min": portfolio["adapters"]["share_min"],
        "adapters.share.mean": portfolio["adapters"]["share_mean"],
    }


def cut_short(run: Run) -> int:
    """How many trainings adapters.max_minutes ended before their steps were done."""
    asked = run.params.adapters.steps + run.params.adapters.rloo_steps
    return sum(steps < asked and who not in run.reached for who, steps in run.steps.items())


def methods(evaluation: pl.DataFrame, settings: Evaluation) -> Metrics:
    """What every method is worth to each group of users, with intervals over users.

    `objective`, `reward` and `kl` are means; `share` is the mean gain over the base divided by that
    of the ideal, never clipped; `lead` is how far the portfolio's objective is above the method's,
    for the same users.
    """
    found: Metrics = {}
    columns = ["objective", "reward", "kl"]
    gains = {"gain": pl.col("objective") - pl.col("base"), "room": pl.col("ideal") - pl.col("base")}
    lead = pl.col("portfolio") - pl.col("objective")
    for group, prefix in GROUPS.items():
        of_group = evaluation.filter(group=group)
        portfolio = of_group.filter(method="portfolio").select("user_id", portfolio="objective")
        for method in METHODS:
            rows = of_group.filter(method=method).join(portfolio, on="user_id", how="left")
            if len(rows) == 0:
                continue
            rows = rows.sort("user_id").with_columns(**gains, lead=lead)
            sample = rows.select(*columns, *gains, "lead").to_numpy()
            for name, statistic, low, high in estimate(sample, settings):
                if (name, method) == ("lead", "portfolio"):
                    continue  # nothing leads itself
                found[f"{prefix}{name}.{method}"] = statistic
                found[f"{prefix}{name}.{method}.low"] = low
                found[f"{prefix}{name}.{method}.high"] = high
    return found


def traits(evaluation: pl.DataFrame, names: list[str], settings: Evaluation) -> Metrics:
    """Mean reward of every trait for seen users, of the base and of the portfolio, with intervals."""
    found: Metrics = {}
    for method in ("base", "portfolio"):
        rows = evaluation.filter(group="seen", method=method).sort("user_id")
        if len(rows) == 0:
            continue
        sample = rows.select(f"reward_{name}" for name in names).to_numpy()
        means, replicates = sample.mean(axis=0), resampled(sample, settings)
        for place, name in enumerate(names):
            key = f"trait.{name}.{method}"
            low, high = ends(replicates[:, place], len(sample), settings)
            found |= {key: float(means[place]), f"{key}.low": low, f"{key}.high": high}
    return found


def estimate(
    sample: np.ndarray, settings: Evaluation
) -> Iterator[tuple[str, float, float | None, float | None]]:
    """Name, statistic and percentile interval of each measure of one method.

    Args:
        sample: (users, 6): objective, reward, kl, gain over the base, room above it, and lead.
    """
    replicates = statistics(resampled(sample, settings))
    for name, value in statistics(sample.mean(axis=0)).items():
        yield name, float(value), *ends(replicates[name], len(sample), settings)


def statistics(means: np.ndarray) -> dict[str, np.ndarray]:
    """Measures from means (..., 6); a share without room above the base is not a number."""
    objective, reward, kl, gain, room, lead = np.moveaxis(means, -1, 0)
    share = np.divide(gain, room, out=np.full(np.shape(room), np.nan), where=room > 0)
    return {"objective": objective, "reward": reward, "kl": kl, "share": share, "lead": lead}


def rounded(number: float | int | None) -> float | int | None:
    """Four significant digits, six decimals: enough to compare, and no noise of floats."""
    if number is None or not math.isfinite(number):
        return None
    if isinstance(number, int | np.integer):
        return int(number)
    return float(f"{round(float(number), 6):.4g}") + 0.0
