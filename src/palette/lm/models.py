"""Loading the base, and policies made of it: the base itself, or the base with adapters merged in."""

import copy
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from palette.errors import PaletteError
from palette.lm import backends, hub
from palette.lm.backends import Engine
from palette.lm.row_adapters import read_lora
from palette.tables import DATA

BASE = DATA / "base"
REFERENCE = "reference.json"


@dataclass(frozen=True)
class LanguageModel:
    """A frozen causal model with its tokenizer."""

    model: Any
    tokenizer: Any
    device: torch.device
    digest: str
    """sha256 of what the base is made of: the key of everything derived from it"""
    engine: Engine | None = None
    """what answers in place of our own loop, where it can"""
    adapter: Path | None = None
    """the one adapter that is merged into the model, for an engine; None: it is the base"""

    @property
    def eos(self) -> set[int]:
        """Token ids that end an answer: what the model's makers name, and the tokenizer's own."""
        ids = self.model.generation_config.eos_token_id
        named = set(ids) if isinstance(ids, list) else {ids}
        return (named | {self.tokenizer.eos_token_id}) - {None}

    @property
    def pad(self) -> int:
        """Fills batches up, always masked; an end of answers is none the less one where it is real."""
        pad = self.tokenizer.pad_token_id
        # Some tokenizers were given a pad token that their model has no embedding of.
        if pad is None or pad >= len(self.model.get_input_embeddings().weight):
            return min(self.eos, default=0)
        return pad

    @property
    def context(self) -> int | None:
        """The most tokens that the model takes, where it says so."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)


def load_base(device: str = "auto", folder: Path = BASE) -> LanguageModel:
    """The base that stage `base` left: a model directory, or a reference to one elsewhere.

    Raises:
        PaletteError: there is none, it has changed since, or it cannot be loaded.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name, revision = _source(folder)
    place = pick_device(device)
    dtype = torch.bfloat16 if place.type == "cuda" else torch.float32
    with _loading(name):
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
        model: Any = AutoModelForCausalLM.from_pretrained(
            name, revision=revision, trust_remote_code=False, use_safetensors=True, dtype=dtype
        )
    model.to(place).eval().requires_grad_(False)
    return LanguageModel(model, tokenizer, place, digest(folder))


def load_shape(folder: Path = BASE) -> LanguageModel:
    """The base without its weights: tokenizer, context and the shapes of its layers.

    Raises:
        PaletteError: as `load_base`.
    """
    name, revision = _source(folder)
    model, tokenizer = shape_of(name, revision)
    return LanguageModel(model, tokenizer, torch.device("meta"), digest(folder))


def shape_of(name: str, revision: str | None) -> tuple[Any, Any]:
    """A model on PyTorch's meta device, where tensors have shapes alone, and its tokenizer.

    Raises:
        PaletteError: it cannot be loaded.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    with _loading(name):
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        with suppress(OSError):  # not every model has one
            model.generation_config = GenerationConfig.from_pretrained(
                name, revision=revision or "main"
            )
    return model.eval(), tokenizer


def _source(folder: Path) -> tuple[str, str | None]:
    """Name and revision of the model that stage `base` left in a folder, if it is still the same."""
    if (folder / REFERENCE).exists():
        told = json.loads((folder / REFERENCE).read_text(encoding="utf-8"))
        hub.require_same(told["model"], told["files"])
        return told["model"], told["revision"]
    if not (folder / "config.json").exists():
        raise PaletteError(f"{folder} holds no model; run `dvc repro base` to make it")
    return str(folder), None


@contextmanager
def _loading(name: str) -> Iterator[None]:
    """One sentence for whatever the libraries raise on files that are not what they should be."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        yield
    except Exception as error:
        said = next(iter(str(error).splitlines()), type(error).__name__)
        if "custom code" in str(error):
            said = "it needs code of its own, which is never run here; name one that transformers knows"
        elif "cannot be loaded with `safetensors`" in str(error):
            said = "it has no safetensors, and other weights may run code when read; name one with them"
        raise PaletteError(f"base.model '{name}' cannot be loaded: {said}") from None


def cached_base(device: str = "auto", backend: str = "transformers") -> LanguageModel:
    """The base, loaded once in each worker process; again where it has become another one.

    Args:
        backend: `runtime.backend`, of those who let it answer.
    """
    base = _kept(device, BASE.resolve(), digest(BASE))
    if backend == "transformers":
        return base
    name, revision = _source(BASE)
    return replace(base, engine=backends.find(backend, name, revision, base.digest))


@lru_cache(maxsize=1)
def _kept(device: str, folder: Path, _: str) -> LanguageModel:
    return load_base(device, folder)


def pick_device(device: str) -> torch.device:
    """The device that runtime.device names; auto takes a CUDA device where there is one.

    Raises:
        PaletteError: there is no such device here.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError):
        raise PaletteError(
            f"runtime.device is '{device}', which this machine lacks; use auto or cpu"
        ) from None


def digest(folder: Path) -> str:
    """sha256 over the names and contents of a folder's files; of nothing where it has none."""
    total = hashlib.sha256()
    for file in sorted(path for path in folder.glob("**/*") if path.is_file()):
        total.update(file.relative_to(folder).as_posix().encode())
        with file.open("rb") as source:
            total.update(hashlib.file_digest(source, "sha256").digest())
    return total.hexdigest()


def with_adapters(base: LanguageModel, adapters: dict[Path, float]) -> LanguageModel:
    """The base with a weighted sum of PEFT adapters merged into a copy of its weights.

    Merging costs one addition per weight and makes the policy as fast as the base; a sum with
    weights that add to one is the soup of Rewarded Soups (arXiv 2306.04488).

    Raises:
        PaletteError: a directory holds no adapter.
    """
    from transformers.pytorch_utils import Conv1D

    model = copy.deepcopy(base.model)
    with torch.no_grad():
        for folder, share in adapters.items():
            for name, (a, b) in read_lora(folder).items():
                module = model.get_submodule(name)
                delta = share * (b @ a)
                if isinstance(module, Conv1D):
                    delta = delta.T  # GPT-2 keeps its weights as (in, out)
                # Added before it is rounded: in half precision a small delta would be rounded twice.
                module.weight.copy_(module.weight.float() + delta.to(module.weight.device))
    if list(adapters.values()) == [1.0]:
        return replace(base, model=model, adapter=next(iter(adapters)))
    return replace(base, model=model, engine=None)
