"""An adapter as PEFT saves it, as bytes by file name: the same on every machine that computes the same."""

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from palette.lm.row_lora import ALPHA, Family, Matrices

BASE_NAME = "palette/base"
"""What an adapter calls its base, wherever the base lies."""
FAMILY = "family.safetensors"


def config(rank: int, targets: list[str] | str) -> Any:
    """PEFT's configuration of our adapters.

    Args:
        targets: names of modules, or "all-linear".
    """
    from peft import LoraConfig

    alpha: Any = ALPHA  # PEFT divides by the rank, whatever number it is
    return LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=0.0, bias="none", target_modules=targets,
        task_type="CAUSAL_LM",
    )  # fmt: skip


def of_matrices(matrices: Matrices) -> dict[str, bytes]:
    """The files of an adapter that is given by its matrices."""
    tensors = {}
    for name, (a, b) in matrices.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = a
        tensors[f"base_model.model.{name}.lora_B.weight"] = b
    rank = len(next(iter(matrices.values()))[0])
    return _files(tensors, config(rank, sorted(matrices)))


def of_family(family: Family) -> dict[str, bytes]:
    """The files of a family: not PEFT's format, which knows no w; its points are."""
    from safetensors.torch import save

    state = {name: tensor.cpu().contiguous() for name, tensor in family.state_dict().items()}
    return {FAMILY: save(dict(sorted(state.items())))}


def read_family(files: Mapping[str, bytes]) -> Family:
    """The family of `of_family`, on the CPU."""
    from safetensors.torch import load

    state = load(files[FAMILY])
    sizes = {
        name.removeprefix("a.").replace("/", "."): (
            a.shape[1], len(state[f"b.{name.removeprefix('a.')}"])
        )
        for name, a in state.items() if name.startswith("a.")
    }  # fmt: skip
    rank = len(next(a for name, a in state.items() if name.startswith("a.")))
    family = Family(sizes, rank, state["trunk.weight"].shape[1], seed=0)
    family.load_state_dict(state)
    return family.eval().requires_grad_(False)


def of_policy(policy: Any) -> dict[str, bytes]:
    """The files of a PeftModel's adapter."""
    from peft import get_peft_model_state_dict

    tensors = get_peft_model_state_dict(policy, save_embedding_layers=False)
    return _files(tensors, policy.peft_config["default"])


def _files(tensors: dict[str, Tensor], settings: Any) -> dict[str, bytes]:
    from safetensors.torch import save

    content = settings.to_dict()
    content |= {"base_model_name_or_path": BASE_NAME, "revision": None, "inference_mode": True}
    # PEFT keeps the target modules in a set, whose order differs from process to process.
    text = json.dumps(content, indent=2, sort_keys=True, default=sorted)
    return {
        "adapter_config.json": text.encode(),
        "adapter_model.safetensors": save(
            {name: tensor.cpu().contiguous() for name, tensor in sorted(tensors.items())},
            metadata={"format": "pt"},
        ),
    }
