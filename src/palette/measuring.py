"""What policies answer to prompts, and what their answers are worth.

Policies that are asked together pass through the model in one batch: small ones alone take twice the time.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from palette import traits
from palette.core.answers import complaint
from palette.core.editing import Edit, Edits
from palette.lm import templates
from palette.lm.generation import Answers, generate, row_uniforms
from palette.lm.models import cached_base, with_adapters
from palette.lm.scoring import Scores, score
from palette.params import Params

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
    def personal(self) -> bool:
        """It is made of what some users said, be it by way of an edit."""
        return bool(self.edit or self.insight or self.quoting)

    @property
    def name(self) -> str:
        """Short and stable: the same policy has the same name in every run."""
        if self == Policy():
            return "base"
        parts = [sorted((Path(folder).name, weight) for folder, weight in self.adapters)]
        text = json.dumps([*parts, self.edit, self.insight, self.quoting])
        return hashlib.sha256(text.encode()).hexdigest()[:10]


@dataclass(frozen=True)
class Asked:
    """What every policy is asked, how often, and by which random numbers it answers."""

    prompts: list[tuple[str, str]]
    """prompt_id, text"""
    samples: int
    limit: int
    key: tuple[str, int]
    paired: bool
    """all policies have the same random numbers"""

    def names(self, policy: Policy) -> tuple[str | int, ...]:
        """What the policy's random numbers are named by."""
        return self.key if self.paired else (*self.key, policy.name)

    def numbers(self, policy: Policy) -> np.ndarray:
        """(prompts * samples, limit)"""
        named = [(*self.names(policy), prompt_id) for prompt_id, _ in self.prompts]
        return np.concatenate([row_uniforms(self.samples, self.limit, *name) for name in named])


Task = tuple[Policy, Edit | None, list[templates.Messages]]
"""a policy, its edit, and what it reads for each prompt"""


def told(policy: Policy, asked: Asked, quotes: Quotes) -> list[templates.Messages]:
    """The questions, with the words that the policy reads before them."""
    if policy.insight:
        return [templates.personal_answer(text, policy.insight) for _, text in asked.prompts]
    if policy.quoting:
        rows = quotes[policy.quoting]
        return [templates.quoting(text, rows[prompt_id]) for prompt_id, text in asked.prompts]
    return [templates.question(text) for _, text in asked.prompts]


def measure(
    batches: Sequence[Sequence[Task]], params: Params, asked: Asked
) -> dict[Policy, pl.DataFrame]:
    """Mean worth of each policy on each prompt; the columns of `policies.worth` but the policy's name.

    Args:
        batches: of policies that are asked together; all of them have the same adapters.
    """
    base = cached_base(params.runtime.device, params.runtime.backend)
    adapters = {Path(folder): weight for folder, weight in batches[0][0][0].adapters}
    lm = with_adapters(base, adapters) if adapters else base

    def encoded(messages: list[templates.Messages]) -> list[list[int]]:
        each = [templates.encode(base.tokenizer, one) for one in messages]
        return [ids for ids in each for _ in range(asked.samples)]

    plain, found = encoded(told(Policy(), asked, {})), {}
    for tasks in batches:
        prompts: list[list[int]] = []
        for policy, _, messages in tasks:
            prompts += encoded(messages) if policy.insight or policy.quoting else plain
        edits = [edit for _, edit, _ in tasks for _ in plain]
        changes = Edits(edits) if any(edits) else None
        numbers = np.concatenate([asked.numbers(policy) for policy, _, _ in tasks])
        answers = generate(lm, prompts, asked.limit, numbers, changes)
        scores = score(lm, prompts, answers.tokens, base, plain * len(tasks), changes)
        for place, (policy, _, _) in enumerate(tasks):
            own = slice(place * len(plain), (place + 1) * len(plain))
            found[policy] = _means(params, asked, base.eos, _rows(answers, own), _rows(scores, own))
    return found


def _rows(of_all: Any, own: slice) -> Any:
    """The same dataclass, of some of the rows."""
    return type(of_all)(*(part[own] for part in vars(of_all).values()))


def _means(
    params: Params, asked: Asked, eos: set[int], answers: Answers, scores: Scores
) -> pl.DataFrame:
    """(prompts,) means over an answer's samples."""
    texts = [text for _, text in asked.prompts for _ in range(asked.samples)]
    rewards = traits.score(params.trained, texts, answers.texts, params.runtime.device)
    broken = [
        tokens[-1] not in eos or complaint(text, answer) is not None
        for tokens, text, answer in zip(answers.tokens, texts, answers.texts, strict=True)
    ]
    surprise = -scores.logprob_reference / [len(tokens) for tokens in answers.tokens]
    measured = np.column_stack([scores.kl, surprise, broken, rewards])
    means = measured.reshape(-1, asked.samples, measured.shape[1]).mean(axis=1)
    names = ["kl", "surprise", "broken", *(f"reward_{trait}" for trait in params.trait_names)]
    said = {
        "prompt_id": [prompt_id for prompt_id, _ in asked.prompts],
        "response": answers.texts[:: asked.samples],
    }
    return pl.DataFrame(said | dict(zip(names, means.T, strict=True)))
