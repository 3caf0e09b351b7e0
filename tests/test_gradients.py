"""Gradients of a shift: those of what scoring sees, each row its own, and the model untouched."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES, HIDDEN, LAYERS, hooks, tiny
from torch.testing import assert_close

from palette.core.editing import Edit, Edits
from palette.lm import gradients
from palette.lm.gradients import score_gradients
from palette.lm.scoring import score

TEXTS = ["hi", "What is the best way to mend a lamp?", "Tell me how.", "a", "hello there"]
REPLIES = ["Yes.", "Take it to a shop", "", "No, and here is why", "x"]


def rows(lm) -> tuple[list[list[int]], list[list[int]]]:
    return tuple([lm.tokenizer(text)["input_ids"] for text in texts] for texts in (TEXTS, REPLIES))


@pytest.mark.parametrize("architecture", FAMILIES)
def test_gradients_agree_with_finite_differences_of_the_scores(architecture):
    lm = tiny(architecture)
    prompts, answers = rows(lm)
    found = score_gradients(lm, prompts, answers).double()
    assert found.shape == (len(TEXTS), LAYERS, HIDDEN)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        directions = torch.randn(len(TEXTS), LAYERS, HIDDEN, generator=generator) / HIDDEN
        size = 0.01

        def logprob(step, directions=directions):
            edits = Edits([Edit.add(step * direction) for direction in directions])
            return score(lm, prompts, answers, lm, edits=edits).logprob

        slope = (logprob(size) - logprob(-size)) / (2 * size)
        expected = (found * directions).sum((1, 2)).numpy()
        np.testing.assert_allclose(slope, expected, atol=0.01, rtol=0.02)
    assert found[[0, 1, 3, 4]].norm(dim=2).min() > 0.05  # so that every layer was put to the test
    assert not found[2].any()  # nothing was said


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_row_does_not_hang_on_its_batch(architecture, monkeypatch):
    lm, told = tiny(architecture), []
    prompts, answers = rows(lm)
    together = score_gradients(lm, prompts, answers)
    monkeypatch.setattr(gradients, "CELLS", 1)  # a row at a time
    order = [3, 1, 4, 0, 2]
    alone = score_gradients(
        lm, [prompts[r] for r in order], [answers[r] for r in order], progress=told.append
    )
    assert_close(alone, together[order], atol=1e-3, rtol=1e-3)
    assert told == [1] * len(order)


def test_the_model_is_left_as_it_was():
    """Trainable weights gather no gradient, no hook stays, and a caller without gradients is served."""
    model = copy.deepcopy(tiny().model).requires_grad_(True)
    lm = replace(tiny(), model=model)
    prompts, answers = rows(lm)
    ids, placed = torch.tensor([prompts[1]]), hooks(model)
    before = model(input_ids=ids).logits.detach()
    with torch.no_grad():
        found = score_gradients(lm, prompts, answers)
        assert not torch.is_grad_enabled()
    assert_close(found, score_gradients(tiny(), prompts, answers))
    assert all(weights.grad is None for weights in model.parameters())
    assert hooks(model) == placed
    assert torch.equal(model(input_ids=ids).logits.detach(), before)
    assert not found.requires_grad


def test_nothing_to_differentiate():
    assert score_gradients(tiny(), [], []).shape == (0, LAYERS, HIDDEN)
    assert not score_gradients(tiny(), [[1, 2]], [[]]).any()
