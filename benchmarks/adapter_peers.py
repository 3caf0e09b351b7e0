"""Adapters the ordinary way: TRL's trainers on PEFT's adapters, one training after another.

    .venv/bin/python benchmarks/adapter_peers.py WORLD PHASE ROWS STEPS   # one training, cold

`adapters.py` measures it and `recipes.py` trains with it. TRL is mended where its defaults lead to
another optimum than π*_w: SFT divides by one constant number of tokens, RLOO prices the KL to the base,
no advantage is scaled, no gradient clipped. All else is TRL's. The last line of a cold training is a
JSON object: when its steps ended (time.time) and its peak of memory.
"""

import json
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from palette import params_file, stage, training_data, traits
from palette.core import draws
from palette.lm import templates
from palette.lm.generation import generate, row_uniforms
from palette.lm.learner import Task, common
from palette.lm.models import LanguageModel, load_base
from palette.params import Adapters, Params

THREADS = 2
TRAITS = ("brevity", "humor", "safety")
LEARNING_RATE = 1e-4
"""Of what is only timed: so low that answers keep their length, and every step costs the same."""
WIDEST = 64
"""Rows that SFT passes through the model at once, sorted by length."""
Progress = Callable[[int], None] | None


def read_world() -> tuple[LanguageModel, Params, Task]:
    """The base and the train prompts of the working directory, with TRAITS alone."""
    params = params_file.load()
    chosen = {name: params.traits[name] for name in TRAITS}
    params = params.model_copy(update={"traits": chosen})
    lm, rollouts = load_base("cpu"), training_data.read_rollouts(params)
    return lm, params, Task(
        prompts=[templates.encode(lm.tokenizer, templates.question(q)) for q in rollouts.questions],
        questions=rollouts.questions,
        answers=rollouts.answers,
        rewards=rollouts.rewards,
        reward=partial(traits.score, params.traits),
        beta=params.objective.beta,
        max_new_tokens=params.rollouts.max_new_tokens,
        floor=np.array(params.floor),
    )  # fmt: skip


def timed_settings(phase: str, rows: int, steps: int) -> Adapters:
    """One phase alone, of so many steps of so many rows for an adapter."""
    nothing = {"steps": 0, "rloo_steps": 0, "batch": rows, "rloo_batch": rows}
    rates = {"learning_rate": LEARNING_RATE, "rloo_learning_rate": LEARNING_RATE}
    return Adapters(**nothing | rates | {"steps" if phase == "supervised" else "rloo_steps": steps})


