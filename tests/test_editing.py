"""Edits: the paper's formula, their algebra, and each row its own, on every family of models."""

import copy
from dataclasses import replace
from threading import Barrier, Thread

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import FAMILIES, HIDDEN, LAYERS, hooks, tiny

from palette.core.editing import Edit, Edits, find_mlps
from palette.lm.generation import generate, row_uniforms
from palette.lm.scoring import score

STEPS = 8
TEXTS = ["How do I clean a kettle?", "Why?", "What is a tent for, and who needs one?", "Go on."]


@pytest.fixture(params=FAMILIES)
def lm(request):
    return tiny(request.param)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shifted(seed: int = 0, size: float = 3.0) -> Edit:
    return Edit.add(size * random(LAYERS, HIDDEN, seed=seed))


def paper(seed: int = 0, rank: int = 1) -> Edit:
    """Strengthens the personal part, then removes the neutral one."""
    personal, neutral = random(2, LAYERS, rank, HIDDEN, seed=seed)
    return Edit.project(personal).then(-Edit.project(neutral))


def strong(seed: int = 0) -> Edit:
    """Of every kind at once, and far from a small change."""
    return (paper(seed, rank=2) * 6.0 + shifted(seed)).on([0, 2])


def prompts(lm, count: int) -> list[list[int]]:
    return [lm.tokenizer(TEXTS[i % len(TEXTS)])["input_ids"] for i in range(count)]


def logits(lm, ids, rows=None, first=None):
    edits = Edits(rows or [None] * len(ids))
    edits.focus(torch.arange(len(ids)), first)
    with torch.no_grad(), edits.attach(lm.model):
        return lm.model(input_ids=torch.tensor(ids)).logits


def mlp_output(lm, layer, ids, rows):
    """What a layer's MLP hands on, as the hooks leave it."""
    seen, edits = [], Edits(rows)
    edits.focus(torch.arange(len(ids)))
    with torch.no_grad(), edits.attach(lm.model):
        handle = find_mlps(lm.model)[layer].register_forward_hook(lambda m, i, o: seen.append(o))
        lm.model(input_ids=torch.tensor(ids))
        handle.remove()
    return seen[0]


# The formula, on models


def test_finds_the_mlp_of_every_layer(lm):
    mlps = find_mlps(lm.model)
    assert len(mlps) == LAYERS
    assert len({type(mlp) for mlp in mlps}) == 1


def test_a_model_without_mlps_is_refused():
    with pytest.raises(ValueError, match="no decoder layers"):
        find_mlps(torch.nn.ModuleList([torch.nn.Linear(2, 2)]))


def test_the_papers_formula_acts_on_the_last_position_alone(lm):
    ids = [prompts(lm, 1)[0]] * 2
    p, n = random(2, LAYERS, 1, HIDDEN, seed=4)
    edit = Edit.project(p).then(-Edit.project(n))
    plain = mlp_output(lm, 0, ids, [None, None])
    edited = mlp_output(lm, 0, ids, [edit, None])
    x, p, n = plain[0, -1], p[0, 0] / p[0, 0].norm(), n[0, 0] / n[0, 0].norm()
    x = x + (x @ p) * p
    x = x - (x @ n) * n
    torch.testing.assert_close(edited[0, -1], x)
    assert not torch.allclose(edited[0, -1], plain[0, -1], rtol=1e-2)
    assert torch.equal(edited[0, :-1], plain[0, :-1])
    assert torch.equal(edited[1], plain[1])


def test_a_shift_is_added_to_what_the_mlp_hands_on(lm):
    ids = [prompts(lm, 1)[0]]
    plain, edited = mlp_output(lm, 0, ids, [None]), mlp_output(lm, 0, ids, [shifted()])
    torch.testing.assert_close(edited[0, -1], plain[0, -1] + shifted().shift[0])
    assert torch.equal(edited[0, :-1], plain[0, :-1])


def test_an_edit_of_a_later_layer_alone_reaches_the_answer(lm):
    ids = [prompts(lm, 1)[0]]
    change = logits(lm, ids, [strong().on([2])])[0] - logits(lm, ids)[0]
    assert change[-1].abs().max() > 1e-2
    assert not change[:-1].any()


def test_strength_zero_is_the_base_bit_for_bit_and_places_no_hook(lm):
    ids = [prompts(lm, 1)[0]] * 2
    base, idle = logits(lm, ids), Edits([strong(1) * 0.0, Edit.identity(LAYERS, HIDDEN), None])
    idle.focus(torch.tensor([0, 1]))
    before = hooks(lm.model)
    with torch.no_grad(), idle.attach(lm.model):
        assert hooks(lm.model) == before
        assert torch.equal(lm.model(input_ids=torch.tensor(ids)).logits, base)
    with Edits([strong(1)]).attach(lm.model):
        assert hooks(lm.model) == before + 2
    assert hooks(lm.model) == before, "a hook outlived its `with` block"


