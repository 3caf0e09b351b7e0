"""Loading the base, and policies made of it: the base itself, or the base with adapters merged in."""

import copy
import hashlib
import json
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from palette.errors import PaletteError
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

    @property
    def eos(self) -> set[int]:
        """Token ids that end an answer."""
        ids = self.model.generation_config.eos_token_id
        ids = self.tokenizer.eos_token_id if ids is None else ids
        return set(ids) if isinstance(ids, list) else {ids}

    @property
    def pad(self) -> int:
        pad = self.tokenizer.pad_token_id
        return min(self.eos) if pad is None else pad


def load_base(device: str = "auto", folder: Path = BASE) -> LanguageModel:
    """The base that stage `base` left: a model directory, or a reference to one elsewhere."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    reference = folder / REFERENCE
    if reference.exists():
        source = json.loads(reference.read_text(encoding="utf-8"))
        name, revision = source["model"], source["revision"]
    elif (folder / "config.json").exists():
        name, revision = str(folder), None
    else:
        raise PaletteError(f"{folder} holds no model; run `dvc repro base` to make it")
    disable_progress_bar()
    place = torch.device(pick_device(device))
    dtype = torch.bfloat16 if place.type == "cuda" else torch.float32
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            name, revision=revision, trust_remote_code=False, use_safetensors=True, dtype=dtype
        )
    except (OSError, ValueError) as error:
        raise PaletteError(
            f"base.model '{name}' cannot be loaded: {str(error).splitlines()[0]}"
        ) from None
    model.to(place).eval().requires_grad_(False)
    return LanguageModel(model, tokenizer, place, digest(folder))


@lru_cache(maxsize=1)
def cached_base(device: str = "auto") -> LanguageModel:
    """The base, loaded once in each worker process."""
    return load_base(device)


def pick_device(device: str) -> str:
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def digest(folder: Path) -> str:
    """sha256 over the names and contents of a folder's files."""
    total = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        total.update(file.name.encode())
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def with_adapters(base: LanguageModel, adapters: dict[Path, float]) -> LanguageModel:
    """The base with a weighted sum of PEFT adapters merged into a copy of its weights.

    Merging costs one addition per weight and makes the policy as fast as the base; a sum with
    weights that add to one is the soup of Rewarded Soups (arXiv 2306.04488).
    """
    from peft import LoraConfig
    from safetensors.torch import load_file

    model = copy.deepcopy(base.model)
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for folder, share in adapters.items():
            config = LoraConfig.from_pretrained(str(folder))
            scale = share * config.lora_alpha / config.r
            tensors = load_file(folder / "adapter_model.safetensors")
            for name, a in tensors.items():
                if ".lora_A." not in name:
                    continue
                b = tensors[name.replace(".lora_A.", ".lora_B.")]
                target = name.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
                delta = scale * (b.float() @ a.float())
                weights[target] += delta.to(weights[target])
    return replace(base, model=model)
