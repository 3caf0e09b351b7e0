"""Policies that a user can be given, and their worth: adapters, an edit, words before the question.

A policy's answers do not depend on whom it serves: users with the same policy share them. What was
measured of a policy is in the store, by what it is made of and what it was asked: one user more
measures that user's policies, not the rest.
"""

import hashlib
import io
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from palette import traits
from palette.core.answers import complaint
from palette.core.editing import Edit, Edits
from palette.fanout import fan_out
from palette.lm import templates
from palette.lm.generation import Answers, generate, row_uniforms
from palette.lm.models import BASE, cached_base, digest, with_adapters
from palette.lm.scoring import Scores, score
from palette.params import Params
from palette.store import Store, key, of

TOGETHER = 24
"""Policies of one set of adapters that a worker is handed at once."""
VERSION = 2
"""Raised when the same answers come to be sampled, scored or judged otherwise."""
FILE = "worth.parquet"
SEVERAL = ("one", "another")  # where nobody says whom a policy serves

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
class _Asked:
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


def worth(
    params: Params,
    policies: Iterable[Policy],
    prompts: pl.DataFrame,
    edits: Mapping[str, Edit],
    words: str,
    samples: int | None = None,
    quotes: Quotes | None = None,
    key: tuple[str, int] | None = None,
    whose: Mapping[Policy, Collection[str]] | None = None,
) -> pl.DataFrame:
    """Mean rewards, KL to the base and side effects of each distinct policy on each prompt.

    A policy is measured alone, so that a store that holds some of the others changes no bit of it.

    Args:
        prompts: rows of the table `prompts`.
        edits: by the names that the policies give them.
        words: what the progress bar says.
        samples: answers per policy and prompt; baselines.samples unless told.
        quotes: for policies that quote.
        key: names random numbers that are the same for all policies, for choices among few of
            them. Unless told each policy has its own: the luck of common ones would be common to all
            users, where no interval over users could see it.
        whose: whom a policy serves, of those made of users' data: what is measured of one that serves
            one user alone is kept in that user's folder of the store.

    Returns:
        policy, prompt_id, response (the first answer), kl (nats), surprise (nats per token under
        the base), broken (share of answers that were cut off or that core/answers.py complains of)
        and reward_TRAIT.
    """
    policies = sorted(set(policies))
    if not policies:
        return pl.DataFrame(schema={"policy": pl.String})
    asked = _Asked(
        prompts.select("prompt_id", "prompt").rows(),
        samples or params.baselines.samples, params.rollouts.max_new_tokens,
        key or ("policies", params.baselines.seed), key is not None,
    )  # fmt: skip
    # Each policy travels with its own edit: all of them are large where users have their own.
    tasks = [
        (policy, edits[policy.edit] if policy.edit else None, _told(policy, asked, quotes or {}))
        for policy in policies
    ]
    store, keys = Store(params.runtime.store), _keys(params, tasks, asked, whose or {})
    missing = [task for task in tasks if not store.has(keys[task[0]])]
    work = partial(_answer, params=params, asked=asked)
    chunks = list(_chunks(missing))
    for made in fan_out(work, chunks, params.runtime, words):
        for policy, frame in made.items():
            content = io.BytesIO()
            frame.write_parquet(content)
            store.save(keys[policy], {FILE: content.getvalue()})
    return pl.concat(
        pl.read_parquet(io.BytesIO(store.get(keys[policy])[FILE])).select(
            pl.lit(policy.name).alias("policy"), pl.all()
        )
        for policy in policies
    )


def assign(chosen: Mapping[str, Policy], values: pl.DataFrame, method: str) -> pl.DataFrame:
    """The worth of each user's policy, with columns method and user_id."""
    users = pl.DataFrame(
        [{"user_id": user, "policy": policy.name} for user, policy in chosen.items()],
        schema={"user_id": pl.String, "policy": pl.String},
    )
    return users.with_columns(method=pl.lit(method)).join(
        values, on="policy", how="inner", maintain_order="left_right"
    )


def _told(policy: Policy, asked: _Asked, quotes: Quotes) -> list[templates.Messages]:
    """The questions, with the words that the policy reads before them."""
    if policy.insight:
        return [templates.personal_answer(text, policy.insight) for _, text in asked.prompts]
    if policy.quoting:
        rows = quotes[policy.quoting]
        return [templates.quoting(text, rows[prompt_id]) for prompt_id, text in asked.prompts]
    return [templates.question(text) for _, text in asked.prompts]


def _chunks(tasks: Sequence[Task]) -> Iterator[list[Task]]:
    for _, group in groupby(tasks, key=lambda task: task[0].adapters):
        same = list(group)
        yield from (same[start : start + TOGETHER] for start in range(0, len(same), TOGETHER))


def _keys(
    params: Params, tasks: Sequence[Task], asked: _Asked, whose: Mapping[Policy, Collection[str]]
) -> dict[Policy, str]:
    """The store's name of each policy's worth: what made it, and nothing else."""
    common = key(
        "worth", VERSION, digest(BASE), _judges(params), asked.prompts, asked.samples, asked.limit,
        _told(Policy(), asked, {}), templates.PLAIN,
    )  # fmt: skip
    adapters = {folder for policy, _, _ in tasks for folder, _ in policy.adapters}
    made_of = {folder: digest(Path(folder)) for folder in adapters}
    edits = {policy.edit: edit.digest for policy, edit, _ in tasks if edit}
    return {
        policy: of(
            key(
                common, [(made_of[folder], share) for folder, share in policy.adapters],
                edits.get(policy.edit), told, asked.names(policy),
            ),
            *whose.get(policy, SEVERAL if policy.personal else ()),
        )
        for policy, _, told in tasks
    }  # fmt: skip


def _judges(params: Params) -> list[Any]:
    """The traits in order, each with its parameters, its files and its code."""
    return [
        (name, trait.makes, traits.code(trait), *filter(None, [traits.files(name, trait)]))
        for name, trait in params.trained.items()
    ]


def _answer(tasks: Sequence[Task], params: Params, asked: _Asked) -> dict[Policy, pl.DataFrame]:
    base = cached_base(params.runtime.device, params.runtime.backend)
    adapters = {Path(folder): weight for folder, weight in tasks[0][0].adapters}
    lm = with_adapters(base, adapters) if adapters else base

    def encoded(told: list[templates.Messages]) -> list[list[int]]:
        each = [templates.encode(base.tokenizer, messages) for messages in told]
        return [ids for ids in each for _ in range(asked.samples)]

    plain, found = encoded(_told(Policy(), asked, {})), {}
    for policy, edit, told in tasks:
        prompts = encoded(told) if policy.insight or policy.quoting else plain
        changes = Edits([edit] * len(prompts)) if edit else None
        answers = generate(lm, prompts, asked.limit, asked.numbers(policy), changes)
        scores = score(lm, prompts, answers.tokens, base, plain, changes)
        found[policy] = _means(params, asked, base.eos, answers, scores)
    return found


def _means(
    params: Params, asked: _Asked, eos: set[int], answers: Answers, scores: Scores
) -> pl.DataFrame:
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
    told = {
        "prompt_id": [prompt_id for prompt_id, _ in asked.prompts],
        "response": answers.texts[:: asked.samples],
    }
    return pl.DataFrame(told | dict(zip(names, means.T, strict=True)))
