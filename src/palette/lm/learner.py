"""What is in training: adapters on a twin of the base, what they learn from, a phase's way through it."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from palette.core.budget import WARM_UP, Clock
from palette.core.draws import Draws
from palette.core.prefixes import Prefixes
from palette.lm.generation import Answers, generate
from palette.lm.models import LanguageModel
from palette.lm.row_lora import Family, RowLora, Sampled, Stacked, layer_sizes
from palette.lm.threads import Threads
from palette.params import Adapters

Log = list[tuple[str, int, float]]
"""(phase, step, loss): columns of the table `training`"""
Progress = Callable[[int], None] | None
PARTS = 4
"""A step's rows are passed through the model sorted by length, in at least so many parts."""
CELLS, CPU_CELLS = 32_000_000, 4_000_000
"""Logits of a part at most (tokens × vocabulary), of which training holds some copies: 128 MB on an
accelerator. A processor's caches hold less: by parts of 16 MB 16 members' steps took 0.8 of the time."""


@dataclass(frozen=True)
class Task:
    """What is known before training, whatever the weights: the train split's prompts."""

    prompts: list[list[int]]
    """encoded prompts"""
    questions: list[str]
    """the same prompts as the reward reads them"""
    answers: list[list[list[int]]]
    """per prompt, the base's rollouts as token ids; eos only where it was reached"""
    rewards: np.ndarray
    """(prompts, samples, d) of the rollouts"""
    reward: Callable[[list[str], list[str]], np.ndarray]
    """rewards of (questions, responses), (rows, d)"""
    beta: float
    """price of one nat of KL to the base"""
    max_new_tokens: int
    floor: np.ndarray
    """(d,) the least weight of each trait"""

    @cached_property
    def prefixes(self) -> Prefixes:
        return Prefixes(self.answers)


@dataclass(frozen=True)
class Learner:
    """A twin of the base, the adapters in training on it, and the weights that they are for."""

    policy: LanguageModel
    rows: RowLora
    weights: np.ndarray | None
    """(members, d); None: a family, for all of W"""
    threads: Threads = field(default_factory=lambda: Threads(1))
    """for the parts of a step"""

    @property
    def members(self) -> int:
        return 1 if self.weights is None else len(self.weights)

    def conditions(self, chosen: Draws) -> np.ndarray:
        """What the rows go through, as `RowLora.focus` takes it."""
        return chosen.weights.astype(np.float32) if self.weights is None else chosen.members

    def answer(
        self, prompts: Sequence[Sequence[int]], conditions: Tensor, limit: int, uniforms: np.ndarray
    ) -> Answers:
        """Sample from the adapters as they are; arguments as of `generate` and `RowLora.focus`."""
        own = Sampled(self.rows, conditions)
        return generate(self.policy, prompts, limit, uniforms, adapters=own)


@dataclass
class Course:
    """A phase's way through its steps: from the first, or from where a checkpoint has it."""

    phase: str
    steps: int
    learning_rate: float
    optimizer: AdamW
    clock: Clock
    logs: list[Log]
    """per member; of this phase and those before"""
    first: int = 0
    """steps that are done"""
    progress: Progress = None
    checkpoint: Any = None
    """a `Checkpoint`, where one is kept"""

    @classmethod
    def begin(
        cls, learner: Learner, phase: str, settings: Adapters, progress: Progress = None
    ) -> "Course":
        """
        Args:
            phase: `supervised` or `rloo`.
        """
        steps, rate = {
            "supervised": (settings.steps, settings.learning_rate),
            "rloo": (settings.rloo_steps, settings.rloo_learning_rate),
        }[phase]
        optimizer = AdamW(learner.rows.parameters(), lr=rate, weight_decay=0.0)
        clock = Clock(steps, settings.max_minutes, time.monotonic)
        logs: list[Log] = [[] for _ in range(learner.members)]
        return cls(phase, steps, rate, optimizer, clock, logs, progress=progress)

    @property
    def left(self) -> int:
        return self.steps - self.first

    def schedule(self) -> LambdaLR:
        """The learning rate of the steps that are left."""
        return LambdaLR(self.optimizer, lambda step: self.clock.rate(self.first + step))

    def callbacks(
        self, learner: Learner, task: Task, share: float | None, logs: Callable[[], list[Log]]
    ) -> list[Any]:
        """For a Trainer: random numbers by step, the share reached, checkpoints, budget, progress.

        Args:
            share: at which a member's training ends; None: at none.
        """
        from palette.lm.callbacks import Advance, Ending
        from palette.lm.checkpoints import Saving
        from palette.lm.reaching import Reaching

        def kept() -> dict[str, Any]:
            done = np.flatnonzero(learner.rows.done).tolist()
            return {"logs": logs(), "elapsed": self.clock.elapsed, "done": done}

        # A checkpoint knows what was reached in its step.
        callbacks: list[Any] = [Reaching(learner, task, self, share)] if share else []
        callbacks.append(Saving(self.checkpoint, self.phase, learner.rows, kept, self.first))
        callbacks.append(Ending(lambda step: self.clock.over(self.first + step)))
        return [*callbacks, *([Advance(self.progress)] if self.progress else [])]


