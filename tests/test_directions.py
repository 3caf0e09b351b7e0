"""Directions: planted ones are found, formulas are blind where they say, controls are like their edit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize
from torch.testing import assert_close

from palette.core.directions import (
    along,
    choose_layers,
    contrast,
    contrast_svd,
    neutral_direction,
    personal_subspace,
    published,
    random_like,
    shrink,
    style_vector,
)
from palette.core.editing import Edit

LAYERS, HIDDEN = 3, 16
CCS = {"restarts": 4, "epochs": 200, "seed": 0}
SEEDS = st.integers(0, 10_000)
few = settings(max_examples=25, deadline=None)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def planted(seed: int, pairs: int = 60, gap: float = 6.0):
    """Personal and neutral activations (pairs, HIDDEN) on either side of a hidden direction."""
    u = normalize(drawn(seed, HIDDEN), dim=0)
    noise = drawn(seed + 1, 2, pairs, HIDDEN)
    return u, noise[0] + gap * u, noise[1] - gap * u


def span(rows: torch.Tensor) -> torch.Tensor:
    """The projection on the span of rows (..., rank, hidden) that are orthonormal or zero."""
    return rows.transpose(-1, -2) @ rows


def test_the_subspace_of_rank_one_is_the_top_singular_vector():
    u, personal, _ = planted(3)
    found = personal_subspace(personal, 1)
    assert found.shape == (1, HIDDEN) and found.norm() == pytest.approx(1, abs=1e-6)
    assert abs(float(found[0] @ u)) > 0.98
    others = normalize(drawn(9, 200, HIDDEN), dim=-1)
    assert (personal @ found[0]).norm() > (personal @ others.T).norm(dim=0).max()


def test_the_subspace_is_not_centred():
    u = normalize(drawn(4, HIDDEN), dim=0)
    personal = 5 * u + 0.01 * drawn(5, 10, HIDDEN)
    assert abs(float(personal_subspace(personal, 1)[0] @ u)) > 0.999


@few
@given(seed=SEEDS, true=st.integers(1, 4), rank=st.integers(1, 6))
def test_the_subspace_of_data_of_low_rank_holds_it_exactly(seed, true, rank):
    data = drawn(seed, 20, true) @ drawn(seed + 1, true, HIDDEN)
    found = personal_subspace(data, rank)
    assert found.shape == (rank, HIDDEN)
    kept = min(rank, true)
    assert_close(
        found @ found.T, torch.diag((torch.arange(rank) < kept).float()), atol=1e-5, rtol=0
    )
    left = (data - data @ span(found)).norm() / data.norm()
    assert left < 1e-5 if rank >= true else left > 1e-5


@few
@given(seed=SEEDS, factor=st.floats(1e-3, 1e3), sign=st.sampled_from([-1, 1]))
def test_the_subspace_is_blind_to_sign_scale_and_order(seed, factor, sign):
    data = drawn(seed, 12, HIDDEN) * torch.linspace(3, 1, HIDDEN)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    again = personal_subspace(sign * factor * data[order], 2)
    assert_close(span(again), span(personal_subspace(data, 2)), atol=1e-3, rtol=0)


def test_a_batch_of_more_directions_than_texts_is_padded_with_zeros():
    found = personal_subspace(drawn(0, 2, 3, 2, HIDDEN), 5)
    assert found.shape == (2, 3, 5, HIDDEN)
    assert found[..., :2, :].norm(dim=-1).min() > 0.99 and not found[..., 2:, :].any()


def test_probe_finds_the_planted_direction_and_knows_when_there_is_none():
    u, personal, neutral = planted(7)
    found, loss = neutral_direction(personal, neutral, **CCS)
    assert found.norm() == pytest.approx(1, abs=1e-6)
    assert abs(float(found @ u)) > 0.8
    _, nothing = neutral_direction(personal, personal, **CCS)
    assert float(loss) < 0.05 < float(nothing)


def test_more_restarts_never_raise_the_loss():
    _, personal, neutral = planted(11, pairs=8, gap=0.3)
    one = neutral_direction(personal, neutral, restarts=1, epochs=50, seed=0)[1]
    many = neutral_direction(personal, neutral, restarts=8, epochs=50, seed=0)[1]
    assert many <= one + 1e-5


def test_search_is_deterministic_and_blind_to_scale():
    _, personal, neutral = planted(5)
    first = neutral_direction(personal, neutral, **CCS)
    assert torch.equal(first[0], neutral_direction(personal, neutral, **CCS)[0])
    scaled = neutral_direction(8 * personal, 8 * neutral, **CCS)
    assert_close(scaled[0], first[0], atol=1e-4, rtol=0)


def test_entries_of_a_batch_do_not_see_one_another():
    sides = [planted(seed) for seed in (1, 2, 3)]
    personal, neutral = (torch.stack([side[i] for side in sides]) for i in (1, 2))
    theta, loss = neutral_direction(personal, neutral, **CCS)
    for i in range(3):
        own, other = personal[i], neutral[i]
        alone, least = neutral_direction(own, other, **CCS)
        assert_close(theta[i], alone, atol=1e-3, rtol=0)
        assert_close(loss[i], least, atol=1e-3, rtol=0)
        assert_close(personal_subspace(personal, 2)[i], personal_subspace(own, 2))
        assert_close(contrast(personal, neutral)[i], contrast(own, other))
        assert_close(contrast_svd(personal, neutral, 2)[i], contrast_svd(own, other, 2))


@pytest.mark.parametrize(
    "loss, kept",
    [
        ([0.5], (0,)),
        ([0.1, 0.9, 0.12], (0, 2)),
        ([0.9, 0.1, 0.5], (1,)),
        ([0.3, 0.3, 0.3], (0, 1, 2)),
    ],
)
def test_layers_are_cut_at_the_largest_jump(loss, kept):
    assert choose_layers(torch.tensor(loss)) == kept


def projected(x: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """proj(x, θ), as the paper writes it, for directions (layers, hidden) of any length."""
    theta = direction[:, None]
    return (x * theta).sum(-1, keepdim=True) / (theta * theta).sum(-1, keepdim=True) * theta


@few
@given(seed=SEEDS, a=st.floats(0.01, 100), b=st.floats(-100, -0.01))
def test_the_published_edit_is_the_papers_formula_blind_to_sign_and_scale(seed, a, b):
    personal, neutral = drawn(seed, LAYERS, HIDDEN), drawn(seed + 1, LAYERS, HIDDEN)
    x = drawn(seed + 2, LAYERS, 5, HIDDEN)
    stronger = x + projected(x, personal)
    expected = stronger - projected(stronger, neutral)
    edit = published(a * personal[:, None], b * neutral[:, None])
    assert_close(edit(x), expected, atol=1e-4, rtol=1e-4)


def test_the_published_edit_leaves_other_layers_alone():
    personal, neutral = drawn(1, LAYERS, 2, HIDDEN), drawn(2, LAYERS, 1, HIDDEN)
    x = drawn(3, LAYERS, 5, HIDDEN)
    edit = published(personal, neutral, [1])
    assert edit.layers == [1]
    assert torch.equal(edit(x)[[0, 2]], x[[0, 2]])
    assert torch.equal(edit(x)[1], published(personal, neutral)(x)[1])
    assert published(personal, neutral, []).layers == []


@few
@given(seed=SEEDS, factor=st.floats(-100, 100))
def test_contrast_keeps_scale_and_changes_sign_with_its_sides(seed, factor):
    personal, neutral = drawn(seed, 2, 7, HIDDEN), drawn(seed + 1, 2, 5, HIDDEN)
    found = contrast(personal, neutral)
    assert_close(found, personal.mean(1) - neutral.mean(1), atol=1e-5, rtol=0)
    assert_close(contrast(neutral, personal), -found)
    assert_close(
        contrast(factor * personal, factor * neutral), factor * found, atol=1e-4, rtol=1e-4
    )
    both = contrast(personal + 3, neutral + 3)  # what both sides share is no difference
    assert_close(both, found, atol=1e-5, rtol=0)


@few
@given(seed=SEEDS)
def test_contrast_svd_of_full_rank_is_contrast_and_of_less_is_a_part_of_it(seed):
    personal, neutral = drawn(seed, 30, HIDDEN), drawn(seed + 1, 30, HIDDEN)
    whole = contrast(personal, neutral)
    assert_close(contrast_svd(personal, neutral, HIDDEN), whole, atol=1e-5, rtol=0)
    for rank in (1, 3):
        part = contrast_svd(personal, neutral, rank)
        assert float(part @ (whole - part)) == pytest.approx(0, abs=1e-5)
        assert part.norm() < whole.norm()


@few
@given(seed=SEEDS, rank=st.integers(1, 5))
def test_contrast_svd_is_the_mean_of_the_best_approximation_of_low_rank(seed, rank):
    """Eckart and Young: the truncated singular value decomposition of the differences."""
    left, right = (torch.linalg.qr(drawn(seed + i, n, 5)).Q for i, n in enumerate((9, HIDDEN)))
    scales = torch.tensor([9.0, 7.0, 5.0, 3.0, 1.0])
    shared = drawn(seed + 2, 9, HIDDEN)  # what both answers of a pair have
    found = contrast_svd(shared + (left * scales) @ right.T, shared, rank)
    best = (left[:, :rank] * scales[:rank]) @ right[:, :rank].T
    assert_close(found, best.mean(0), atol=1e-4, rtol=0)


def test_a_style_vector_takes_means_over_unequal_counts():
    own, model = drawn(1, LAYERS, 4, HIDDEN), drawn(2, LAYERS, 8, HIDDEN)
    found = style_vector(own, model)
    assert_close(found, own.mean(1) - model.mean(1), atol=1e-5, rtol=0)
    assert not style_vector(own, own).any()
    assert_close(style_vector(own, torch.cat([model, model], 1)), found, atol=1e-6, rtol=0)


def test_without_texts_there_are_no_directions():
    none, some = torch.zeros(LAYERS, 0, HIDDEN), drawn(1, LAYERS, 4, HIDDEN)
    assert personal_subspace(none, 2).shape == (LAYERS, 2, HIDDEN)
    theta, loss = neutral_direction(none, none, **CCS)
    assert theta.shape == (LAYERS, HIDDEN) and loss.shape == (LAYERS,)
    found = [personal_subspace(none, 2), theta, contrast(none, none), contrast(some, none)]
    found += [contrast_svd(none, none, 2), style_vector(none, some)]
    found += [personal_subspace(torch.zeros(LAYERS, 4, HIDDEN), 2)]
    assert not any(direction.any() for direction in found)
    assert published(personal_subspace(none, 2), theta[:, None]).layers == []


@few
@given(rows=st.integers(0, 50), weight=st.floats(0, 50))
def test_little_history_is_drawn_toward_the_group(rows, weight):
    own, group = drawn(1, LAYERS, HIDDEN), drawn(2, LAYERS, HIDDEN)
    found = shrink(own, group, rows, weight)
    share = rows / (rows + weight) if rows else 0.0
    assert_close(found, share * own + (1 - share) * group, atol=1e-5, rtol=0)
    assert_close(shrink(group, group, rows, weight), group, atol=1e-6, rtol=1e-6)


def edits(seed: int) -> list[Edit]:
    shift = drawn(seed, LAYERS, HIDDEN) * torch.tensor([2.0, 0.0, 0.3])[:, None]
    projecting = published(drawn(seed + 1, LAYERS, 2, HIDDEN), drawn(seed + 2, LAYERS, 1, HIDDEN))
    return [Edit.add(shift), projecting.on([0, 2]), Edit.add(shift) + projecting.on([0])]


@few
@given(seed=SEEDS)
def test_the_random_control_has_the_norms_ranks_and_angles_of_its_edit(seed):
    for edit in edits(seed):
        control = random_like(edit, seed)
        assert control.layers == edit.layers
        given_, random = (
            torch.cat([e.reads, e.writes, e.shift[:, None]], 1) for e in (edit, control)
        )
        inner = given_ @ given_.transpose(1, 2)
        assert_close(random @ random.transpose(1, 2), inner, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(random, given_, atol=1e-2)


def test_the_random_control_is_keyed_by_its_seed_and_uniform():
    for edit in edits(4):
        once, again, other = (random_like(edit, seed) for seed in (0, 0, 1))
        assert torch.equal(once.shift, again.shift) and torch.equal(once.reads, again.reads)
        assert not torch.equal(once.shift + once.reads.sum(1), other.shift + other.reads.sum(1))
    edit = Edit.add(torch.ones(1, HIDDEN))
    mean = torch.cat([random_like(edit, seed).shift for seed in range(400)]).mean(0)
    assert mean.norm() < 1.5 * edit.shift.norm() / 400**0.5


@few
@given(seed=SEEDS, factor=st.floats(0.01, 100))
def test_an_edit_along_a_direction_has_the_norm_of_its_like(seed, factor):
    direction = drawn(seed, LAYERS, HIDDEN)
    adding, projecting, both = edits(seed + 1)
    found = along(factor * direction, adding)
    assert found.layers == adding.layers == [0, 2]
    assert_close(found.shift.norm(dim=-1), adding.shift.norm(dim=-1), atol=1e-5, rtol=1e-5)
    cosine = torch.nn.functional.cosine_similarity(found.shift, direction, dim=-1)
    assert_close(cosine, torch.tensor([1.0, 0.0, 1.0]), atol=1e-5, rtol=0)
    x = drawn(seed + 5, LAYERS, 4, HIDDEN)
    expected = x + projected(x, direction) * torch.tensor([1.0, 0.0, 1.0])[:, None, None]
    assert_close(along(factor * direction, projecting)(x), expected, atol=1e-4, rtol=1e-4)
    assert_close(along(direction, both).shift, along(direction, adding).shift)