def test_hooks_go_when_the_model_fails():
    lm = tiny()
    before = hooks(lm.model)
    with pytest.raises(RuntimeError, match="stop"), Edits([strong()]).attach(lm.model):
        raise RuntimeError("stop")
    assert hooks(lm.model) == before


def test_a_row_left_alone_is_the_base_bit_for_bit(lm):
    ids = [prompts(lm, 1)[0]] * 3
    base, mixed = logits(lm, ids), logits(lm, ids, [strong(1), None, strong(2) * 0.0])
    assert torch.equal(mixed[1:], base[1:])
    assert not torch.allclose(mixed[0, -1], base[0, -1], atol=1e-2)
    assert torch.equal(logits(lm, ids), base)


def test_each_row_has_its_own_edit_of_any_rank_and_layers(lm):
    ids = [prompts(lm, 1)[0]] * 5
    rows = [strong(1), shifted(2).on([1]), paper(3, rank=4) * 9.0, None, shifted(2).on([2])]
    together = logits(lm, ids, rows)
    for row, edit in enumerate(rows):
        alone = logits(lm, ids[:1], [edit])[0]
        torch.testing.assert_close(together[row], alone, atol=1e-4, rtol=1e-4)
    for row in range(5):
        for other in range(row):
            assert (together[row, -1] - together[other, -1]).abs().max() > 1e-3


def test_rows_that_share_an_edit_share_its_table():
    one, two = strong(1), strong(2)
    edits = Edits([one, None, two, one, one])
    assert edits.group.tolist() == [0, -1, 1, 0, 0]
    assert edits.layers == [0, 2]


def test_users_in_one_batch_answer_as_one_by_one(lm):
    one, two, three = strong(1), shifted(2), paper(3) * 9.0
    rows, asked = [one, None, three, two, one, three], prompts(lm, 6)
    uniforms = row_uniforms(len(rows), STEPS, "editing")
    together = generate(lm, asked, STEPS, uniforms, Edits(rows))
    for i, row in enumerate(rows):
        alone = generate(lm, [asked[i]], STEPS, uniforms[[i]], Edits([row]))
        assert alone.tokens[0] == together.tokens[i]
        np.testing.assert_allclose(alone.logprobs[0], together.logprobs[i], atol=1e-3)
    plain = generate(lm, asked, STEPS, uniforms)
    assert plain.tokens[1] == together.tokens[1]
    assert plain.tokens != together.tokens


def test_scoring_sees_the_policy_that_generated(lm):
    rows, asked = [strong(1), shifted(2), strong(3), None], prompts(lm, 4)
    answers = generate(lm, asked, STEPS, row_uniforms(4, STEPS, "scoring"), Edits(rows))
    scores = score(lm, asked, answers.tokens, lm, edits=Edits(rows))
    np.testing.assert_allclose(scores.logprob, answers.logprobs, atol=2e-3)
    assert (scores.kl[:3] > 1e-3).all()
    assert scores.kl[3] == pytest.approx(0, abs=1e-6)
    unedited = score(lm, asked, answers.tokens, lm)
    assert abs(unedited.logprob - answers.logprobs)[:3].min() > 1e-2


def test_only_the_prompts_last_position_and_the_answer_are_edited(lm):
    """The padded batch's own reading, against one row read step by step without padding."""
    asked, answers = prompts(lm, 2), [[5, 6, 7], [8]]
    rows = [strong(1), strong(2)]
    scores = score(lm, asked, answers, lm, edits=Edits(rows))
    for row, (prompt, answer) in enumerate(zip(asked, answers, strict=True)):
        first = torch.tensor([len(prompt) - 1])
        own = logits(lm, [prompt + answer], [rows[row]], first)[0]
        plain = logits(lm, [prompt + answer])[0]
        assert torch.equal(own[: len(prompt) - 1], plain[: len(prompt) - 1])
        places = torch.arange(len(prompt) - 1, len(prompt) + len(answer) - 1)
        told = own[places].log_softmax(-1).gather(1, torch.tensor(answer)[:, None])
        np.testing.assert_allclose(scores.logprob[row], float(told.sum()), atol=2e-3)


def test_half_precision_keeps_its_type_and_rows_left_alone():
    lm = tiny()
    lm = replace(lm, model=copy.deepcopy(lm.model).bfloat16())
    ids = [prompts(lm, 1)[0]] * 2
    plain = mlp_output(lm, 0, ids, [None, None])
    edited = mlp_output(lm, 0, ids, [strong(), None])
    assert edited.dtype == torch.bfloat16
    assert torch.equal(edited[1], plain[1])
    wanted = strong()(plain[:1, -1:].float().expand(LAYERS, 1, HIDDEN))[0, 0]
    assert torch.equal(edited[0, -1], wanted.bfloat16()), "computed in float32, rounded once"


