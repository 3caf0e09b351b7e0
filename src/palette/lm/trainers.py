"""TRL's trainers, changed where their defaults would lead to another optimum than π*_w, and to carry
what each row is trained for.

Importing TRL takes seconds: import this module inside the function that trains.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback
from trl import RLOOTrainer, SFTTrainer

from palette.errors import PaletteError
from palette.lm.row_lora import RowLora


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


class RowTrainer(SFTTrainer):
    """SFTTrainer of adapters that differ by row, on soft targets.

    The loss is a sum over rows and positions of −Σ share · log π(token), times each row's own
    constant: what one member's rows give is what they would give alone.
    """

    loss_is_scaled_for_ga = True

    def __init__(self, *args: Any, rows: RowLora, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.rows = rows
        self.losses: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
        """step → member → loss"""

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], *_: Any, **__: Any) -> Tensor:
        self.rows.focus(inputs["condition"])
        logits = model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
        ).logits.flatten(0, 1)
        places, which = inputs["place"].unique(return_inverse=True)
        logprobs = logits[places].float().log_softmax(-1)
        each = -inputs["share"] * logprobs[which, inputs["token"]]
        members = inputs["member"]
        sums = each.new_zeros(int(members.max()) + 1).index_add(0, members, each)
        own = self.losses[self.state.global_step + 1]
        for member, value in enumerate(sums.tolist()):
            own[member] += value
        return sums.sum()

    def _send_telemetry(self) -> None:
        """Training tells nobody."""


class ReinforceTrainer(RLOOTrainer):
    """RLOOTrainer of adapters that differ by row, whose reference is the base.

    On token prompts, with the project's own sampler: TRL would tokenize texts, and sample with
    whatever generation config the base brings along. TRL would also load a second model as the
    reference; the base is the same model without the rows' adapters.
    """

    def __init__(
        self, *args: Any, rows: RowLora, beta: float, members: int,
        sample: Callable[[list, Tensor, int], list[list[int]]], **kwargs: Any,
    ):  # fmt: skip
        super().__init__(*args, **kwargs)  # its own β is 0, or it would load that model
        self.rows, self.sample, self.beta, self.members = rows, sample, beta, members
        self.ref_model = object()
        self.condition: Tensor | None = None

    def _tokenize_prompts(self, prompts: list) -> tuple[list, None, dict]:
        return prompts, None, {}

    def _generate_single_turn(
        self, prompt_ids: list, images: None, fields: dict
    ) -> list[list[int]]:
        return self.sample(prompt_ids, self.condition, self.state.global_step)

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict[str, Tensor]:
        self.condition = torch.tensor([row["condition"] for row in inputs], device=self.args.device)
        output = super()._generate_and_score_completions(inputs)
        # Travels with its row where TRL shuffles rows.
        return output | {"condition": self.condition}

    def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> tuple:
        self.rows.focus(None if model is self.ref_model else self.condition)
        # In one batch, as `condition` has it.
        return super()._get_per_token_logps_and_entropies(
            self.model, *args[:3], **{**kwargs, "batch_size": None}
        )

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        condition = inputs.pop("condition")
        if condition.ndim == 1:  # members: rows of one after rows of another
            order = condition.argsort(stable=True)
            inputs, condition = {k: v[order] for k, v in inputs.items()}, condition[order]
        self.condition = condition
        # TRL's mean over all rows, made each member's own.
        return super()._compute_loss(model, inputs) * self.members

    def _send_telemetry(self) -> None:
        """Training tells nobody."""


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


def run(trainer: Any, rate: str, callbacks: Sequence[TrainerCallback] = ()) -> None:
    """Train quietly.

    Raises:
        PaletteError: a loss is not finite; `rate` is the parameter that mends it.
    """
    trainer.remove_callback(PrinterCallback)
    for callback in (Finite(), *callbacks):
        trainer.add_callback(callback)
    try:
        trainer.train()
    except FloatingPointError:
        step = trainer.state.global_step + 1
        raise PaletteError(
            f"training diverged in step {step}; lower {rate} in params.yaml"
        ) from None
