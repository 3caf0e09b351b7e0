"""What the check starts from: the tables under a data folder, read afresh, as plain arrays."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from palette.errors import PaletteError
from palette.schema import TABLES

PLAN = Path("plan/plan.json")


@dataclass(frozen=True)
class Answers:
    """What a policy answered to one prompt."""

    rewards: np.ndarray
    """(n, d)"""
    base: np.ndarray
    """(n,): log-probability under the base, nats"""
    own: np.ndarray
    """(n,): log-probability under the policy itself, nats"""


@dataclass(frozen=True)
class Split:
    """The prompts of one split, in the order of prompt_id, and all answers to them."""

    topics: np.ndarray
    """(prompts,)"""
    answers: dict[str, list[Answers]]
    """policy → answers to each prompt; `base` is its rollouts"""
    likelihoods: dict[str, list[np.ndarray]]
    """member → of each prompt's rollouts the log-probabilities (n0,) under it, nats; may be empty"""

    def worth(self, names: list[str], beta: float) -> tuple[np.ndarray, np.ndarray]:
        """Mean rewards (K, prompts, d) and costs (K, prompts), β log(π/π_ref), of these policies."""
        kept = [self.answers[name] for name in names]
        values = [[own.rewards.mean(axis=0) for own in prompts] for prompts in kept]
        costs = [[beta * (own.own - own.base).mean() for own in prompts] for prompts in kept]
        return np.array(values), np.array(costs)


class Planes:
    """Policies' worths on one split, prompt by prompt and averaged."""

    def __init__(self, split: Split, names: list[str], beta: float) -> None:
        self.names = names
        self.by_prompt, self.cost_by_prompt = split.worth(names, beta)
        self.values, self.costs = self.by_prompt.mean(axis=1), self.cost_by_prompt.mean(axis=1)

    def worth(self, weights: np.ndarray) -> np.ndarray:
        """(K, P) at weights (P, d)."""
        return self.values @ weights.T - self.costs[:, None]

    def of_prompts(self, name: str, weights: np.ndarray) -> np.ndarray:
        """(P, prompts) at weights (P, d), of one policy."""
        k = self.names.index(name)
        return weights @ self.by_prompt[k].T - self.cost_by_prompt[k]


def read_split(data: Path, split: str, traits: list[str], members: list[str]) -> Split:
    """Everything that the tables under `data` say of one split.

    Raises:
        PaletteError: a table is missing, damaged, or lacks answers or scores.
    """
    rewards = [f"reward_{trait}" for trait in traits]
    prompts = _read(data, "prompts").filter(split=split).sort("prompt_id").with_row_index("place")
    if prompts.is_empty():
        raise PaletteError(f"{data}: no prompt is in the split '{split}'; nothing can be checked")
    order = prompts.select("prompt_id", "place")

    rollouts = _read(data, "rollouts").join(order, on="prompt_id")
    for trait in traits:
        scores = _read(data, "rewards", trait).select("prompt_id", "sample", f"reward_{trait}")
        rollouts = rollouts.join(scores, on=["prompt_id", "sample"], how="left")
    rollouts = rollouts.with_columns(logprob_base="logprob")
    answers = {"base": _by_prompt(rollouts, rewards, len(prompts), "the rollouts")}

    if members:
        values = _read(data, "values").join(order, on="prompt_id")
        for name in members:
            own = values.filter(member=name)
            answers[name] = _by_prompt(own, rewards, len(prompts), f"the answers of '{name}'")
    likelihoods = {}
    if members and split == "certify" and place(data, "likelihoods").exists():
        scored = _read(data, "likelihoods").join(order, on="prompt_id")
        for name in members:
            own = scored.filter(member=name).sort("place", "sample")
            sizes = np.bincount(own["place"], minlength=len(prompts))
            if sizes.tolist() != [len(part.base) for part in answers["base"]]:
                raise PaletteError(
                    f"{place(data, 'likelihoods')} does not score every rollout under '{name}'"
                )
            likelihoods[name] = np.split(own["logprob"].to_numpy(), sizes.cumsum()[:-1])
    return Split(prompts["topic"].to_numpy(), answers, likelihoods)


def read_json(source: Path) -> Any:
    """Raises PaletteError where the file is missing or is no JSON."""
    try:
        return json.loads(source.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PaletteError(f"{source} does not exist; run `dvc repro` to make it") from None
    except (OSError, ValueError):
        raise PaletteError(f"{source} is no JSON file") from None


def digests(data: Path, traits: list[str]) -> dict[str, str]:
    """sha256 of every file that a verdict comes from, by its name as the default folder has it."""
    files = [place(data, name) for name in ("prompts", "rollouts", "values", "likelihoods")]
    files += [place(data, "rewards", trait) for trait in traits]
    return {
        f"data/{file.relative_to(data).as_posix()}": hashlib.sha256(file.read_bytes()).hexdigest()
        for file in [*files, data / PLAN]
        if file.exists()
    }


def place(data: Path, name: str, trait: str | None = None) -> Path:
    """Where a table lies under a data folder."""
    return data / TABLES[name].file.format(trait=trait)


def _read(data: Path, name: str, trait: str | None = None) -> pl.DataFrame:
    source = place(data, name, trait)
    try:
        frame = pl.read_parquet(source)
    except FileNotFoundError:
        raise PaletteError(f"{source} does not exist; name the data folder by --data") from None
    except (OSError, pl.exceptions.PolarsError):
        raise PaletteError(f"{source} is damaged: it is no Parquet file") from None
    lacking = [column for column in TABLES[name].columns if column not in frame.columns]
    if lacking:
        raise PaletteError(f"{source} lacks the columns {', '.join(lacking)}")
    return frame.rename({"reward": f"reward_{trait}"}) if trait else frame


def _by_prompt(frame: pl.DataFrame, rewards: list[str], prompts: int, what: str) -> list[Answers]:
    columns = [*rewards, "logprob_base", "logprob"]
    lacking = [column for column in columns if column not in frame.columns]
    if lacking:
        raise PaletteError(f"{what} lack the columns {', '.join(lacking)}")
    frame = frame.sort("place", "sample")
    numbers = frame.select(pl.col(columns).cast(pl.Float64)).to_numpy()
    sizes = np.bincount(frame["place"], minlength=prompts)
    if not sizes.all() or np.isnan(numbers).any():
        raise PaletteError(f"{what} are not all there, or not all scored; run `dvc repro` again")
    d = len(rewards)
    return [
        Answers(part[:, :d], part[:, d], part[:, d + 1])
        for part in np.split(numbers, sizes.cumsum()[:-1])
    ]
