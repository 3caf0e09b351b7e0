"""Edits: changes of the hidden states of a model while it generates, another for each row.

An edit is one affine map for each layer's MLP output, x ← x + (x·readsᵀ)·writes + shift, of low rank.
CHAMELEON's rule (arXiv 2503.01048, section 3.3) strengthens the personal part, x ← x + proj(x, θP),
then removes the neutral part, x ← x − proj(x, θN): `project(θP).then(project(θN) * -1)`. A steering
vector is a shift. Such maps are closed under composition, scaling and sums, hence the algebra.

Which positions: the last position of the prompt, whose output is the first generated token, and
every generated token after it. Earlier positions of the prompt are read unedited. Scoring an answer
that is already written edits the same positions, so both see the same policy.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from threading import get_ident
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, eq=False)
class Edit:
    """A change of every layer's MLP output: x ← x + (x·readsᵀ)·writes + shift. Float32.

    `edit * s` changes s times as much; `a + b` makes both changes to the same x; `a.then(b)` makes
    a's and then b's, to what a left.
    """

    reads: Tensor
    """(layers, rank, hidden)"""
    writes: Tensor
    """(layers, rank, hidden)"""
    shift: Tensor
    """(layers, hidden)"""

    @classmethod
    def identity(cls, layers: int, hidden: int) -> "Edit":
        return cls.add(torch.zeros(layers, hidden))

    @classmethod
    def add(cls, shift: Tensor) -> "Edit":
        """Adds a vector to every layer's output: (layers, hidden)."""
        none = shift.new_zeros(len(shift), 0, shift.shape[-1]).float()
        return cls(none, none, shift.float())

    @classmethod
    def project(cls, directions: Tensor) -> "Edit":
        """Adds x's own part in the span of directions, of any length, sign and order.

        Args:
            directions: (layers, rank, hidden); zeros, and what depends on the others, change nothing.
        """
        _, scales, right = torch.linalg.svd(directions.double(), full_matrices=False)
        within = scales > scales.amax(-1, keepdim=True).clamp(min=1e-300) * 1e-6
        basis = (right * within[..., None]).float()
        return cls(basis, basis, basis.new_zeros(len(basis), basis.shape[-1]))

    @property
    def digest(self) -> str:
        """sha256 of its tensors."""
        total = hashlib.sha256()
        for part in (self.reads, self.writes, self.shift):
            total.update(repr((tuple(part.shape), part.dtype)).encode())
            total.update(part.detach().cpu().contiguous().numpy().tobytes())
        return total.hexdigest()

    def __mul__(self, factor: float) -> "Edit":
        return Edit(self.reads, self.writes * factor, self.shift * factor)

    def __neg__(self) -> "Edit":
        return self * -1.0

    def __add__(self, other: "Edit") -> "Edit":
        return Edit(
            torch.cat([self.reads, other.reads], 1),
            torch.cat([self.writes, other.writes], 1),
            self.shift + other.shift,
        )

    def __sub__(self, other: "Edit") -> "Edit":
        return self + -other

    def then(self, other: "Edit") -> "Edit":
        """This edit, and then the other, of the states that this one leaves."""
        after = self + other
        met = self.writes @ other.reads.transpose(1, 2)  # (layers, own rank, other's rank)
        own = self.writes.shape[1]
        after.writes[:, :own] += met @ other.writes
        shift = (self.shift[:, None] @ other.reads.transpose(1, 2) @ other.writes).squeeze(1)
        return Edit(after.reads, after.writes, after.shift + shift)

    def on(self, layers: Iterable[int]) -> "Edit":
        """The same change on these layers alone."""
        keep = torch.zeros(len(self.shift), 1)
        keep[list(layers)] = 1.0
        return Edit(self.reads, self.writes * keep[..., None], self.shift * keep)

    @property
    def layers(self) -> list[int]:
        """The layers that it changes."""
        return _changed(self.reads, self.writes, self.shift).nonzero().squeeze(1).tolist()

    def __call__(self, states: Tensor) -> Tensor:
        """Edited states: (layers, positions, hidden) in and out."""
        return states + (states @ self.reads.transpose(1, 2)) @ self.writes + self.shift[:, None]


class RowWise(Protocol):
    """What changes every row of a batch in its own way, as `Edits` does."""

    group: Tensor
    """(rows,) equal for rows that are changed alike"""

    def attach(self, model: Any) -> AbstractContextManager[Any]: ...

    def focus(self, rows: Tensor, first: Tensor | None = None) -> None: ...


