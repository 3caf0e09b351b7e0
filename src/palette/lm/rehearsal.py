"""What a training will take, by rehearsing it: two steps of each phase on a few prompts, thrown away.

The second step is timed: the first also pays for imports and for memory that is kept. The process's
peak is then what the training's will be, for every step holds the same arrays.
"""

import resource
import sys
import time
from dataclasses import replace

import numpy as np
import torch

from palette.lm.learner import Task
from palette.lm.models import LanguageModel
from palette.lm.training import train_family, train_members
from palette.params import Adapters
from palette.passes import Forecast

PROMPTS = 16
"""Of the train split, the first: their prefix trees are soon made."""


def rehearse(
    lm: LanguageModel, task: Task, weights: np.ndarray | None, settings: Adapters
) -> Forecast:
    """Time and memory of a pass, on this machine.

    Args:
        weights: (members, d); None for a family.
    """
    phases = {"steps": settings.steps, "rloo_steps": settings.rloo_steps}
    phases = {phase: steps for phase, steps in phases.items() if steps}
    few = replace(
        task, prompts=task.prompts[:PROMPTS], questions=task.questions[:PROMPTS],
        answers=task.answers[:PROMPTS], rewards=task.rewards[:PROMPTS],
    )  # fmt: skip
    each = []
    for phase, steps in phases.items():
        two = {"steps": 0, "rloo_steps": 0, "share": None, "max_minutes": None} | {phase: 2}
        own = settings.model_copy(update=two)
        times: list[float] = []

        def tick(_: int, times: list[float] = times) -> None:
            times.append(time.perf_counter())

        if weights is None:
            train_family(lm, few, own, tick)
        else:
            train_members(lm, few, weights, own, tick)
        each.append((steps, times[1] - times[0]))
    seconds = sum(steps * one for steps, one in each)
    if settings.max_minutes:
        seconds = min(seconds, 60 * settings.max_minutes * len(phases))
    return Forecast(seconds, _peak(lm.device), tuple(each))


def _peak(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
