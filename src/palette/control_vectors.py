"""An edit as a GGUF control vector, for llama.cpp and what is built on it.

The correspondence. Layers count from 0. Our shift of layer N is added to its MLP's output;
llama.cpp adds `direction.N` to the residual stream after layer N. The two are the same where the
residual stream takes the MLP's output unchanged, which is measured on the base before anything is
written: Gemma 2 and 3 normalise it first. llama.cpp has no `direction.0`. It shifts every position,
we the last of the prompt and those after it: no difference for the last layer, whose output no other
position reads; a shift of earlier layers also changes how llama.cpp reads the prompt.

The file's keys and tensors are those that repeng writes; the strength is already in them.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from palette.core.editing import Edit, Edits, find_layers
from palette.errors import PaletteError

ARCHITECTURE = "controlvector"
TOLERANCE = 0.05
"""Of a shift as it arrives in the residual stream, relative: half precision errs by 0.01."""


def control_vector(edit: Edit) -> dict[int, np.ndarray]:
    """Layer → (hidden,) float32, what llama.cpp adds after that layer.

    Raises:
        PaletteError: the edit is not a shift of layers above the first.
    """
    if (edit.reads.abs().amax(-1) * edit.writes.abs().amax(-1)).any():
        raise PaletteError(
            "a control vector can only add, and this edit projects; set subspaces.method to "
            "gradient, contrast, contrast-svd or style-vector and run `dvc repro tuning`"
        )
    if 0 in edit.layers:
        raise PaletteError(
            "llama.cpp adds nothing after layer 0, and this edit shifts it; set tuning.layers to "
            "[last] or [upper] and run `dvc repro tuning`"
        )
    return {layer: edit.shift[layer].numpy().astype(np.float32) for layer in edit.layers}


def require_plain_residual(model: Any, layers: list[int]) -> None:
    """Make sure that what is added to an MLP's output arrives in the residual stream unchanged.

    Measured, as families differ and their names do not tell: a shift as large as the stream itself
    goes in at one layer's MLP, and must come out of that layer.

    Raises:
        PaletteError: it comes out as something else.
    """
    for layer in layers:
        stream = _after(model, layer, None)
        shift = torch.zeros(len(find_layers(model)), len(stream))
        generator = torch.Generator().manual_seed(0)
        direction = torch.randn(len(stream), generator=generator)
        shift[layer] = direction / direction.norm() * stream.norm()
        arrived = _after(model, layer, Edit.add(shift)) - stream
        if (arrived - shift[layer]).norm() > TOLERANCE * stream.norm():
            family = model.config.get_text_config().model_type
            raise PaletteError(
                f"the base ({family}) normalises or scales what its MLPs put out before adding it, "
                "so that no control vector does what its edits do; export from another base.model"
            )


def write(out: Path, directions: dict[int, np.ndarray], model_hint: str) -> None:
    """Write a control vector, whole or not at all.

    Args:
        directions: layer → (hidden,) float32.
        model_hint: the family of the model that it is for; llama.cpp does not check it.
    """
    from gguf import GGUFWriter

    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(out.name + ".tmp")
    writer = GGUFWriter(temporary, ARCHITECTURE)
    writer.add_string(f"{ARCHITECTURE}.model_hint", model_hint)
    writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(directions))
    for layer, direction in directions.items():
        writer.add_tensor(f"direction.{layer}", direction)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    temporary.replace(out)


@torch.inference_mode()
def _after(model: Any, layer: int, edit: Edit | None) -> torch.Tensor:
    """(hidden,) float32 residual stream after a layer, at the one token of a short text."""
    seen: list[torch.Tensor] = []

    def keep(module: Any, inputs: Any, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        seen.append(states[0, -1].float().cpu())

    device = next(model.parameters()).device
    edits = Edits([edit])
    edits.focus(torch.tensor([0]))
    handle = find_layers(model)[layer].register_forward_hook(keep)
    try:
        with edits.attach(model):
            model(input_ids=torch.tensor([[1]], device=device), use_cache=False)
    finally:
        handle.remove()
    return seen[0]
