"""Policies that a user can be given, and their worth: adapters, an edit, words before the question.

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
from palette.core.answers import complaint
from palette.core.editing import Edit, Edits
from palette.fanout import fan_out
from palette.lm import templates
from palette.lm.generation import generate, row_uniforms
from palette.lm.models import cached_base, with_adapters
from palette.lm.scoring import score
from palette.params import Params

TOGETHER = 24
"""Policies of one set of adapters that share a batch."""

Quotes = Mapping[str, Mapping[str, tuple[str, str]]]
"""user → prompt_id → the (prompt, response) of the history that is quoted before that prompt"""


@dataclass(frozen=True, order=True)
class Policy:
    """The base, changed by any of these means."""

    adapters: tuple[tuple[str, float], ...] = ()
    """(directory, weight): adapters merged with these weights"""
    edit: str = ""
    """name of the edit of every answer; it lies beside the policies, in a mapping"""
    insight: str = ""
    """the sentence put before the question"""
    quoting: str = ""
    """the user whose history is quoted before the question; not together with an insight"""

    @property
    def name(self) -> str:
        """Short and stable: the same policy has the same name in every run."""
        if self == Policy():
            return "base"
        parts = [sorted((Path(folder).name, weight) for folder, weight in self.adapters)]
        text = json.dumps([*parts, self.edit, self.insight, self.quoting])
        return hashlib.sha256(text.encode()).hexdigest()[:10]


@dataclass(frozen=True)
class _Sampling:
    """How often every prompt is answered, and from which random numbers."""

    samples: int
    limit: int
    key: tuple[str, int]
    paired: bool
    """all policies have the same random numbers"""

    def numbers(self, policy: Policy, prompt_id: str) -> np.ndarray:
        """(samples, limit)"""
        own = () if self.paired else (policy.name,)
        return row_uniforms(self.samples, self.limit, *self.key, *own, prompt_id)


def worth(
    params: Params,
    policies: Iterable[Policy],
    prompts: pl.DataFrame,
    edits: Mapping[str, Edit],
    words: str,
    samples: int | None = None,
    quotes: Quotes | None = None,
    key: tuple[str, int] | None = None,
) -> pl.DataFrame:
    """Mean rewards, KL to the base and side effects of each distinct policy on each prompt.

    Args:
        prompts: rows of the table `prompts`.
        edits: by the names that the policies give them; those of one object share its tables.
        words: what the progress bar says.
        samples: answers per policy and prompt; baselines.samples unless told.
        quotes: for policies that quote.
        key: names random numbers that are the same for all policies, for choices among few of
            them. Unless told each policy has its own: the luck of common ones would be common to all
            users, where no interval over users could see it.

    Returns:
        policy, prompt_id, kl (nats), surprise (nats per token under the base), broken (share of
        answers that were cut off or that core/answers.py complains of) and reward_TRAIT.
    """
    sampling = _Sampling(
        samples or params.baselines.samples, params.rollouts.max_new_tokens,
        key or ("policies", params.baselines.seed), key is not None,
    )  # fmt: skip
    # Each chunk travels with its own edits: all of them are large where users have their own.
    chunks = [
        (chunk, {policy.edit: edits[policy.edit] for policy in chunk if policy.edit})
        for chunk in _chunks(sorted(set(policies)))
    ]
    work = partial(_answer, params=params, prompts=prompts, quotes=quotes or {}, sampling=sampling)
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
    item: tuple[list[Policy], dict[str, Edit]],
    params: Params,
    prompts: pl.DataFrame,
    quotes: Quotes,
    sampling: _Sampling,
) -> pl.DataFrame:
    policies, edits = item
    base = cached_base(params.runtime.device)
    adapters = {Path(folder): weight for folder, weight in policies[0].adapters}
    lm = with_adapters(base, adapters) if adapters else base
    questions = [
        (prompt_id, text, templates.encode(base.tokenizer, templates.question(text)))
        for prompt_id, text in prompts.select("prompt_id", "prompt").iter_rows()
    ]
    rows, asked, plain = [], [], []
    for policy, (prompt_id, text, question) in product(policies, questions):
        told = _told(policy, prompt_id, text, quotes)
        ids = templates.encode(base.tokenizer, told) if told else question
        rows += [(policy, prompt_id, text)] * sampling.samples
        asked += [ids] * sampling.samples
        plain += [question] * sampling.samples
    uniforms = np.concatenate([
        sampling.numbers(policy, prompt) for policy, prompt in product(policies, prompts["prompt_id"])
    ])  # fmt: skip
    changes = Edits([edits.get(policy.edit) for policy, _, _ in rows]) if edits else None
    answers = generate(lm, asked, sampling.limit, uniforms, changes)
    scores = score(lm, asked, answers.tokens, base, plain, changes)
    texts = [text for _, _, text in rows]
    rewards = traits.score(params.traits, texts, answers.texts)
    broken = [
        tokens[-1] not in base.eos or complaint(text, answer) is not None
        for tokens, text, answer in zip(answers.tokens, texts, answers.texts, strict=True)
    ]
    surprise = -scores.logprob_reference / [len(tokens) for tokens in answers.tokens]
    measured = np.column_stack([scores.kl, surprise, broken, rewards])
    means = measured.reshape(-1, sampling.samples, measured.shape[1]).mean(axis=1)
    names = ["kl", "surprise", "broken", *(f"reward_{trait}" for trait in params.trait_names)]
    each = rows[:: sampling.samples]
    return pl.DataFrame({
        "policy": [policy.name for policy, _, _ in each],
        "prompt_id": [prompt_id for _, prompt_id, _ in each],
        **dict(zip(names, means.T, strict=True)),
    })  # fmt: skip


def _told(policy: Policy, prompt_id: str, text: str, quotes: Quotes) -> templates.Messages | None:
    """What the policy is asked, where that is not the plain question."""
    if policy.insight:
        return templates.personal_answer(text, policy.insight)
    if policy.quoting:
        return templates.quoting(text, quotes[policy.quoting][prompt_id])
    return None
