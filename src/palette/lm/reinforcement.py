"""On-policy training toward π*_w: J_w itself, the KL to the base in the reward (TRL RLOOTrainer)."""

from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palette.core import draws
from palette.core.draws import Draws
from palette.lm.generation import row_uniforms
from palette.lm.learner import Course, Learner, Log, Task, common, parts_of
from palette.params import Adapters


def reinforce(
    learner: Learner, task: Task, settings: Adapters, course: Course | None = None
) -> list[Log]:
    """Policy gradient of J_w by REINFORCE with a leave-one-out baseline (arXiv 2402.14740).

    The reward of an answer is w·r − β log(π/π_ref), π_ref the base: unbiased for the gradient of
    J_w, and free of variance at π*_w, where it is the same for all answers of a prompt. One
    update per sample, so that TRL's ratio is 1 and its clipping never acts.
    """
    from datasets import Dataset
    from trl import RLOOConfig

    from palette.lm.trainers import ReinforceTrainer, run

    course = course or Course.begin(learner, "rloo", settings)
    asked = _asked(learner, task, settings)
    asked = asked[np.arange(len(asked) * course.first // course.steps, len(asked))]
    logs = course.logs
    longest = max(map(len, task.prompts)) + task.max_new_tokens

    def sample(
        prompts: list[list[int]], condition: Tensor, step: int
    ) -> tuple[list[list[int]], np.ndarray]:
        uniforms = row_uniforms(
            len(prompts), task.max_new_tokens, "rloo", settings.seed, course.first + step
        )
        alive = np.ones(len(prompts), dtype=bool)
        if condition.ndim == 1:  # members that are done answer with nothing
            alive = ~learner.rows.done[condition.cpu().numpy()]
        asked = [prompt for prompt, on in zip(prompts, alive, strict=True) if on]
        conditions = condition[torch.from_numpy(alive).to(condition.device)]
        answers = learner.answer(asked, conditions, task.max_new_tokens, uniforms[alive])
        found, nothing = iter(answers.tokens), [min(learner.policy.eos)]
        logprobs = np.zeros(len(prompts))
        logprobs[alive] = answers.logprobs
        return [next(found) if on else nothing for on in alive], logprobs

    def reward(
        completions: list[str], question: list[str], weights: list, member: list[int], **_: Any
    ) -> list[float]:
        texts = [text.strip() for text in completions]
        worth = (task.reward(question, texts) * np.array(weights)).sum(axis=1)
        step = course.first + trainer.state.global_step + 1
        for number in np.flatnonzero(~learner.rows.done):
            logs[number].append(
                (course.phase, step, -float(worth[np.array(member) == number].mean()))
            )
        return worth.tolist()

    rows = [
        {
            "prompt": task.prompts[prompt], "question": task.questions[prompt],
            "condition": condition.tolist(), "weights": own.tolist(), "member": int(member),
        }
        for prompt, condition, own, member in zip(
            asked.prompts, learner.conditions(asked), asked.weights, asked.members, strict=True
        )
    ]  # fmt: skip
    with TemporaryDirectory() as folder:
        config = RLOOConfig(
            **common(learner.policy, folder, course.left, course.learning_rate, settings.seed),
            per_device_train_batch_size=settings.rloo_batch * learner.members,
            num_generations=settings.generations,
            shuffle_dataset=False,
            beta=0.0,
            temperature=1.0,
            num_iterations=1,
            normalize_advantages=False,
            reward_clip_range=None,
            mask_truncated_completions=False,
            disable_dropout=True,
        )  # fmt: skip
        trainer = ReinforceTrainer(
            model=learner.policy.model,
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=learner.policy.tokenizer,
            rows=learner.rows,
            threads=learner.threads,
            beta=task.beta,
            parts=parts_of(learner, settings.rloo_batch, longest),
            sample=sample,
            optimizers=(course.optimizer, course.schedule()),
        )
        callbacks = course.callbacks(learner, task, settings.share, lambda: logs)
        run(trainer, "adapters.rloo_learning_rate", callbacks)
    return logs


def _asked(learner: Learner, task: Task, settings: Adapters) -> Draws:
    """The prompts of all RLOO steps, each to be answered `generations` times."""
    groups = settings.rloo_batch // settings.generations
    rng = np.random.default_rng([settings.seed, 1])
    total = settings.rloo_steps * groups
    prompts = draws.shuffled(len(task.prompts), total, rng)
    zeros = np.zeros(total, dtype=int)
    if learner.weights is None:
        weights = draws.random_weights(task.floor, settings.concentration, total, rng)
        return Draws(prompts, zeros, zeros, weights)
    steps = np.arange(total).reshape(settings.rloo_steps, 1, groups)
    rows = np.broadcast_to(steps, (settings.rloo_steps, learner.members, groups)).ravel()
    members = np.tile(np.repeat(np.arange(learner.members), groups), settings.rloo_steps)
    return Draws(prompts[rows], zeros[rows], members, learner.weights[members])
