"""LoRA in training whose rows differ: every row of a batch goes through an adapter of its own.

    y = W x + (α/r) · B_row A_row x        (LoRA, Hu et al., arXiv 2106.09685)

`Stacked` holds K separate adapters, and a row names its member: K trainings share one frozen base, one
forward and one backward pass. `Family` holds one adapter for every weight vector w,

    ΔW(w) = (α/r) · B diag(g(w)) A,    g(w) = H tanh(T (d·w − 1)),

with gates g from a small network of w: T is shared, each layer has its own H. π*_w is far from linear in
w where w·r/β is several nats, and so is g; at every w the result is an ordinary LoRA adapter of rank r.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from threading import local
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from palette.core.editing import text_decoder
from palette.lm.blocks import Blocks, blocks_of

ALPHA = 16.0
"""LoRA's alpha at every rank: AdamW moves each of the r columns alike, and α/r takes that out."""
UNITS = 64
"""Units of the network of a family's gates."""
STEEPNESS = 3.0
"""Scale of T's first weights: at 1 the gates begin, and stay, almost linear in w."""
SPREAD = 2.0
"""Scale of H's first weights: the gates begin different from each other, about 1."""

Sizes = dict[str, tuple[int, int]]
"""name of a linear layer → (in, out)"""
Matrices = dict[str, tuple[Tensor, Tensor]]
"""module name → A (rank, in) and B (out, rank), before the factor α/rank"""


