"""Training of the adapters that are not in the store yet, for whichever stage asks for them.

An adapter is stored by what made it: the base, the train prompts and rollouts, the *nonzero* weights
with the rewards that those traits gave, β, and the trainer's settings. A new plan, or a trait that a
member does not weigh, therefore trains nothing that exists.
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import polars as pl

from palette import tables, traits
from palette.fanout import fan_out
from palette.lm import templates
from palette.lm.models import cached_base, load_base
from palette.params import Params, Trait
from palette.store import Store, key

LOG = "training.parquet"


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


@dataclass(frozen=True)
class Weighted:
    """w·r of fresh answers, over the traits of nonzero weight."""

    traits: Mapping[str, Trait]
    weights: np.ndarray

    def __call__(self, questions: list[str], responses: list[str]) -> np.ndarray:
        return traits.score(self.traits, questions, responses) @ self.weights


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


def train(
    params: Params, wanted: Mapping[str, Mapping[str, float]], words: str
) -> dict[str, dict[str, bytes]]:
    """The files of every wanted adapter: from the store, or trained now and stored at once.

    Args:
        wanted: adapter → trait → weight; all adapters of one name are one adapter.
    """
    store, rollouts = Store(params.runtime.store), read_rollouts(params)
    digest = load_base("cpu").digest
    keys = {
        name: adapter_key(params, rollouts, weights, digest) for name, weights in wanted.items()
    }
    missing = {name: keys[name] for name in wanted if not store.has(keys[name])}
    work = partial(_train_one, params=params, rollouts=rollouts)
    items = [(name, dict(wanted[name])) for name in missing]
    for name, files in fan_out(work, items, params.runtime, words):
        store.save(keys[name], files)
    return {name: store.load(found) for name, found in keys.items()}


def adapter_key(params: Params, rollouts: Rollouts, weights: Mapping[str, float], base: str) -> str:
    """The store's name of an adapter: what made it, and nothing else."""
    made_of = {}
    for index, trait in enumerate(params.trait_names):
        if weights[trait] > 0:
            rewards = np.ascontiguousarray(rollouts.rewards[:, :, index])
            scored = hashlib.sha256(rewards.tobytes()).hexdigest()
            made_of[trait] = (weights[trait], scored, params.traits[trait].model_dump())
    if not params.adapters.rloo_steps:  # the reward's parameters are met only while sampling
        made_of = {trait: made[:2] for trait, made in made_of.items()}
    settings = [_settings(params), params.objective.beta]
    # The order of the traits is no part of what an adapter is.
    return key("adapter", base, rollouts.digest, sorted(made_of.items()), settings)


def _settings(params: Params) -> dict[str, float]:
    """The trainer's settings, without those of a phase that has no steps."""
    used = params.adapters.model_dump() | {"max_new_tokens": params.rollouts.max_new_tokens}
    unused = set()
    if not params.adapters.steps:
        unused |= {"learning_rate"}
    if not params.adapters.rloo_steps:
        unused |= {"rloo_learning_rate", "generations", "max_new_tokens"}
    return {name: value for name, value in used.items() if name not in unused}


def _train_one(
    item: tuple[str, dict[str, float]], params: Params, rollouts: Rollouts
) -> tuple[str, dict[str, bytes]]:
    from palette.lm.training import Task
    from palette.lm.training import train as train_adapter

    name, weights = item
    used = {trait: weight for trait, weight in weights.items() if weight > 0}
    base = cached_base(params.runtime.device)
    task = Task(
        prompts=[
            templates.encode(base.tokenizer, templates.question(text))
            for text in rollouts.questions
        ],
        questions=rollouts.questions,
        answers=rollouts.answers,
        rewards=rollouts.rewards @ np.array([weights[trait] for trait in params.trait_names]),
        reward=Weighted({t: params.traits[t] for t in used}, np.array(list(used.values()))),
        beta=params.objective.beta,
        max_new_tokens=params.rollouts.max_new_tokens,
    )
    files, log = train_adapter(base, task, params.adapters)
    rows = pl.DataFrame(
        log, schema={"phase": pl.String, "step": pl.Int64, "loss": pl.Float64}, orient="row"
    )
    content = io.BytesIO()
    rows.write_parquet(content)
    return name, files | {LOG: content.getvalue()}


def write(files: Mapping[str, bytes], folder: Path) -> pl.DataFrame:
    """Write an adapter as an ordinary PEFT directory; hands back its training log."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if name != LOG:
            (folder / name).write_bytes(content)
    return pl.read_parquet(io.BytesIO(files[LOG]))
