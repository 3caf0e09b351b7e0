"""Edits: changes of hidden states along directions while a model generates, another for each row.

On the outputs of the chosen layers' MLPs, CHAMELEON (arXiv 2503.01048, section 3.3) strengthens the
personal part, x ← x + proj(x, θP), then removes the neutral part, x ← x − proj(x, θN). A strength
scales both steps; at 0 no hook is placed, so the model is the base, bit for bit.

Which positions: the last position of the prompt, whose output is the first generated token, and
every generated token after it. Earlier positions of the prompt are read unedited. Scoring an answer
that is already written edits the same positions, so both see the same policy.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn


class Edits:
    """Edits for the rows of a batch; one object serves one run of generation or scoring."""

    def __init__(
        self,
        personal: Tensor,
        neutral: Tensor,
        chosen: Tensor,
        group: Tensor,
        strength: float = 1.0,
    ):
        """
        Args:
            personal, neutral: (groups, layers, hidden); any scale and sign, zero for no change.
            chosen: (groups, layers) bool, the layers that each group's edit acts on.
            group: (rows,) group of each row; -1 leaves a row alone.
            strength: factor of both steps; 1 is the paper's edit.
        """
        self.group, self.strength = group, strength
        self.layers = chosen.any(0).nonzero().squeeze(1).tolist()
        self._depth = chosen.shape[1]
        self._personal = _table(personal, chosen)
        self._neutral = _table(neutral, chosen)
        self._rows = self._first = self._thread = None

    @contextmanager
    def attach(self, model: Any) -> Iterator["Edits"]:
        """Edit the model's hidden states inside a `with` block."""
        mlps = find_mlps(model)
        if len(mlps) != self._depth:
            raise ValueError(f"the edit is for {self._depth} layers, the model has {len(mlps)}")
        device = next(model.parameters()).device
        self._personal, self._neutral = self._personal.to(device), self._neutral.to(device)
        self._thread = get_ident()
        layers = self.layers if self.strength else []
        handles = [mlps[i].register_forward_hook(partial(self._hook, i)) for i in layers]
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def focus(self, rows: Tensor, first: Tensor | None = None) -> None:
        """Say, before a forward pass, what its batch holds.

        Args:
            rows: (batch,) indices into the rows that the edits were made for.
            first: (batch,) first edited position of each sequence, in columns of the padded
                batch; None edits the last column alone, as in prefill and in decoding.
        """
        self._rows, self._first = self.group[rows.to(self.group.device)], first

    def _hook(self, layer: int, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if get_ident() != self._thread:  # workers that are threads share one model
            return output
        rows = self._rows.to(output.device)
        personal = self._personal[layer][rows][:, None]  # (batch, 1, hidden)
        neutral = self._neutral[layer][rows][:, None]
        if self._first is None:
            last = self._edited(output[:, -1:], personal, neutral)
            return torch.cat([output[:, :-1], last], 1)
        column = torch.arange(output.shape[1], device=output.device)
        inside = column >= self._first.to(output.device)[:, None]  # (batch, width)
        return torch.where(inside[..., None], self._edited(output, personal, neutral), output)

    def _edited(self, x: Tensor, personal: Tensor, neutral: Tensor) -> Tensor:
        wide = x.float()
        wide = wide + self.strength * (wide * personal).sum(-1, keepdim=True) * personal
        wide = wide - self.strength * (wide * neutral).sum(-1, keepdim=True) * neutral
        return wide.to(x.dtype)


def find_mlps(model: Any) -> list[nn.Module]:
    """The MLP of every decoder layer, in order (Llama, Mistral, Qwen, Gemma, GPT-2, GPT-NeoX, ...).

    Raises:
        ValueError: the model has no stack of layers that each hold an `mlp`.
    """
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and module and all(hasattr(m, "mlp") for m in module):
            return [layer.mlp for layer in module]
    raise ValueError(f"{type(model).__name__} has no decoder layers with an `mlp` to edit")


def _table(directions: Tensor, chosen: Tensor) -> Tensor:
    """(layers, groups + 1, hidden) unit vectors, zero for layers not chosen.

    The last entry is zero, so that group -1 finds an edit that changes nothing.
    """
    unit = nn.functional.normalize(directions.double(), dim=-1, eps=1e-30).float()
    unit = unit * chosen[..., None]
    return torch.cat([unit, unit.new_zeros(1, *unit.shape[1:])]).transpose(0, 1).contiguous()