def supervised(
    lm: LanguageModel, task: Task, weights: np.ndarray, settings: Adapters,
    progress: Progress = None,
) -> LanguageModel:  # fmt: skip
    """SFT on rollouts resampled toward π*_w; the base with its trained PeftModel.

    Args:
        weights: (d,).
    """
    from datasets import Dataset
    from trl import SFTConfig

    from palette.lm.trainers import SupervisedTrainer

    steps, batch = settings.steps, settings.batch
    policy = adapted(lm, settings)
    chosen = draws.for_members(task.rewards, task.beta, weights[None], steps, batch, settings.seed)
    said = np.array([
        len(task.answers[prompt][sample])
        for prompt, sample in zip(chosen.prompts, chosen.samples, strict=True)
    ])  # fmt: skip
    parts = max(1, batch // WIDEST)
    rows = []
    asked = np.array([len(prompt) for prompt in task.prompts])[chosen.prompts]
    chosen = chosen[draws.by_length(asked + said, 1, batch, parts).ravel()]
    for prompt, sample in zip(chosen.prompts, chosen.samples, strict=True):
        question, answer = task.prompts[prompt], list(task.answers[prompt][sample])
        rows.append({"input_ids": question + answer, "labels": [-100] * len(question) + answer})
    with TemporaryDirectory() as folder:
        config = SFTConfig(
            **common(policy, folder, steps, settings.learning_rate, settings.seed),
            per_device_train_batch_size=batch // parts,
            gradient_accumulation_steps=parts,
            train_sampling_strategy="sequential",
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        _run(SupervisedTrainer(
            model=policy.model, args=config, train_dataset=Dataset.from_list(rows),
            processing_class=policy.tokenizer, tokens_per_step=int(said.sum()) / steps,
        ), "adapters.learning_rate", progress)  # fmt: skip
    return policy


def reinforce(
    lm: LanguageModel, task: Task, weights: np.ndarray, settings: Adapters,
    progress: Progress = None, own_generation: bool = False,
) -> LanguageModel:  # fmt: skip
    """RLOO on J_w; the base with its trained PeftModel.

    Args:
        weights: (d,).
        own_generation: sample as TRL does, by Hugging Face's `generate`, and not as palette does.
    """
    from datasets import Dataset
    from trl import RLOOConfig

    policy = adapted(lm, settings)

    def sample(prompts: list[list[int]], step: int) -> list[list[int]]:
        uniforms = row_uniforms(len(prompts), task.max_new_tokens, "rloo", settings.seed, step)
        return generate(policy, prompts, task.max_new_tokens, uniforms).tokens

    def reward(completions: list[str], question: list[str], **_: Any) -> list[float]:
        return (task.reward(question, [text.strip() for text in completions]) @ weights).tolist()

    groups = settings.rloo_steps * (settings.rloo_batch // settings.generations)
    order = draws.shuffled(len(task.prompts), groups, np.random.default_rng([settings.seed, 1]))
    rows = [{"prompt": task.prompts[row], "question": task.questions[row]} for row in order]
    steps, rate = settings.rloo_steps, settings.rloo_learning_rate
    with TemporaryDirectory() as folder:
        config = RLOOConfig(
            **common(policy, folder, steps, rate, settings.seed),
            per_device_train_batch_size=settings.rloo_batch,
            num_generations=settings.generations,
            max_completion_length=task.max_new_tokens,
            shuffle_dataset=False,
            beta=task.beta,
            temperature=1.0,
            num_iterations=1,
            normalize_advantages=False,
            reward_clip_range=None,
            mask_truncated_completions=False,
            disable_dropout=True,
        )
        trainer = _reinforcing(None if own_generation else sample)(
            model=policy.model, reward_funcs=reward, args=config,
            train_dataset=Dataset.from_list(rows), processing_class=policy.tokenizer,
        )  # fmt: skip
        _run(trainer, "adapters.rloo_learning_rate", progress)
    return policy


PHASES = {"supervised": supervised, "rloo": reinforce}


def adapted(lm: LanguageModel, settings: Adapters) -> LanguageModel:
    """A twin of the base with a fresh PEFT adapter on every linear layer of its decoder."""
    from palette.lm import preference_training

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of libraries about each other
        return preference_training.adapted(lm, settings)


def _reinforcing(sample: Callable[[list, int], list[list[int]]] | None) -> type:
    """TRL's trainer on token prompts; the class is made here because importing TRL takes seconds."""
    from peft import PeftModel
    from trl import RLOOTrainer

    class Reinforcing(RLOOTrainer):
        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **kwargs)
            assert isinstance(self.model, PeftModel)
            # Without this copy of the adapter TRL takes the base as the reference.
            self.model.delete_adapter("ref")

        def _tokenize_prompts(self, prompts: list) -> tuple[list, None, dict]:
            return prompts, None, {}

        def _generate_single_turn(self, prompt_ids: list, *rest: Any) -> list[list[int]]:
            if sample is None:
                return super()._generate_single_turn(prompt_ids, *rest)
            return sample(prompt_ids, self.state.global_step)

        def _send_telemetry(self) -> None:
            """Training tells nobody."""

    return Reinforcing


def _run(trainer: Any, rate: str, progress: Progress) -> None:
    from palette.lm.callbacks import Advance
    from palette.lm.trainers import run

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        run(trainer, rate, [Advance(progress)] if progress else [])


def peak() -> float:
    """The most memory that this process has had, MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def cold(world: str, phase: str, rows: int, steps: int) -> None:
    stage.prepare(THREADS)
    torch.set_num_threads(THREADS)
    os.chdir(world)
    lm, _, task = read_world()
    weights = np.full(task.rewards.shape[2], 1 / task.rewards.shape[2])
    ends: list[float] = []
    settings = timed_settings(phase, rows, steps)
    PHASES[phase](lm, task, weights, settings, lambda _: ends.append(time.time()))
    print(json.dumps({"ends": ends, "peak": peak()}))


if __name__ == "__main__":
    if len(sys.argv) != 5 or sys.argv[2] not in PHASES:
        sys.exit(__doc__)
    cold(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
