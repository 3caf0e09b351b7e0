"""TRL's trainers, changed where their defaults would lead to another optimum than π*_w, and to carry
what each row is trained for.

Importing TRL takes seconds: import this module inside the function that trains.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback
from trl import RLOOTrainer, SFTTrainer
from trl.trainer.utils import selective_log_softmax

from palette.core.draws import by_length
from palette.errors import PaletteError
from palette.lm.callbacks import Finite
from palette.lm.row_lora import RowLora
from palette.lm.threads import Threads


class Quiet:
    """Training tells nobody."""

    def _send_telemetry(self) -> None:
        """As TRL asks for it."""


class SupervisedTrainer(Quiet, SFTTrainer):
    """SFTTrainer whose loss is a sum over answer tokens divided by one constant for all steps.

    TRL divides by the answer tokens of the batch at hand, so that a token of a batch of short
    answers counts more, and the fixed point is not the likelihood's.
    """

    loss_is_scaled_for_ga = True  # type: ignore[assignment]  # declared as None

    def __init__(self, *args: Any, tokens_per_step: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.tokens_per_step = tokens_per_step

    def _get_num_items_in_batch(self, batch_samples: list, device: Any) -> Any:
        return self.tokens_per_step


class RowTrainer(Quiet, SFTTrainer):
    """SFTTrainer of adapters that differ by row, on soft targets.

    The loss is a sum over rows and positions of −Σ share · log π(token), times each row's own
    constant: what one member's rows give is what they would give alone. A batch holds a step's parts.
    """

    loss_is_scaled_for_ga = True  # type: ignore[assignment]  # declared as None

    def __init__(self, *args: Any, rows: RowLora, threads: Threads, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.rows, self.threads = rows, threads
        self.losses: dict[int, dict[int, float]] = defaultdict(dict)
        """step → member → loss"""

    def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> Tensor:
        parameters = list(self.rows.parameters())
        total, sums = self.threads.add_up(partial(self.fit, model), inputs["parts"], parameters)
        own = self.losses[self.state.global_step + 1]
        for member in np.flatnonzero(~self.rows.done):
            own[int(member)] = sums[member].item()
        return total

    def fit(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """(members,) losses of a part."""
        if self.rows.done.any():
            inputs = _without(inputs, self.rows.done)
        self.rows.focus(inputs["condition"])
        logits = model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
        ).logits.flatten(0, 1)
        places, which = inputs["place"].unique(return_inverse=True)
        logprobs = logits[places].float().log_softmax(-1)
        each = -inputs["share"] * logprobs[which, inputs["token"]]
        return each.new_zeros(len(self.rows.done)).index_add(0, inputs["member"], each)


class ReinforceTrainer(Quiet, RLOOTrainer):
    """RLOOTrainer of adapters that differ by row, whose reference is the base.

    On token prompts, with the project's own sampler: TRL would tokenize texts, and sample with
    whatever generation config the base brings along. TRL would also load a second model as the
    reference; the base is the same model without the rows' adapters. Rows pass through the model in
    parts of like length, each of which is forgotten before the next.
    """

    def __init__(
        self, *args: Any, rows: RowLora, threads: Threads, beta: float, parts: int,
        sample: Callable[[list, Tensor, int], tuple[list[list[int]], np.ndarray]], **kwargs: Any,
    ):  # fmt: skip
        """
        Args:
            beta: price of one nat of KL to the base.
            parts: into which a step's rows are split.
            sample: (prompts, conditions, step) → tokens of the answers, and their log-probabilities.
        """
        super().__init__(*args, **kwargs)  # its own β is 0, or it would load that model
        self.rows, self.threads, self.sample = rows, threads, sample
        self.beta, self.parts = beta, parts
        self.ref_model: Any = object()
        self.condition: Tensor | None = None
        self.sampled: Tensor | None = None

    def _tokenize_prompts(self, prompts: list) -> tuple[list, None, dict]:
        return prompts, None, {}

    def _generate_single_turn(
        self, prompt_ids: list, images: None, fields: dict
    ) -> list[list[int]]:
        assert self.condition is not None, "set before completions are generated"
        tokens, logprobs = self.sample(prompt_ids, self.condition, self.state.global_step)
        self.sampled = torch.from_numpy(logprobs).to(self.args.device, torch.float32)
        return tokens

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict[str, Tensor]:
        self.condition = torch.tensor([row["condition"] for row in inputs], device=self.args.device)
        output = super()._generate_and_score_completions(inputs)
        # Travels with its row where TRL shuffles rows.
        return output | {"condition": self.condition}

    def _get_per_token_logps_and_entropies(
        self, model: Any, ids: Tensor, attention: Tensor, longest: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor, None]:
        """Log-probabilities (rows, longest) of answers' tokens.

        The base scores rows in parts, each as wide as its own longest answer. What the policy gives to
        its own answers the sampler knows already: TRL adds up, so the sum stands at the first token.
        """
        if torch.is_grad_enabled():
            return self._scored(ids, attention, longest)
        found = torch.zeros((len(ids), longest), device=ids.device)
        lengths, conditions, sampled = attention[:, -longest:].sum(1), self.condition, self.sampled
        assert conditions is not None and sampled is not None, "completions are scored when made"
        if model is not self.ref_model:
            found[:, 0] = sampled
            return found, found, None

        def score(part: Tensor) -> None:
            width = int(lengths[part].max())
            kept = slice(ids.shape[1] - longest + width)
            self.rows.focus(None)
            logps, *_ = self._scored(ids[part, kept], attention[part, kept], width)
            found[part, :width] = logps

        self.threads.map(score, self._parts(lengths, conditions))
        return found, found, None

    def _scored(self, ids: Tensor, attention: Tensor, longest: int) -> tuple[Tensor, Tensor, None]:
        """As TRL's own, but that rows count positions from their own first token, behind the padding.

        Under the policy that the rows are focused on.
        """
        own: Any = self.model
        logits = own(
            input_ids=ids, attention_mask=attention, use_cache=False, logits_to_keep=longest + 1,
            position_ids=(attention.cumsum(1) - 1).clamp(min=0),
        ).logits[:, :-1]  # fmt: skip
        # A family that knows no logits_to_keep gives all of them.
        logits = logits[:, -longest:].float()
        logps = selective_log_softmax(logits, ids[:, -longest:])
        return logps, torch.zeros_like(logps), None  # TRL logs the entropy, which nobody reads

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """Of all parts."""
        conditions = inputs.pop("condition")
        lengths = inputs["completion_mask"].sum(1)
        rows_of_a_member = len(lengths) / len(self.rows.done)
        of_a_part = super()._compute_loss

        def improve(part: Tensor) -> Tensor:
            width = int(lengths[part].max())
            own = {key: rows[part] for key, rows in inputs.items()}
            own |= {key: own[key][:, :width] for key in ("completion_ids", "completion_mask")}
            self.rows.focus(conditions[part])
            # TRL's mean over the part, made each member's own over all of its rows.
            return of_a_part(model, own) * (len(part) / rows_of_a_member)

        parts = self._parts(lengths, conditions)
        return self.threads.add_up(improve, parts, list(self.rows.parameters()))[0]

    def _parts(self, lengths: Tensor, conditions: Tensor) -> list[Tensor]:
        """Row numbers of each part: of like lengths, and as many rows of each member in training."""
        members = torch.zeros_like(lengths) if conditions.ndim > 1 else conditions
        training = torch.from_numpy(~self.rows.done).to(members.device)
        order = members.argsort(stable=True)
        order = order[training[members[order]]]
        count = int(training.sum())
        parts = by_length(
            lengths[order].cpu().numpy(), count, len(order) // count, self.parts
        )[0]  # fmt: skip
        return [order[torch.from_numpy(part).to(order.device)] for part in parts]


def _without(inputs: dict[str, Tensor], done: np.ndarray) -> dict[str, Tensor]:
    """A part's batch without the rows of members that are done."""
    width = inputs["input_ids"].shape[1]
    kept = ~torch.from_numpy(done).to(inputs["condition"].device)[inputs["condition"]]
    targets, moved = kept[inputs["place"] // width], kept.cumsum(0) - 1
    found = {key: inputs[key][kept] for key in ("input_ids", "attention_mask", "condition")}
    found |= {key: inputs[key][targets] for key in ("place", "token", "member", "share")}
    place = found["place"]
    return found | {"place": moved[place // width] * width + place % width}


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
