"""Did members that gained on their rewards lose on a trait that took no part in training?"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from palette.params import Evaluation


@dataclass(frozen=True)
class Change:
    """What a mean of answers is above the base's: its estimate, and an interval over prompts."""

    mean: float | None
    """None of the base alone, which nothing is above"""
    low: float | None
    high: float | None

    @property
    def up(self) -> bool:
        return self.low is not None and self.low > 0

    @property
    def down(self) -> bool:
        return self.high is not None and self.high < 0


Changes = dict[str, dict[str, tuple[Change, Change]]]
"""judge → member → the change in the member's own w·r, and in the judge's reward"""


def changes(judged: pl.DataFrame, settings: Evaluation) -> Changes:
    """What every judge says of every member.

    The intervals of one judge hold for all its members together, by Bonferroni: with many members
    some would seem to lose by chance.
    """
    found: Changes = {}
    for (judge,), rows in judged.group_by("judge", maintain_order=True):
        confidence = 1 - (1 - settings.confidence) / rows["member"].n_unique()
        found[judge] = {
            member: (change(own, "own", confidence), change(own, "reward", confidence))
            for (member,), own in rows.group_by("member", maintain_order=True)
        }
    return found


def columns(found: Changes, member: str) -> dict[str, float | None]:
    """judge_JUDGE of a member, _low and _high; None for the base, which nothing is above."""
    nothing = (None, Change(None, None, None))
    said = {f"judge_{judge}": own.get(member, nothing)[1] for judge, own in found.items()}
    ends = {"": "mean", "_low": "low", "_high": "high"}
    return {
        name + end: getattr(of, part) for name, of in said.items() for end, part in ends.items()
    }


def change(rows: pl.DataFrame, column: str, confidence: float) -> Change:
    """Of one column over the base's, with Student's interval over prompts."""
    from scipy.stats import t as student

    above = (rows[column] - rows[{"own": "own_base", "reward": "base"}[column]]).to_numpy()
    mean, count = float(above.mean()), len(above)
    if count < 2:
        return Change(mean, None, None)
    half = student.ppf((1 + confidence) / 2, count - 1) * above.std(ddof=1) / np.sqrt(count)
    return Change(mean, float(mean - half), float(mean + half))


def measure(judged: pl.DataFrame, settings: Evaluation) -> dict[str, float | int | None]:
    """judge.JUDGE.base, .change (mean over members, with an interval over prompts), .worst, .gained, .lost.

    `worst` is the member's change that is lowest; `gained` counts members whose own rewards rose
    beyond doubt, `lost` those of them on which the judge's fell beyond doubt.
    """
    found: dict[str, float | int | None] = {}
    for judge, members in changes(judged, settings).items():
        rows = judged.filter(judge=judge)
        per_prompt = rows.group_by("prompt_id", maintain_order=True).agg(
            pl.col("reward", "base").mean()
        )
        mean = change(per_prompt, "reward", settings.confidence)
        gained = [(own, said) for own, said in members.values() if own.up]
        means = [said.mean for _, said in members.values() if said.mean is not None]
        found |= {
            f"judge.{judge}.base": float(per_prompt["base"].to_numpy().mean()),
            f"judge.{judge}.change": mean.mean,
            f"judge.{judge}.change.low": mean.low,
            f"judge.{judge}.change.high": mean.high,
            f"judge.{judge}.worst": min(means),
            f"judge.{judge}.gained": len(gained),
            f"judge.{judge}.lost": sum(said.down for _, said in gained),
        }
    return found