def test_threads_that_share_a_model_keep_their_edits_apart():
    lm, asked = tiny(), prompts(tiny(), 8)
    uniforms = row_uniforms(len(asked), STEPS, "threads")
    own = {"a": [strong(1)] * 8, "b": [strong(2)] * 8, "c": [None] * 8}
    apart = {n: generate(lm, asked, STEPS, uniforms, Edits(r)).tokens for n, r in own.items()}
    ready, together = Barrier(len(own)), {}

    def work(name):
        ready.wait()
        together[name] = generate(lm, asked, STEPS, uniforms, Edits(own[name])).tokens

    threads = [Thread(target=work, args=[name]) for name in own]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == apart
    assert apart["a"] != apart["b"] != apart["c"]


def test_an_edit_for_another_depth_is_refused():
    edits = Edits([Edit.add(torch.ones(1, HIDDEN))])
    with pytest.raises(ValueError, match="1 layers, the model has 3"), edits.attach(tiny().model):
        pass


# The algebra, on states

states = st.integers(0, 50).map(lambda seed: random(LAYERS, 4, HIDDEN, seed=1000 + seed))
seeds = st.integers(0, 50)
factors = st.floats(-3, 3, width=16)
edits = st.builds(
    lambda seed, rank, size: paper(seed, rank) + shifted(seed + 7, size),
    seeds, st.integers(1, 3), factors,
)  # fmt: skip
quick = settings(max_examples=25, deadline=None)


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


@quick
@given(edits, states)
def test_the_identity_changes_nothing_on_either_side(edit, x):
    identity = Edit.identity(LAYERS, HIDDEN)
    assert torch.equal(identity(x), x)
    for same in (identity.then(edit), edit.then(identity), edit + identity, edit - identity):
        close(same(x), edit(x))
    assert identity.layers == []


@quick
@given(edits, edits, states)
def test_then_is_application_in_turn(a, b, x):
    close(a.then(b)(x), b(a(x)))


@quick
@given(edits, edits, edits, states)
def test_then_is_associative(a, b, c, x):
    torch.testing.assert_close(a.then(b).then(c)(x), a.then(b.then(c))(x), atol=5e-3, rtol=5e-3)


@quick
@given(edits, factors, factors, states)
def test_strengths_multiply_and_scale_the_change(edit, s, t, x):
    close((edit * s)(x) - x, s * (edit(x) - x))
    close((edit * s * t)(x), (edit * (s * t))(x))
    close((edit * s + edit * t)(x), (edit * (s + t))(x))


@quick
@given(edits, edits, states)
def test_sums_of_edits_make_both_changes_to_the_same_states(a, b, x):
    close((a + b)(x) - x, (a(x) - x) + (b(x) - x))
    close((a + b)(x), (b + a)(x))
    close((a - a)(x), x)
    close((-a)(x) - x, -(a(x) - x))


@quick
@given(seeds, seeds, factors)
def test_shifts_add_as_vectors_do(one, other, factor):
    a, b = shifted(one), shifted(other)
    assert torch.equal((a + b).shift, a.shift + b.shift)
    assert torch.equal(a.then(b).shift, a.shift + b.shift)
    assert torch.equal((a * factor).shift, a.shift * factor)
    assert not (a - a).shift.any()
    assert (a - a).layers == []


@quick
@given(seeds, st.integers(1, 3), factors.filter(lambda s: abs(s) > 1e-3), states)
def test_projections_are_blind_to_sign_scale_and_order_of_directions(seed, rank, scale, x):
    directions = random(LAYERS, rank, HIDDEN, seed=seed)
    one = Edit.project(directions)
    close(Edit.project(scale * directions.flip(1))(x), one(x))
    close(Edit.project(torch.cat([directions, directions[:, :1]], 1))(x), one(x))


@quick
@given(seeds, st.integers(1, 3), states)
def test_projections_double_or_remove_what_lies_in_their_span(seed, rank, x):
    directions = random(LAYERS, rank, HIDDEN, seed=seed)
    edit = Edit.project(directions)
    inside = directions.transpose(1, 2) @ torch.linalg.lstsq(directions.transpose(1, 2), x.mT)[0]
    close(edit(x), x + inside.mT)
    removed = (-edit)(x)
    close(removed @ directions.mT, torch.zeros(LAYERS, 4, rank))
    close((-edit)(removed), removed)
    close(edit(removed), removed)


def test_directions_of_zeros_change_nothing():
    edit = Edit.project(torch.zeros(LAYERS, 2, HIDDEN))
    x = random(LAYERS, 4, HIDDEN)
    assert edit.layers == []
    assert torch.equal(edit(x), x)


def test_on_keeps_the_change_of_some_layers_alone():
    edit, x = paper(1) + shifted(2), random(LAYERS, 4, HIDDEN)
    assert edit.layers == [0, 1, 2]
    assert edit.on([2, 0]).layers == [0, 2]
    assert edit.on([]).layers == []
    close(edit.on([1])(x)[1], edit(x)[1])
    assert torch.equal(edit.on([1])(x)[[0, 2]], x[[0, 2]])
    close((edit.on([0]) + edit.on([1, 2]))(x), edit(x))
