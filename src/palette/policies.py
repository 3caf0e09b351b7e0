"""Policies that a user can be given — adapters, an edit, an insight in the prompt — and their worth.

A policy's answers do not depend on whom it serves: users with the same policy share them.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby, product
from pathlib import Path

import numpy as np
import polars as pl

from palette import traits
from palette.core.directions import Directions
from palette.fanout import fan_out
from palette.lm import templates
from palette.lm.generation import generate, row_uniforms
from palette.lm.models import cached_base, with_adapters
from palette.lm.scoring import score
from palette.params import Params

TOGETHER = 24
"""Policies of one set of adapters that share a batch."""


@dataclass(frozen=True, order=True)
class Policy:
    """The base, changed by any of three means."""

    adapters: tuple[tuple[str, float], ...] = ()
    """(directory, weight): adapters merged with these weights"""
    edit: str = ""
    """the group whose directions edit every answer"""
    insight: str = ""
    """the sentence put before the question"""

    @property
    def name(self) -> str:
        """Short and stable: the same policy has the same name in every run."""
        if self == Policy():
            return "base"
        parts = [sorted((Path(folder).name, weight) for folder, weight in self.adapters)]
        text = json.dumps([*parts, self.edit, self.insight])
        return hashlib.sha256(text.encode()).hexdigest()[:10]


def worth(
    params: Params,
    policies: Iterable[Policy],
    prompts: pl.DataFrame,
    directions: Directions,
    words: str,
) -> pl.DataFrame:
    """Mean rewards and KL to the base of each distinct policy on each prompt.

    Returns:
        policy, prompt_id, kl (nats) and reward_TRAIT.
    """
    chunks = list(_chunks(sorted(set(policies))))
    work = partial(_answer, params=params, prompts=prompts, directions=directions)
    frames = list(fan_out(work, chunks, params.runtime, words))
    return pl.concat(frames) if frames else pl.DataFrame(schema={"policy": pl.String})


def assign(chosen: Mapping[str, Policy], values: pl.DataFrame, method: str) -> pl.DataFrame:
    """The worth of each user's policy, with columns method and user_id."""
    users = pl.DataFrame(
        [{"user_id": user, "policy": policy.name} for user, policy in chosen.items()],
        schema={"user_id": pl.String, "policy": pl.String},
    )
    return users.with_columns(method=pl.lit(method)).join(
        values, on="policy", how="inner", maintain_order="left_right"
    )


def _chunks(policies: list[Policy]) -> Iterator[list[Policy]]:
    for _, group in groupby(policies, key=lambda policy: policy.adapters):
        same = list(group)
        yield from (same[start : start + TOGETHER] for start in range(0, len(same), TOGETHER))


def _answer(
    policies: list[Policy], params: Params, prompts: pl.DataFrame, directions: Directions
) -> pl.DataFrame:
    base = cached_base(params.runtime.device)
    adapters = {Path(folder): weight for folder, weight in policies[0].adapters}
    lm = with_adapters(base, adapters) if adapters else base
    samples, limit = params.baselines.samples, params.rollouts.max_new_tokens
    rows, asked, plain = [], [], []
    for policy, row in product(policies, prompts.iter_rows(named=True)):
        text = row["prompt"]
        question = templates.encode(base.tokenizer, templates.question(text))
        told = templates.personal_answer(text, policy.insight) if policy.insight else None
        rows += [(policy, row["prompt_id"], text)] * samples
        plain += [question] * samples
        asked += [templates.encode(base.tokenizer, told) if told else question] * samples
    # The same numbers for every policy: differences between methods are then paired.
    numbers = np.concatenate([
        row_uniforms(samples, limit, "policies", params.baselines.seed, prompt)
        for prompt in prompts["prompt_id"]
    ])  # fmt: skip
    uniforms = np.tile(numbers, (len(policies), 1))
    edited = any(policy.edit for policy in policies)
    edits = directions.edits([policy.edit or None for policy, _, _ in rows]) if edited else None
    answers = generate(lm, asked, limit, uniforms, edits)
    scores = score(lm, asked, answers.tokens, base, plain, edits)
    rewards = traits.score(params.traits, [text for _, _, text in rows], answers.texts)
    columns = {f"reward_{t}": rewards[:, i] for i, t in enumerate(params.trait_names)}
    frame = pl.DataFrame({
        "policy": [policy.name for policy, _, _ in rows],
        "prompt_id": [prompt_id for _, prompt_id, _ in rows],
        "kl": scores.kl, **columns,
    })  # fmt: skip
    return frame.group_by("policy", "prompt_id", maintain_order=True).mean()
