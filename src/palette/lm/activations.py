"""What a model makes of a text: sentence embeddings, and the outputs of its MLPs."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from palette.core.editing import find_mlps
from palette.lm.models import LanguageModel

TOKENS = 16_384
"""Tokens in a batch: some 20 MB of activations a layer at a width of 300."""


@torch.inference_mode()
def embed(lm: LanguageModel, texts: Sequence[str]) -> Tensor:
    """(texts, hidden) float32: mean over a text's tokens of the last hidden state."""
    limit = lm.context or TOKENS
    ids = [lm.tokenizer(text)["input_ids"][:limit] or [lm.pad] for text in texts]
    result = torch.empty(len(ids), lm.model.config.get_text_config().hidden_size)
    for rows, inputs in _batches(lm, ids):
        states = lm.model(**inputs, output_hidden_states=True, logits_to_keep=1).hidden_states[-1]
        mask = inputs["attention_mask"][..., None]
        result[rows] = ((states.float() * mask).sum(1) / mask.sum(1)).cpu()
    return result


@torch.inference_mode()
def mlp_outputs(lm: LanguageModel, sequences: Sequence[Sequence[int]]) -> Tensor:
    """(layers, sequences, hidden) float32: output of every layer's MLP at the last token."""
    mlps = find_mlps(lm.model)
    hidden = lm.model.config.get_text_config().hidden_size
    result = torch.empty(len(mlps), len(sequences), hidden)
    seen: list[Tensor] = [result] * len(mlps)

    def keep(layer: int, module: torch.nn.Module, inputs: tuple, output: Tensor) -> None:
        seen[layer] = output[:, -1].float().cpu()

    handles = [mlp.register_forward_hook(partial(keep, i)) for i, mlp in enumerate(mlps)]
    try:
        for rows, inputs in _batches(lm, sequences):
            lm.model(**inputs, logits_to_keep=1)
            result[:, rows] = torch.stack(seen)
    finally:
        for handle in handles:
            handle.remove()
    return result


def _batches(
    lm: LanguageModel, sequences: Sequence[Sequence[int]]
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Yield (rows, model inputs padded on the left) of sequences of like length."""
    order = sorted(range(len(sequences)), key=lambda row: (-len(sequences[row]), row))
    start = 0
    while start < len(order):
        width = len(sequences[order[start]])
        rows = order[start : start + max(1, TOKENS // width)]
        ids = torch.full((len(rows), width), lm.pad)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for place, row in enumerate(rows):
            tokens = sequences[row]
            ids[place, width - len(tokens) :] = torch.tensor(tokens)
            mask[place, width - len(tokens) :] = 1
        start += len(rows)
        inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        yield rows, {k: v.to(lm.device) if isinstance(v, Tensor) else v for k, v in inputs.items()}
