"""How each answer's log-probability changes with a shift of the MLP outputs: one backward pass.

A forward and a backward of a batch give every row's own gradient, because every row has a shift of its
own. The positions are those that `core/editing.py` edits, so that the gradient is that of the policy
which an additive edit makes.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from palette.core.editing import find_mlps
from palette.lm.activations import batches
from palette.lm.models import LanguageModel

CELLS = 4_000_000
"""Logits in a batch (tokens × vocabulary), of which the backward pass holds three copies."""


def score_gradients(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Gradient of log π(answer | prompt) with respect to a shift of each layer's MLP output, at 0.

    Args:
        prompts, answers: token ids per row; prompts are not empty.
        progress: called with the number of rows just finished.

    Returns:
        (rows, layers, hidden) float32, nats per unit of the shift; zeros for an empty answer.
    """
    mlps = find_mlps(lm.model)
    config = lm.model.config.get_text_config()
    result = torch.zeros(len(answers), len(mlps), config.hidden_size)
    sequences = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    for rows, inputs in batches(lm, sequences, CELLS // config.vocab_size):
        lengths = torch.tensor([len(answers[row]) for row in rows], device=lm.device)
        if lengths.any():
            result[rows] = _gradients(lm, mlps, inputs, lengths, config.hidden_size).cpu()
        if progress:
            progress(len(rows))
    return result


@torch.enable_grad()
def _gradients(
    lm: LanguageModel, mlps: list[nn.Module], inputs: dict, lengths: Tensor, hidden: int
) -> Tensor:
    """(rows, layers, hidden) of one batch, padded on the left, its answers `lengths` long."""
    ids = inputs["input_ids"]
    width, longest = ids.shape[1], int(lengths.max())
    column = torch.arange(width, device=lm.device)
    edited = (column >= width - lengths[:, None] - 1)[..., None]
    counted = column[width - longest :] >= width - lengths[:, None]  # (rows, longest)
    shift = torch.zeros(len(mlps), len(ids), 1, hidden, device=lm.device, requires_grad=True)

    def add(layer: int, module: nn.Module, given: tuple, output: Tensor) -> Tensor:
        return output + (shift[layer] * edited).to(output.dtype)

    with ExitStack() as hooks:
        for layer, mlp in enumerate(mlps):
            hooks.callback(mlp.register_forward_hook(partial(add, layer)).remove)
        logits = lm.model(**inputs, logits_to_keep=longest + 1).logits[:, :-1]
    logprobs = logits.float().log_softmax(-1)
    chosen = logprobs.gather(2, ids[:, width - longest :, None]).squeeze(2)
    # Of the shift alone: the model's own weights, trainable or not, keep no gradient.
    (gradient,) = torch.autograd.grad((chosen * counted).sum(), shift)
    return gradient.squeeze(2).transpose(0, 1)
