"""What a Trainer is asked at every step: to refuse a loss that is no number, to tell, to end in time."""

import math
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback


class Finite(TrainerCallback):
    """Refuses a loss that is no number before its weights are kept.

    Raises:
        FloatingPointError: it is not finite.
    """

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any
    ) -> None:
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            raise FloatingPointError


class Advance(TrainerCallback):
    """Reports every finished step to a progress bar."""

    def __init__(self, progress: Callable[[int], None]):
        self.progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress(1)


class Ending(TrainerCallback):
    """Ends a training whose budget is spent, after the step at hand."""

    def __init__(self, over: Callable[[int], bool]):
        self.over = over

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop |= self.over(state.global_step)
