"""Training adapters toward π*_w ∝ π_ref exp(w·r/β) on one frozen base: several members, or one family.

Two phases, both with TRL and both with π*_w as their only optimum: `supervised`, on the base's rollouts,
then `reinforce`, on-policy. Killed at any moment, a training goes on from its last checkpoint.
"""

import warnings
from typing import Any

import numpy as np
import torch

from palette.lm import peft_files
from palette.lm.learner import Course, Learner, Log, Progress, Task, learning
from palette.lm.models import LanguageModel
from palette.lm.reinforcement import reinforce
from palette.lm.row_lora import Family
from palette.lm.supervision import supervised
from palette.params import Adapters

PHASES = {"supervised": supervised, "rloo": reinforce}


def train_members(
    lm: LanguageModel, task: Task, weights: np.ndarray, settings: Adapters,
    progress: Progress = None, checkpoint: Any = None,
) -> list[tuple[dict[str, bytes], Log]]:  # fmt: skip
    """Train an adapter for every weight vector, all in one pass. The base is left as it was.

    Args:
        weights: (members, d).
        progress: called with steps done, `steps + rloo_steps` in all.
        checkpoint: a `Checkpoint` of this training, where one is kept.

    Returns:
        per member the files of an ordinary PEFT adapter, by name, and the log.

    Raises:
        PaletteError: the loss became infinite or not a number.
    """
    learner = learning(lm, weights, settings)
    logs = _train(learner, task, settings, progress, checkpoint)
    each = [learner.rows.matrices(torch.tensor(member)) for member in range(len(weights))]
    return [(peft_files.of_matrices(own), log) for own, log in zip(each, logs, strict=True)]


def train_family(
    lm: LanguageModel, task: Task, settings: Adapters, progress: Progress = None,
    checkpoint: Any = None,
) -> tuple[dict[str, bytes], Log]:  # fmt: skip
    """Train one family for all of W; as `train_members`.

    Returns:
        the family's files, and the log.
    """
    learner = learning(lm, None, settings, task.rewards.shape[2])
    (log,) = _train(learner, task, settings, progress, checkpoint)
    assert isinstance(learner.rows, Family), "learning without members is of a family"
    return peft_files.of_family(learner.rows), log


def _train(
    learner: Learner, task: Task, settings: Adapters, progress: Progress, checkpoint: Any
) -> list[Log]:
    courses = [Course.begin(learner, phase, settings, progress) for phase in PHASES]
    courses = [course for course in courses if course.steps]
    found = checkpoint.load(learner.rows, courses[0].optimizer) if checkpoint else None
    if found:
        courses = _resumed(learner, settings, courses, checkpoint, *found)
    logs = courses[0].logs
    with warnings.catch_warnings():
        # transformers has renamed attributes that TRL reads: nothing that a user could mend.
        warnings.simplefilter("ignore", FutureWarning)
        for course in courses:
            course.logs, course.checkpoint = logs, checkpoint
            course.clock.restart()
            if not learner.rows.done.all():
                logs = PHASES[course.phase](learner, task, settings, course)
    learner.rows.focus(None)
    return logs


def _resumed(
    learner: Learner, settings: Adapters, courses: list[Course], checkpoint: Any, phase: str,
    step: int, kept: dict[str, Any],
) -> list[Course]:  # fmt: skip
    """The courses that are left, the first of them where the checkpoint has it."""
    place = [course.phase for course in courses].index(phase)
    for done in courses[:place]:
        if done.progress:
            done.progress(done.steps)
    course = courses[place]
    checkpoint.load(learner.rows, course.optimizer)  # the moments are this phase's
    course.first, course.clock.spent = step, kept["elapsed"]
    course.logs = [[tuple(row) for row in log] for log in kept["logs"]]
    learner.rows.keep(np.array(kept["done"], dtype=int))
    if course.progress:
        course.progress(step)
    return courses[place:]
