"""TRL's trainers, changed only where their defaults would lead to another optimum than π*_w.

Importing TRL takes seconds: import this module inside the function that trains.
"""

import math
from collections.abc import Callable
from typing import Any

from transformers import PrinterCallback, TrainerCallback
from trl import RLOOTrainer, SFTTrainer

from palette.errors import PaletteError


class SupervisedTrainer(SFTTrainer):
    """SFTTrainer whose loss is a sum over answer tokens divided by one constant for all steps.

    TRL divides by the answer tokens of the batch at hand, so that a token of a batch of short
    answers counts more, and the fixed point is not the likelihood's.
    """

    loss_is_scaled_for_ga = True

    def __init__(self, *args: Any, tokens_per_step: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.tokens_per_step = tokens_per_step

    def _get_num_items_in_batch(self, batch_samples: list, device: Any) -> float:
        return self.tokens_per_step

    def _send_telemetry(self) -> None:
        """Training tells nobody."""


class ReinforceTrainer(RLOOTrainer):
    """RLOOTrainer whose reference is the base, on token prompts, with the project's own sampler.

    TRL takes a copy of the adapter that it is handed as the reference, which would price the KL to
    the supervised adapter; without that copy it disables the adapter, which leaves the base. It
    would also tokenize texts and sample with whatever generation config the base brings along.
    """

    def __init__(self, *args: Any, sample: Callable[[list, int], list[list[int]]], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.model.delete_adapter("ref")
        self.sample = sample

    def _tokenize_prompts(self, prompts: list) -> tuple[list, None, dict]:
        return prompts, None, {}

    def _generate_single_turn(
        self, prompt_ids: list, images: None, fields: dict
    ) -> list[list[int]]:
        return self.sample(prompt_ids, self.state.global_step)

    def _send_telemetry(self) -> None:
        """Training tells nobody."""


class Advance(TrainerCallback):
    """Reports every finished step to a progress bar."""

    def __init__(self, progress: Callable[[int], None]):
        self.progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress(1)


def run(trainer: Any, rate: str, progress: Callable[[int], None] | None) -> list[dict[str, float]]:
    """Train quietly; what was logged after each step.

    Raises:
        PaletteError: a loss is not finite; `rate` is the parameter that mends it.
    """
    trainer.remove_callback(PrinterCallback)
    if progress:
        trainer.add_callback(Advance(progress))
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    for entry in logged:
        if not math.isfinite(entry["loss"]):
            step = entry["step"]
            raise PaletteError(f"training diverged in step {step}; lower {rate} in params.yaml")
    return logged
