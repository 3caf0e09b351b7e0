"""Checkpoints of unfinished trainings: killed at any moment, a training goes on from its last one.

    unfinished = Checkpoint(store, key_of_the_training)
    phase, first, log = unfinished.load(module, optimizer) or ("supervised", 0, [])
    scheduler = LambdaLR(optimizer, lambda step: clock.rate(first + step))
    Trainer(..., train_dataset=rows[first * batch:], optimizers=(optimizer, scheduler),
            callbacks=[Saving(unfinished, "supervised", module, lambda: log, first)])
    unfinished.clear()  # once the result is stored

A resumed training ends with the same bits as one that was never interrupted. A step is a function of
the weights, of AdamW's moments and count, of the learning rate, of its rows and of its random numbers.
The first three are kept here exactly, as safetensors; rate and rows depend on the step's number alone;
and `Saving` seeds every generator before each step with (seed, step), so that nothing hangs on how
many numbers were drawn before (TRL draws some to shuffle the rows of an RLOO step). With a limit in
minutes the rate follows the clock, and only the state is exact.
Trainer's own checkpoints are pickles, which may run anything when they are read: not used.
"""

import hashlib
import json
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.optim import AdamW
from transformers import TrainerCallback, set_seed

from palette.store import Store, key

TENSORS, STATE, DIGEST = "tensors.safetensors", "state.json", "sha256"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""What AdamW keeps of each tensor."""


class Checkpoint:
    """The last checkpoint of one training, in the store: whole, or not there."""

    def __init__(self, store: Store, training: str):
        """
        Args:
            training: what the training's result is stored by; another training never finds this.
        """
        self._store = store
        self._name = key("checkpoint", training)

    def save(self, step: int, phase: str, module: nn.Module, optimizer: AdamW, log: Any) -> None:
        """Replace the last checkpoint.

        Args:
            step: steps of the phase that are done.
            module: whose tensors are trained; those that are frozen are not kept.
            log: whatever else goes on: all that JSON can hold, so a tuple comes back as a list.

        Raises:
            PaletteError: the store cannot be written to.
        """
        tensors = {}
        for name, tensor in _trained(module).items():
            tensors[f"weights/{name}"] = tensor
            for moment, value in optimizer.state.get(tensor, {}).items():
                tensors[f"{moment}/{name}"] = value
        files = {
            TENSORS: save({name: _plain(tensors[name]) for name in sorted(tensors)}),
            STATE: json.dumps({"phase": phase, "step": step, "log": log}).encode(),
        }
        self._store.save(self._name, files | {DIGEST: _digest(files)})

    def load(self, module: nn.Module, optimizer: AdamW) -> tuple[str, int, Any] | None:
        """Put module and optimizer where they were; nothing else of the optimizer is touched.

        Returns:
            phase, step and log as saved; None, with all as it was, where there is no checkpoint, or
            (after a warning) only a damaged one, or one of tensors of another shape or type.
        """
        try:
            files = self._store.load(self._name)
            if files is None:
                return None
            if files[DIGEST] != _digest(files):
                raise ValueError("its content is not what was written")
            tensors, state = load(files[TENSORS]), json.loads(files[STATE])
            found = state["phase"], state["step"], state["log"]
            weights, moments = _sorted(tensors, module)
        except (ValueError, KeyError, TypeError, AttributeError, OSError, SafetensorError) as error:
            warnings.warn(
                f"a checkpoint is ignored, and its training begins anew: {error}", stacklevel=2
            )
            return None
        trained = _trained(module)
        with torch.no_grad():
            for name, tensor in trained.items():
                tensor.copy_(weights[name])
        by_tensor = {id(tensor): moments[name] for name, tensor in trained.items()}
        listed = [tensor for group in optimizer.param_groups for tensor in group["params"]]
        each = [by_tensor.get(id(tensor)) for tensor in listed]
        own = {number: state for number, state in enumerate(each) if state}
        # PyTorch's own way in: it knows on which device each moment has to be.
        optimizer.load_state_dict(optimizer.state_dict() | {"state": own})
        return found

    def clear(self) -> None:
        """Forget the checkpoint: the training is finished, and its result stored."""
        self._store.delete(self._name)


class Saving(TrainerCallback):
    """Seeds every step of a phase by its number, and saves checkpoints at the end of steps.

    Trainer counts from the first step that is left; `first` makes that the phase's count.
    """

    def __init__(
        self, checkpoint: Checkpoint | None, phase: str, module: nn.Module, log: Callable[[], Any],
        first: int = 0, seconds: float = 20.0, now: Callable[[], float] = time.monotonic,
    ):  # fmt: skip
        """
        Args:
            checkpoint: None: nothing is kept, and steps are seeded all the same.
            log: what to keep beside the tensors, asked for at each save; see `Checkpoint.save`.
            first: steps of the phase that were done before.
            seconds: at least so much wall time between two checkpoints.
        """
        self._checkpoint, self._phase, self._module, self._log = checkpoint, phase, module, log
        self._first, self._seconds, self._now = first, seconds, now
        self._saved = now()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step = self._first + state.global_step
        set_seed(int(np.random.SeedSequence([args.seed, step]).generate_state(1)[0]))

    def on_step_end(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any
    ) -> None:
        if self._checkpoint and self._now() - self._saved >= self._seconds:
            step = self._first + state.global_step
            self._checkpoint.save(step, self._phase, self._module, optimizer, self._log())
            self._saved = self._now()


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: tensor for name, tensor in module.named_parameters() if tensor.requires_grad}


def _sorted(
    tensors: dict[str, Tensor], module: nn.Module
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Weights by name, and moments by name and kind; all as the module's tensors need them.

    Raises:
        ValueError: they are another module's.
    """
    weights, moments = {}, {}
    for name, tensor in _trained(module).items():
        own = {kind: tensors.pop(f"{kind}/{name}", None) for kind in ("weights", *MOMENTS)}
        found = {kind: value for kind, value in own.items() if value is not None}
        alike = all(
            (value.shape, value.dtype) == (tensor.shape, tensor.dtype)
            for kind, value in found.items()
            if kind != "step"
        )
        if not alike or "weights" not in found or len(found) not in (1, 1 + len(MOMENTS)):
            raise ValueError(f"it has no '{name}' of shape {tuple(tensor.shape)}, {tensor.dtype}")
        weights[name] = found.pop("weights")
        moments[name] = found
    if tensors:
        raise ValueError(f"it has '{min(tensors)}', which is not trained here")
    return weights, moments


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


def _digest(files: dict[str, bytes]) -> bytes:
    return hashlib.sha256(files[TENSORS] + files[STATE]).hexdigest().encode()