def learning(
    lm: LanguageModel, weights: np.ndarray | None, settings: Adapters, traits: int = 0
) -> Learner:
    """Fresh adapters, of the given members or, without weights, of a family of so many traits."""
    policy = twin(lm)
    sizes = layer_sizes(policy.model)
    if weights is None:
        rows: RowLora = Family(sizes, settings.rank, traits, settings.seed)
    else:
        rows = Stacked(sizes, settings.rank, len(weights), settings.seed)
    rows.to(lm.device).attach(policy.model)
    policy.model.add_module("palette", rows)
    return Learner(policy, rows, weights, Threads.on(lm.device))


def twin(lm: LanguageModel) -> LanguageModel:
    """A copy that shares the base's weights: whatever TRL wraps, patches or configures goes with it."""
    shared = (*lm.model.parameters(), *lm.model.buffers())
    model = copy.deepcopy(lm.model, {id(tensor): tensor for tensor in shared})
    # Trainers ask for training mode, in which some families drop activations out: what is sampled,
    # scored and served never does. Some only read an attribute for it, so the mode itself stays off.
    model.train = partial(_as_it_is, model)
    tokenizer = copy.deepcopy(lm.tokenizer)
    # TRL pads and looks for ends by the tokenizer's own, which may be missing.
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(lm.pad)
    if tokenizer.eos_token is None:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(min(lm.eos))
    return replace(lm, model=model, tokenizer=tokenizer, engine=None)


def _as_it_is(model: Any, mode: bool = True) -> Any:
    return model


def common(
    policy: LanguageModel, folder: str, steps: int, learning_rate: float, seed: int
) -> dict[str, Any]:
    """What all trainings share. No clipping of gradients: a clipped mean is another fixed point."""
    return {
        "output_dir": folder, "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
        "log_level": "error", "logging_steps": 1, "logging_nan_inf_filter": False,
        "max_steps": steps, "seed": seed,
        "learning_rate": learning_rate, "lr_scheduler_type": "cosine",
        "warmup_steps": int(WARM_UP * steps), "weight_decay": 0.0, "max_grad_norm": 0.0,
        "bf16": False, "activation_checkpointing": False, "use_cpu": policy.device.type == "cpu",
        "dataloader_pin_memory": False,
    }  # fmt: skip


def parts_of(learner: Learner, batch: int, longest: int) -> int:
    """Into how many parts a step's rows are split: a divisor of the batch of one member.

    Args:
        longest: tokens of the longest row.
    """
    vocabulary = learner.policy.model.config.get_text_config().vocab_size
    cells = batch * learner.members * longest * vocabulary
    most = CPU_CELLS if learner.policy.device.type == "cpu" else CELLS
    wanted = min(batch, max(PARTS, -(-cells // most)))
    return next(parts for parts in range(wanted, batch + 1) if batch % parts == 0)
