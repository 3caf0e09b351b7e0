"""Edits: the paper's formula, its algebra, and each row its own, on three architectures."""

import numpy as np
import pytest
import torch
from tiny_models import ARCHITECTURES, HIDDEN, LAYERS, tiny

from palette.core.editing import Edits, find_mlps
from palette.lm.generation import generate, row_uniforms
from palette.lm.scoring import score

GROUPS = 3
STEPS = 8


@pytest.fixture(params=ARCHITECTURES)
def lm(request):
    return tiny(request.param)


def directions(seed: int = 0) -> torch.Tensor:
    return torch.randn(GROUPS, LAYERS, HIDDEN, generator=torch.Generator().manual_seed(seed))


def edits(rows, personal=None, neutral=None, strength=1.0, layers=(0, 2)) -> Edits:
    chosen = torch.zeros(GROUPS, LAYERS, dtype=torch.bool)
    chosen[:, list(layers)] = True
    personal = directions(1) if personal is None else personal
    neutral = directions(2) if neutral is None else neutral
    return Edits(personal, neutral, chosen, torch.tensor(rows), strength)


def prompts(lm, count: int) -> list[list[int]]:
    texts = ["How do I clean a kettle?", "Why?", "What is a tent for, and who needs one?", "Go on."]
    return [lm.tokenizer(texts[i % len(texts)])["input_ids"] for i in range(count)]


def logits(lm, ids, edit=None, first=None):
    ids = torch.tensor(ids)
    if edit is None:
        return lm.model(input_ids=ids).logits
    edit.focus(torch.arange(len(ids)), first)
    with edit.attach(lm.model):
        return lm.model(input_ids=ids).logits


def mlp_output(lm, layer, ids, edit):
    """What layer `layer`'s MLP hands on, as the hooks leave it."""
    seen = []
    edit.focus(torch.arange(len(ids)))
    with edit.attach(lm.model):
        handle = find_mlps(lm.model)[layer].register_forward_hook(lambda m, i, o: seen.append(o))
        lm.model(input_ids=torch.tensor(ids))
        handle.remove()
    return seen[0]


def test_finds_the_mlp_of_every_layer(lm):
    assert len(find_mlps(lm.model)) == LAYERS


def test_a_model_without_mlps_is_refused():
    with pytest.raises(ValueError, match="no decoder layers"):
        find_mlps(torch.nn.ModuleList([torch.nn.Linear(2, 2)]))


def test_formula_acts_on_the_last_position_alone(lm):
    ids = [prompts(lm, 1)[0]] * 2
    p, n = directions(1)[1, 0], directions(2)[1, 0]
    p, n = p / p.norm(), n / n.norm()
    plain = mlp_output(lm, 0, ids, edits([-1, -1]))
    edited = mlp_output(lm, 0, ids, edits([1, -1]))
    x = plain[0, -1]
    x = x + (x @ p) * p
    x = x - (x @ n) * n
    torch.testing.assert_close(edited[0, -1], x)
    assert not torch.allclose(edited[0, -1], plain[0, -1])
    assert torch.equal(edited[0, :-1], plain[0, :-1])
    assert torch.equal(edited[1], plain[1])


def test_the_edit_doubles_the_personal_and_removes_the_neutral_part(lm):
    ids, zero = [prompts(lm, 1)[0]], torch.zeros(GROUPS, LAYERS, HIDDEN)
    p, n = directions(1)[0, 0], directions(2)[0, 0]
    plain = mlp_output(lm, 0, ids, edits([-1]))[0, -1]
    doubled = mlp_output(lm, 0, ids, edits([0], neutral=zero))[0, -1]
    removed = mlp_output(lm, 0, ids, edits([0], personal=zero))[0, -1]
    torch.testing.assert_close(doubled @ p, 2 * (plain @ p))
    torch.testing.assert_close(removed @ n, torch.tensor(0.0), atol=1e-5, rtol=0)


def test_strength_zero_and_rows_left_alone_are_the_base_bit_for_bit(lm):
    ids = [prompts(lm, 1)[0]] * 2
    base = logits(lm, ids)
    assert torch.equal(logits(lm, ids, edits([0, 1], strength=0.0)), base)
    mixed = logits(lm, ids, edits([0, -1]))
    assert torch.equal(mixed[1], base[1])
    assert not torch.allclose(mixed[0], base[0])
    assert torch.equal(logits(lm, ids), base), "a hook outlived its `with` block"


def test_each_group_has_layers_of_its_own(lm):
    ids = [prompts(lm, 1)[0]] * 2
    chosen = torch.tensor([[True, False, False], [False, False, True], [False] * 3])

    def edited(layers):
        return logits(lm, ids, Edits(directions(1), directions(2), layers, torch.tensor([0, 1])))

    own, every = edited(chosen), edited(torch.ones_like(chosen))
    for row in range(2):
        alone = chosen & (torch.arange(GROUPS) == row)[:, None]
        assert torch.equal(own[row], edited(alone)[row])
        assert not torch.allclose(own[row], every[row])


def test_blind_to_sign_and_scale(lm):
    ids = [prompts(lm, 1)[0]] * GROUPS
    one = logits(lm, ids, edits([0, 1, 2]))
    other = logits(lm, ids, edits([0, 1, 2], -7 * directions(1), 1e-6 * directions(2)))
    torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-4)


def test_users_in_one_batch_answer_as_one_by_one(lm):
    rows, asked = [0, -1, 2, 1, 0, 2], prompts(lm, 6)
    uniforms = row_uniforms(len(rows), STEPS, "editing")
    together = generate(lm, asked, STEPS, uniforms, edits(rows))
    for i, row in enumerate(rows):
        alone = generate(lm, [asked[i]], STEPS, uniforms[[i]], edits([row]))
        assert alone.tokens[0] == together.tokens[i]
        np.testing.assert_allclose(alone.logprobs[0], together.logprobs[i], atol=1e-3)
    plain = generate(lm, asked, STEPS, uniforms)
    assert plain.tokens[1] == together.tokens[1]
    assert plain.tokens != together.tokens


def test_scoring_sees_the_policy_that_generated(lm):
    rows, asked = [0, 1, 2, -1], prompts(lm, 4)
    answers = generate(lm, asked, STEPS, row_uniforms(4, STEPS, "scoring"), edits(rows))
    scores = score(lm, asked, answers.tokens, lm, edits=edits(rows))
    np.testing.assert_allclose(scores.logprob, answers.logprobs, atol=1e-3)
    assert (scores.kl[:3] > 1e-3).all()
    assert scores.kl[3] == pytest.approx(0, abs=1e-6)
    unedited = score(lm, asked, answers.tokens, lm)
    assert abs(unedited.logprob - answers.logprobs)[:3].min() > 1e-3


def test_an_edit_for_another_depth_is_refused(lm):
    shallow = Edits(
        torch.ones(1, 1, HIDDEN), torch.ones(1, 1, HIDDEN), torch.ones(1, 1, dtype=torch.bool),
        torch.tensor([0]),
    )  # fmt: skip
    with pytest.raises(ValueError, match="1 layers, the model has 3"), shallow.attach(lm.model):
        pass