class Edits:
    """Edits for the rows of a batch; one object serves one run of generation or scoring."""

    def __init__(self, rows: Sequence[Edit | None]):
        """
        Args:
            rows: each row's edit, or None for a row left alone; rows may share one object.
        """
        places: dict[int, int] = {}
        distinct: list[Edit] = []
        group = []
        for edit in rows:
            if edit is not None and id(edit) not in places:
                places[id(edit)] = len(distinct)
                distinct.append(edit)
            group.append(-1 if edit is None else places[id(edit)])
        self.group = torch.tensor(group, dtype=torch.long)
        """(rows,) number of each row's edit; -1 leaves it alone"""
        self._tables = _stack(distinct) if distinct else ()
        changed = _changed(*self._tables).any(0).nonzero() if distinct else torch.empty(0, 1)
        self.layers: list[int] = changed.squeeze(1).tolist()
        self._depth = len(distinct[0].shift) if distinct else None
        self._at: dict[int, tuple[Tensor, ...]] = {}
        self._rows: Tensor | None = None
        self._first: Tensor | None = None
        self._thread: int | None = None

    @contextmanager
    def attach(self, model: Any) -> Iterator["Edits"]:
        """Edit the model's hidden states inside a `with` block; without edits, touch nothing."""
        mlps = find_mlps(model) if self.layers else []
        if self.layers and len(mlps) != self._depth:
            raise ValueError(f"the edit is for {self._depth} layers, the model has {len(mlps)}")
        device = next(model.parameters()).device
        self._tables = tuple(table.to(device) for table in self._tables)
        self._thread = get_ident()
        handles = [mlps[i].register_forward_hook(partial(self._hook, i)) for i in self.layers]
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
        group = self.group[rows.to(self.group.device)]
        if self._rows is None or not torch.equal(group, self._rows):
            self._rows, self._at = group, {}
        self._first = first

    def _hook(self, layer: int, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if get_ident() != self._thread:  # workers that are threads share one model
            return output
        if layer not in self._at:  # gathered once for all tokens that the same rows generate
            assert self._rows is not None, "focus comes before a forward pass"
            rows = self._rows.to(output.device)
            reads, writes, shift = (table[rows, layer] for table in self._tables)
            self._at[layer] = reads.transpose(1, 2), writes, shift[:, None]
        if self._first is None:
            if output.shape[1] == 1:
                return self._edited(output, layer)
            return torch.cat([output[:, :-1], self._edited(output[:, -1:], layer)], 1)
        column = torch.arange(output.shape[1], device=output.device)
        inside = column >= self._first.to(output.device)[:, None]  # (batch, width)
        return torch.where(inside[..., None], self._edited(output, layer), output)

    def _edited(self, x: Tensor, layer: int) -> Tensor:
        reads, writes, shift = self._at[layer]  # (batch, hidden, rank), transposed, and 1 × hidden
        wide = x.float()
        moved = wide + shift
        if writes.shape[1]:
            moved = torch.baddbmm(moved, torch.bmm(wide, reads), writes)
        return moved.to(x.dtype)


def find_layers(model: Any) -> list[nn.Module]:
    """The decoder layers, in order (Llama, Mistral, Qwen, Gemma, Phi, GPT-2, GPT-NeoX, ...).

    Raises:
        ValueError: the model has no stack of layers that each hold an `mlp`.
    """
    for module in text_decoder(model).modules():
        if isinstance(module, nn.ModuleList) and module and all(hasattr(m, "mlp") for m in module):
            return list(module)
    raise ValueError(f"{type(model).__name__} has no decoder layers with an `mlp` to edit")


def text_decoder(model: Any) -> nn.Module:
    """What reads and writes text, of a model that may also see pictures."""
    found = model.get_decoder() if hasattr(model, "get_decoder") else model
    return found if isinstance(found, nn.Module) else model


def find_mlps(model: Any) -> list[nn.Module]:
    """The MLP of every decoder layer, in order."""
    return [layer.get_submodule("mlp") for layer in find_layers(model)]


def _changed(reads: Tensor, writes: Tensor, shift: Tensor) -> Tensor:
    """(..., layers) whether an edit of these parts changes the layer."""
    change = shift.abs().amax(-1)
    if writes.shape[-2]:
        change = change + (reads.abs().amax(-1) * writes.abs().amax(-1)).amax(-1)
    return change > 0


def _stack(edits: Sequence[Edit]) -> tuple[Tensor, ...]:
    """Reads and writes (edits + 1, layers, rank, hidden), shifts (edits + 1, layers, hidden).

    Lower ranks are filled up with zeros, and the last entry is zero, so that number -1 finds an
    edit that changes nothing.
    """
    rank = max(edit.reads.shape[1] for edit in edits)

    def filled(part: Tensor) -> Tensor:
        return functional.pad(part, (0, 0, 0, rank - part.shape[1]))

    tables = (
        torch.stack([filled(edit.reads) for edit in edits]),
        torch.stack([filled(edit.writes) for edit in edits]),
        torch.stack([edit.shift for edit in edits]),
    )
    return tuple(torch.cat([table, torch.zeros_like(table[:1])]) for table in tables)
