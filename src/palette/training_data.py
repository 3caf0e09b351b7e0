"""What adapters learn from, and the names under which what came of it is stored.

An adapter is stored by what made it: the base, the train prompts and rollouts, the *nonzero* weights
with the rewards that those traits gave, β, and the trainer's settings. A new plan, or a trait that a
member does not weigh, therefore trains nothing that exists. A family has every trait and no weights: a
new plan trains nothing at all.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from palette import tables, traits
from palette.params import Adapters, Params
from palette.store import key


@dataclass(frozen=True)
class Rollouts:
    """The base's rollouts of the train prompts, and what the traits gave them."""

    prompt_ids: list[str]
    questions: list[str]
    answers: list[list[list[int]]]
    """per prompt, token ids of every rollout"""
    rewards: np.ndarray
    """(prompts, samples, traits)"""

    @cached_property
    def digest(self) -> str:
        """sha256 of what was asked and answered."""
        return hashlib.sha256(repr((self.questions, self.answers)).encode()).hexdigest()


def read_rollouts(params: Params) -> Rollouts:
    """Rollouts of the train split."""
    prompts = tables.read("prompts").filter(pl.col("split") == "train")
    names = [f"reward_{trait}" for trait in params.trait_names]
    rows = prompts.join(
        tables.read_rewards(params.trait_names), on="prompt_id", maintain_order="left_right"
    )
    rewards = rows.select(names).to_numpy().reshape(len(prompts), -1, len(names))
    answers = rows["tokens"].to_list()
    samples = rewards.shape[1]
    return Rollouts(
        prompts["prompt_id"].to_list(),
        prompts["prompt"].to_list(),
        [answers[start : start + samples] for start in range(0, len(answers), samples)],
        rewards,
    )


def adapter_key(
    params: Params, rollouts: Rollouts, weights: Mapping[str, float], base: str,
    settings: Adapters | None = None,
) -> str:  # fmt: skip
    """The store's name of an adapter: what made it, and nothing else."""
    settings = settings or params.adapters
    made_of = [
        (trait, weights[trait], *scored)
        for trait, *scored in _scored(params, rollouts, settings)
        if weights[trait] > 0
    ]
    # The order of the traits is no part of what an adapter is.
    return key("adapter", base, rollouts.digest, sorted(made_of), _settings(params, settings))


def family_key(params: Params, rollouts: Rollouts, base: str) -> str:
    """The store's name of a family: what made it, and nothing else."""
    settings = params.adapters
    made_of = [_scored(params, rollouts, settings), params.floor, settings.concentration]
    return key("family", base, rollouts.digest, made_of, _settings(params, settings))


def _scored(params: Params, rollouts: Rollouts, settings: Adapters) -> list[list[Any]]:
    """Every trait with the digest of its rewards; and what scores it, met only while sampling."""
    found = []
    for index, trait in enumerate(params.trait_names):
        rewards = np.ascontiguousarray(rollouts.rewards[:, :, index])
        parts: list[Any] = [trait, hashlib.sha256(rewards.tobytes()).hexdigest()]
        if settings.rloo_steps:
            own = params.traits[trait]
            parts += [own.makes, *filter(None, [traits.files(trait, own)])]
        found.append(parts)
    return found


def _settings(params: Params, settings: Adapters) -> list[Any]:
    """The trainer's settings and β, without those of a phase that has no steps."""
    used = settings.model_dump() | {"max_new_tokens": params.rollouts.max_new_tokens}
    unused = {"kind", "concentration"} | ({"share"} if settings.share is None else set())
    if not settings.steps:
        unused |= {"learning_rate", "batch"}
    if not settings.rloo_steps:
        unused |= {"rloo_learning_rate", "rloo_batch", "generations", "max_new_tokens"}
    return [{name: used[name] for name in used if name not in unused}, params.objective.beta]
