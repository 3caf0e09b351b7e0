"""Ends a member's training once its share is reached, and with the last member the training itself.

Ten times a phase every member that is still in training answers train prompts afresh. One that has
reached its share stays as it is from then on, and its rows are no longer passed through the model. A
family is one training for all of W: it ends when it has reached the share at every corner of W and in
the middle.
"""

from functools import cached_property
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from palette.core.ideal import Ideal
from palette.core.reaching import REACHED, Reached
from palette.core.region import Region
from palette.lm.generation import row_uniforms
from palette.lm.learner import Course, Learner, Task
from palette.lm.scoring import logprobs

LOOKS = 10
"""How often in a phase the members are judged."""
ANSWERS = 96
"""Of each at a look: one to each of the first train prompts, or more where there are fewer."""


class Reaching(TrainerCallback):
    """Judges members on train prompts, logs what those that are done have reached, and keeps them so."""

    def __init__(self, learner: Learner, task: Task, course: Course, share: float):
        """
        Args:
            share: of what is possible, that is enough.
        """
        self._learner, self._task, self._course, self._share = learner, task, course, share
        self._every = -(-course.steps // LOOKS)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        rows = self._learner.rows
        rows.restore()
        step = self._course.first + state.global_step
        if step % self._every == 0:
            self._look(step)
            control.should_training_stop |= bool(rows.done.all())

    def _look(self, step: int) -> None:
        """Judge those that are still in training."""
        rows, weights = self._learner.rows, self._learner.weights
        left = np.flatnonzero(~rows.done)
        if weights is None:
            found = self._judged(self._places, self._places.astype(np.float32), step)
            reached = np.array([found.at_least(self._share).all()])
            shares = np.array([found.shares.min()])
        else:
            found = self._judged(weights[left], left, step)
            reached, shares = found.at_least(self._share), found.shares
        for member, enough, share in zip(left, reached, shares, strict=True):
            if enough:
                self._course.logs[member].append((REACHED, step, 1 - float(share)))
        rows.keep(left[reached])

    @cached_property
    def _places(self) -> np.ndarray:
        """(d + 1, d) where a family is judged."""
        region = Region(tuple(self._task.floor))
        return np.concatenate([region.vertices(), region.middle()[None]])

    @cached_property
    def _ideal(self) -> Ideal:
        return Ideal(self._task.rewards[:ANSWERS], self._task.beta).condensed()

    def _judged(self, weights: np.ndarray, conditions: np.ndarray, step: int) -> Reached:
        """The policies at these conditions, each at its own weights."""
        task, learner = self._task, self._learner
        asked = np.arange(ANSWERS) % len(task.prompts)
        prompts = [task.prompts[prompt] for prompt in asked] * len(weights)
        questions = [task.questions[prompt] for prompt in asked] * len(weights)
        policies = np.repeat(np.arange(len(weights)), ANSWERS)
        uniforms = row_uniforms(
            len(prompts), task.max_new_tokens, "reaching", self._course.phase, step
        )
        condition = torch.from_numpy(conditions[policies]).to(learner.policy.device)
        answers = learner.answer(prompts, condition, task.max_new_tokens, uniforms)
        ratio = answers.logprobs - logprobs(learner.policy, prompts, answers.tokens)
        rewards = task.reward(questions, answers.texts)
        each = (rewards * weights[policies]).sum(axis=1) - task.beta * ratio
        return Reached(
            each.reshape(len(weights), ANSWERS),
            (weights @ self._ideal.base().T)[:, asked],
            self._ideal.value(weights)[:, asked],
        )
