"""What a model makes of a text: sentence embeddings, and the outputs of its MLPs."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

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
    for rows, inputs in batches(lm, ids):
        states = lm.model(**inputs, output_hidden_states=True, logits_to_keep=1).hidden_states[-1]
        mask = inputs["attention_mask"][..., None]
        result[rows] = ((states.float() * mask).sum(1) / mask.sum(1)).cpu()
    return result


@torch.inference_mode()
def mlp_outputs(
    lm: LanguageModel, sequences: Sequence[Sequence[int]], first: Sequence[int] | None = None
) -> Tensor:
    """What every layer's MLP hands on: at the last token, or averaged over a text's end.

    Args:
        sequences: token ids, at least one each.
        first: each sequence's first position of the mean, which goes to its end; the last position
            of the prompt makes it the mean over the positions that an edit changes.

    Returns:
        (layers, sequences, hidden) float32.
    """
    mlps = find_mlps(lm.model)
    hidden = lm.model.config.get_text_config().hidden_size
    starts = [len(tokens) - 1 for tokens in sequences] if first is None else first
    result = torch.empty(len(mlps), len(sequences), hidden)
    seen: list[Tensor] = [result] * len(mlps)
    inside = torch.empty(0)

    def keep(layer: int, module: torch.nn.Module, inputs: tuple, output: Tensor) -> None:
        states = output.float() * inside[..., None]
        seen[layer] = (states.sum(1) / inside.sum(1, keepdim=True)).cpu()

    handles = [mlp.register_forward_hook(partial(keep, i)) for i, mlp in enumerate(mlps)]
    try:
        for rows, inputs in batches(lm, sequences):
            start = torch.tensor([starts[row] for row in rows], device=lm.device)
            # Positions count from a sequence's own first token; padding on the left has none.
            real = inputs["attention_mask"].bool()
            inside = ((inputs["position_ids"] >= start[:, None]) & real).float()  # (batch, width)
            lm.model(**inputs, logits_to_keep=1)
            result[:, rows] = torch.stack(seen)
    finally:
        for handle in handles:
            handle.remove()
    return result


def batches(
    lm: LanguageModel, sequences: Sequence[Sequence[int]], tokens: int = TOKENS
) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """Yield (rows, model inputs) of sequences of like length, padded on the left.

    Args:
        tokens: the most in a batch; a sequence that is longer makes a batch of its own.
    """
    order = sorted(range(len(sequences)), key=lambda row: (-len(sequences[row]), row))
    start = 0
    while start < len(order):
        width = len(sequences[order[start]])
        rows = order[start : start + max(1, tokens // width)]
        ids = torch.full((len(rows), width), lm.pad)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for place, row in enumerate(rows):
            own = sequences[row]
            ids[place, width - len(own) :] = torch.tensor(own)
            mask[place, width - len(own) :] = 1
        start += len(rows)
        inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        yield rows, {k: v.to(lm.device) if isinstance(v, Tensor) else v for k, v in inputs.items()}