class RowLora(nn.Module, ABC):
    """Adapters of a model's linear layers; `attach` it to a twin of the model, then `focus` it."""

    def __init__(self, sizes: Sizes, rank: int, trainings: int = 1):
        super().__init__()
        self.rank = rank
        self.sizes = sizes
        self.done = np.zeros(trainings, dtype=bool)
        """which members stay as they are"""
        self._kept: dict[str, Tensor] = {}
        self._focused = local()

    def attach(self, model: nn.Module) -> None:
        """Adapt the model's linear layers for good; until the first `focus` it stays what it was."""
        modules = linear_modules(model)
        for name in self.sizes:
            modules[name].register_forward_hook(partial(self._hook, name))

    def focus(self, condition: Tensor | None) -> None:
        """Say what each row of this thread's next batches goes through; None: the base alone.

        Args:
            condition: (rows,) member numbers of `Stacked`; (rows, d) weights of `Family`.
        """
        self._focused.on = condition

    def keep(self, members: np.ndarray) -> None:
        """From now on `restore` makes these members what they are now."""
        self.done[members] = True
        self._kept = {
            name: tensor.detach()[self.done].clone()
            for name, tensor in self.named_parameters()
            if len(self.done) > 1 and self.done.any()
        }

    def restore(self) -> None:
        """Undo what a step did to members that are kept: their moments push on with no gradient."""
        with torch.no_grad():
            for name, kept in self._kept.items():
                self.get_parameter(name)[self.done] = kept

    @abstractmethod
    def matrices(self, condition: Tensor) -> Matrices:
        """The ordinary adapter of one row's condition."""

    @abstractmethod
    def delta(self, name: str, inputs: Tensor, condition: Tensor) -> Tensor:
        """(rows, tokens, out) B_row A_row x of a layer, before the factor α/rank."""

    def _hook(self, name: str, module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        condition = getattr(self._focused, "on", None)
        if condition is None:
            return output
        change = self.delta(name, inputs[0].to(torch.float32), condition)
        return output + (ALPHA / self.rank * change).to(output.dtype)


class Stacked(RowLora):
    """K adapters, each as if trained alone: all begin alike, and none's gradient knows the others."""

    def __init__(self, sizes: Sizes, rank: int, members: int, seed: int):
        super().__init__(sizes, rank, members)
        first = _first(self.sizes, rank, seed)
        self.a = nn.ParameterDict(
            {_key(name): a.repeat(members, 1, 1) for name, a in first.items()}
        )  # (members, rank, in)
        self.b = nn.ParameterDict(
            {_key(name): torch.zeros(members, out, rank) for name, (_, out) in self.sizes.items()}
        )

    def matrices(self, condition: Tensor) -> Matrices:
        """
        Args:
            condition: (), a member's number.
        """
        member = int(condition)
        return {
            name: (self.a[_key(name)][member].detach(), self.b[_key(name)][member].detach())
            for name in self.sizes
        }

    def focus(self, condition: Tensor | None) -> None:
        super().focus(condition)
        self._focused.blocks = None if condition is None else blocks_of(condition.cpu())

    def delta(self, name: str, inputs: Tensor, condition: Tensor) -> Tensor:
        a, b = self.a[_key(name)], self.b[_key(name)]
        blocks: Blocks = self._focused.blocks
        if not torch.equal(blocks.adapter, torch.arange(len(a))):
            own = blocks.adapter.to(a.device)
            a, b = a[own], b[own]
        return blocks.through(inputs, a.mT, b.mT)


class Family(RowLora):
    """One adapter for every w; members are its points."""

    def __init__(self, sizes: Sizes, rank: int, traits: int, seed: int):
        super().__init__(sizes, rank)
        first = _first(self.sizes, rank, seed)
        self.a = nn.ParameterDict({_key(name): a for name, a in first.items()})  # (rank, in)
        self.b = nn.ParameterDict(
            {_key(name): torch.zeros(out, rank) for name, (_, out) in self.sizes.items()}
        )
        generator = torch.Generator().manual_seed(seed + 1)

        def layer(inputs: int, outputs: int, scale: float) -> nn.Linear:
            made = nn.Linear(inputs, outputs)
            bound = inputs**-0.5
            with torch.no_grad():
                made.weight.uniform_(-bound, bound, generator=generator).mul_(scale)
                made.bias.uniform_(-bound, bound, generator=generator)
            return made

        self.trunk = layer(traits, UNITS, STEEPNESS)
        self.heads = nn.ModuleDict({_key(name): layer(UNITS, rank, SPREAD) for name in self.sizes})
        for head in self.heads.values():
            nn.init.ones_(head.get_parameter("bias"))

    def focus(self, condition: Tensor | None) -> None:
        super().focus(condition)
        self._focused.units = None

    def matrices(self, condition: Tensor) -> Matrices:
        """
        Args:
            condition: (d,) weights.
        """
        with torch.no_grad():
            units = self._seen(condition)
            return {
                name: (
                    self.a[_key(name)].detach(),
                    self.b[_key(name)].detach() * self.heads[_key(name)](units),
                )
                for name in self.sizes
            }

    def delta(self, name: str, inputs: Tensor, condition: Tensor) -> Tensor:
        if self._focused.units is None:  # the same for all layers of a pass
            self._focused.units = self._seen(condition)
        gates = self.heads[_key(name)](self._focused.units)[:, None]
        return (inputs @ self.a[_key(name)].mT * gates) @ self.b[_key(name)].mT

    def _seen(self, weights: Tensor) -> Tensor:
        return torch.tanh(self.trunk(weights * weights.shape[-1] - 1))


class Sampled:
    """Rows of a batch that is sampled from adapters in training: `generate` takes it as `adapters`."""

    def __init__(self, rows: RowLora, condition: Tensor):
        self.rows, self.condition = rows, condition
        self.group = condition.unique(dim=0, return_inverse=True)[1]
        """(rows,) equal for rows that go through the same adapter"""

    @contextmanager
    def attach(self, model: nn.Module) -> Iterator["Sampled"]:
        """The adapters are attached for good; afterwards the model is the base again."""
        try:
            yield self
        finally:
            self.rows.focus(None)

    def focus(self, rows: Tensor, first: Tensor | None = None) -> None:
        """As `RowAdapters.focus`."""
        self.rows.focus(self.condition[rows.to(self.condition.device)])


def linear_modules(model: Any) -> dict[str, nn.Module]:
    """The linear layers of the decoder, by name: all but those that give the logits."""
    from transformers.pytorch_utils import Conv1D

    heads = {id(model.get_output_embeddings()), id(model.get_input_embeddings())}
    own = {id(module) for module in text_decoder(model).modules()} - heads
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and id(module) in own
    }


def layer_sizes(model: Any) -> Sizes:
    from transformers.pytorch_utils import Conv1D

    sizes = {}
    for name, module in linear_modules(model).items():
        first, second = module.get_parameter("weight").shape
        # GPT-2 keeps its weights as (in, out).
        sizes[name] = (first, second) if isinstance(module, Conv1D) else (second, first)
    return sizes


def _first(sizes: Sizes, rank: int, seed: int) -> dict[str, Tensor]:
    """A (rank, in) of every layer, as PEFT begins: uniform within 1/√in."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.empty(rank, inputs).uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator)
        for name, (inputs, _) in sizes.items()
    }


def _key(name: str) -> str:
    """A module's name may hold dots, a parameter's key may not."""
    return name.replace(".", "/")
