"""Adapters for the rows of a batch: users of several members answer together, each by their own.

A merged adapter serves one member; a batch that mixes members needs the unmerged form,
x·Wᵀ + s·(x·Aᵀ)·Bᵀ (LoRA, arXiv 2106.09685), with another A and B in every row. Rows of one adapter
form blocks of one size, and two batched products serve all blocks, however many adapters there are.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn

from palette.errors import PaletteError
from palette.lm.blocks import Blocks, blocks_of

Lora = dict[str, tuple[Tensor, Tensor]]
"""module name → A (rank, in) and scaled B (out, rank)"""


class RowAdapters:
    """LoRA adapters for the rows of a batch, at every position; use it beside `Edits` and like it."""

    def __init__(self, folders: Sequence[Path | None]):
        """
        Args:
            folders: each row's PEFT adapter, or None for a row of the base.

        Raises:
            PaletteError: a folder holds no adapter.
        """
        distinct = list(dict.fromkeys(folder for folder in folders if folder is not None))
        numbers: dict[Path | None, int] = {None: -1}
        numbers |= {folder: number for number, folder in enumerate(distinct)}
        self.group = torch.tensor([numbers[folder] for folder in folders])
        """(rows,) number of each row's adapter; -1 is the base"""
        loras = [read_lora(folder) for folder in distinct]
        self._folder = {name: f for f, lora in zip(distinct, loras, strict=True) for name in lora}
        self._tables = {name: _table(loras, name) for name in sorted(self._folder)}
        self._at: dict[str, tuple[Tensor, Tensor]] = {}
        self._rows: Tensor | None = None
        self._blocks: Blocks | None = None
        self._thread: int | None = None

    @contextmanager
    def attach(self, model: Any) -> Iterator["RowAdapters"]:
        """Adapt the model's linear modules inside a `with` block; without adapters, touch nothing.

        Raises:
            PaletteError: an adapter names a module that the model does not have.
        """
        modules = {name: self._find(model, name) for name in self._tables}
        for name, (a, b) in self._tables.items():
            weight = modules[name].get_parameter("weight")
            self._tables[name] = a.to(weight), b.to(weight)
        self._thread = get_ident()
        handles = [
            module.register_forward_hook(partial(self._hook, name))
            for name, module in modules.items()
        ]
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def focus(self, rows: Tensor, first: Tensor | None = None) -> None:
        """Say, before a forward pass, what its batch holds.

        Args:
            rows: (batch,) indices into the rows that the adapters were given for.
            first: for `Edits` alone: an adapter acts at every position.
        """
        group = self.group[rows.to(self.group.device)]
        if self._rows is None or not torch.equal(group, self._rows):
            before, now = self._blocks, blocks_of(group)
            self._rows, self._blocks = group, now
            if before is None or not torch.equal(before.adapter, now.adapter):
                self._at = {}

    def _find(self, model: Any, name: str) -> nn.Module:
        try:
            return model.get_submodule(name)
        except AttributeError:
            raise PaletteError(
                f"{self._folder[name]} adapts '{name}', which the base lacks; "
                "run `dvc repro` to train adapters of this base"
            ) from None

    def _hook(self, name: str, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if get_ident() != self._thread:  # workers that are threads share one model
            return output
        blocks = self._blocks
        assert blocks is not None, "focus comes before a forward pass"
        if name not in self._at:  # gathered once for all tokens that the same rows generate
            adapter = blocks.adapter.to(output.device)
            a, b = self._tables[name]
            self._at[name] = a[adapter], b[adapter]
        a, b = self._at[name]  # (blocks, in, rank), (blocks, rank, out)
        if blocks.rows is None:
            x, own = (part.reshape(len(a), -1, part.shape[-1]) for part in (inputs[0], output))
            return torch.baddbmm(own, x @ a, b).view_as(output)
        return output + blocks.through(inputs[0], a, b)


def read_lora(folder: Path) -> Lora:
    """The matrices of a PEFT adapter, B scaled as LoRA does: by alpha / rank.

    Raises:
        PaletteError: the folder holds no adapter.
    """
    from peft import LoraConfig
    from safetensors.torch import load_file

    if not (folder / "adapter_config.json").exists():
        raise PaletteError(f"{folder} holds no adapter; run `dvc repro` to make it")
    config = LoraConfig.from_pretrained(str(folder))
    scale = config.lora_alpha / config.r
    tensors = load_file(folder / "adapter_model.safetensors")
    found = {}
    for name, a in tensors.items():
        if ".lora_A." in name:
            b = tensors[name.replace(".lora_A.", ".lora_B.")]
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            found[module] = (a.float(), scale * b.float())
    return found


def _table(loras: Sequence[Lora], name: str) -> tuple[Tensor, Tensor]:
    """A (adapters + 1, in, rank) and B (adapters + 1, rank, out) of one module.

    Lower ranks, adapters that leave the module alone and the last entry, which number -1 finds, are
    filled up with zeros.
    """
    own = [lora.get(name) for lora in loras]
    one = next(pair for pair in own if pair is not None)
    rank = max(len(pair[0]) for pair in own if pair is not None)
    a = torch.zeros(len(loras) + 1, one[0].shape[1], rank)
    b = torch.zeros(len(loras) + 1, rank, one[1].shape[0])
    for number, pair in enumerate(own):
        if pair is not None:
            a[number, :, : len(pair[0])] = pair[0].T
            b[number, : len(pair[0])] = pair[1].T
    return a, b
