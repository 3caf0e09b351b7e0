"""Activations: what a plain forward pass of one text shows, whatever batch it is read in."""

import pytest
import torch
from tiny_models import FAMILIES, HIDDEN, LAYERS, hooks, tiny
from torch.testing import assert_close

from palette.core.editing import find_mlps
from palette.lm import activations
from palette.lm.activations import batches, embed, mlp_outputs

TEXTS = ["hi", "What is the best way to mend a lamp?", "Tell me how.", "a", "hello there"]
FIRST = [1, 20, 0, 0, 3]


def sequences(lm) -> list[list[int]]:
    return [lm.tokenizer(text)["input_ids"] for text in TEXTS]


@torch.no_grad()
def by_hand(lm, tokens: list[int]) -> torch.Tensor:
    """(layers, positions, hidden) of one unpadded text."""
    seen = []
    handles = [
        mlp.register_forward_hook(lambda module, given, output: seen.append(output[0]))
        for mlp in find_mlps(lm.model)
    ]
    lm.model(input_ids=torch.tensor([tokens]), use_cache=False)
    for handle in handles:
        handle.remove()
    return torch.stack(seen)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_outputs_are_those_of_a_plain_pass(architecture):
    lm = tiny(architecture)
    asked, before = sequences(lm), hooks(lm.model)
    last, mean = mlp_outputs(lm, asked), mlp_outputs(lm, asked, FIRST)
    assert last.shape == mean.shape == (LAYERS, len(TEXTS), HIDDEN)
    for row, (tokens, first) in enumerate(zip(asked, FIRST, strict=True)):
        states = by_hand(lm, tokens)
        assert_close(last[:, row], states[:, -1], atol=1e-4, rtol=1e-4)
        assert_close(mean[:, row], states[:, first:].mean(1), atol=1e-4, rtol=1e-4)
    assert hooks(lm.model) == before


def test_a_text_does_not_hang_on_its_batch(monkeypatch):
    lm = tiny()
    asked = sequences(lm)
    together = mlp_outputs(lm, asked), mlp_outputs(lm, asked, FIRST), embed(lm, TEXTS)
    monkeypatch.setattr(activations.batches, "__defaults__", (1,))  # a text at a time
    assert [rows for rows, _ in batches(lm, asked)] == [[1], [2], [4], [0], [3]]
    alone = mlp_outputs(lm, asked), mlp_outputs(lm, asked, FIRST), embed(lm, TEXTS)
    for one, other in zip(together, alone, strict=True):
        assert_close(one, other, atol=1e-4, rtol=1e-4)
        assert not torch.equal(one[..., 0, :], one[..., 1, :])


def test_from_the_last_position_on_is_the_last_position():
    lm = tiny()
    asked = sequences(lm)
    assert torch.equal(mlp_outputs(lm, asked, [len(t) - 1 for t in asked]), mlp_outputs(lm, asked))


def test_nothing_to_read():
    assert mlp_outputs(tiny(), []).shape == (LAYERS, 0, HIDDEN)
