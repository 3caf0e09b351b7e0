"""Directions: planted ones are found, batches do not mix, groups are who they should be."""

import polars as pl
import pytest
import torch
from tiny_models import HIDDEN, LAYERS, tiny

from palette import subspaces
from palette.core.directions import (
    Directions,
    choose_layers,
    neutral_direction,
    personal_direction,
)
from palette.params import Subspaces

SETTINGS = {"restarts": 4, "epochs": 200, "seed": 0}


def unit(seed: int, *shape: int) -> torch.Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=-1)


def planted(seed: int, pairs: int = 60, gap: float = 6.0):
    """Personal and neutral activations (pairs, HIDDEN) on either side of a hidden direction."""
    u = unit(seed, HIDDEN)
    noise = torch.randn(2, pairs, HIDDEN, generator=torch.Generator().manual_seed(seed + 1))
    return u, noise[0] + gap * u, noise[1] - gap * u


def test_personal_direction_is_the_top_singular_vector():
    u, personal, _ = planted(3)
    found = personal_direction(personal)
    assert found.norm() == pytest.approx(1, abs=1e-6)
    assert abs(float(found @ u)) > 0.98
    gains = (personal @ unit(9, 200, HIDDEN).T).norm(dim=0)
    assert (personal @ found).norm() > gains.max()


def test_personal_direction_is_not_centred():
    u = unit(4, HIDDEN)
    personal = 5 * u + 0.01 * unit(5, 10, HIDDEN)
    assert abs(float(personal_direction(personal) @ u)) > 0.999


def test_probe_finds_the_planted_direction_and_knows_when_there_is_none():
    u, personal, neutral = planted(7)
    found, loss = neutral_direction(personal, neutral, **SETTINGS)
    assert found.norm() == pytest.approx(1, abs=1e-6)
    assert abs(float(found @ u)) > 0.8
    _, nothing = neutral_direction(personal, personal, **SETTINGS)
    assert float(loss) < 0.05 < float(nothing)


def test_more_restarts_never_raise_the_loss():
    _, personal, neutral = planted(11, pairs=8, gap=0.3)
    one = neutral_direction(personal, neutral, restarts=1, epochs=50, seed=0)[1]
    many = neutral_direction(personal, neutral, restarts=8, epochs=50, seed=0)[1]
    assert many <= one + 1e-5


def test_entries_of_a_batch_do_not_see_one_another():
    sides = [planted(seed) for seed in (1, 2, 3)]
    personal, neutral = (torch.stack([side[i] for side in sides]) for i in (1, 2))
    theta, loss = neutral_direction(personal, neutral, **SETTINGS)
    for i in range(3):
        alone, own = neutral_direction(personal[i], neutral[i], **SETTINGS)
        torch.testing.assert_close(theta[i], alone, atol=1e-3, rtol=0)
        torch.testing.assert_close(loss[i], own, atol=1e-3, rtol=0)
        torch.testing.assert_close(personal_direction(personal)[i], personal_direction(personal[i]))


def test_search_is_deterministic_and_blind_to_scale():
    _, personal, neutral = planted(5)
    first = neutral_direction(personal, neutral, **SETTINGS)
    assert torch.equal(first[0], neutral_direction(personal, neutral, **SETTINGS)[0])
    scaled = neutral_direction(8 * personal, 8 * neutral, **SETTINGS)
    torch.testing.assert_close(scaled[0], first[0], atol=1e-4, rtol=0)


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


def test_random_control_has_equal_norms_and_other_directions():
    personal = unit(1, 2, LAYERS, HIDDEN) * torch.tensor([1.0, 0.0])[:, None, None]
    found = Directions(("a", "b"), personal, unit(2, 2, LAYERS, HIDDEN), ((0,), (1, 2)))
    control = found.random(seed=0)
    torch.testing.assert_close(control.personal.norm(dim=-1), personal.norm(dim=-1))
    torch.testing.assert_close(control.neutral.norm(dim=-1), torch.ones(2, LAYERS))
    assert (control.neutral * found.neutral).sum(-1).abs().max() < 0.8
    assert control.layers == found.layers
    assert control.edits(["b", None, "a"]).group.tolist() == [1, -1, 0]


def pairs_table(owners: list[str]) -> pl.DataFrame:
    return pl.DataFrame({
        "user_id": owners, "pair": range(len(owners)), "prompt": ["Why?"] * len(owners),
        "personal": [f"Short {i}." for i in range(len(owners))],
        "neutral": [f"A longer answer, number {i}." for i in range(len(owners))],
    })  # fmt: skip


def test_everyone_is_the_seen_and_short_histories_have_no_group():
    users = pl.DataFrame({
        "user_id": ["ann", "bob", "cy", "everyone"], "rows": [9, 2, 9, 9],
        "cohort": ["seen", "seen", "unseen", "seen"],
    })  # fmt: skip
    pairs = pairs_table(["ann", "ann", "bob", "cy", "everyone"])
    groups = subspaces.members(pairs, users, history=4)
    assert groups == {"everyone": [0, 1, 2, 4], "ann": [0, 1], "cy": [3]}


def test_stage_finds_writes_and_reads_back(tmp_path):
    personal, neutral = subspaces.activations(tiny(), pairs_table(["ann", "bob", "bob"]))
    assert personal.shape == neutral.shape == (LAYERS, 3, HIDDEN)
    groups = {"everyone": [0, 1, 2], "ann": [0], "bob": [1, 2], "nobody": []}
    found, loss = subspaces.find(personal, neutral, groups, Subspaces(epochs=30))
    subspaces.write(found, loss, tmp_path)
    read = subspaces.read(tmp_path)
    assert read.groups == tuple(groups) and read.layers == found.layers
    assert torch.equal(read.personal, found.personal) and torch.equal(read.neutral, found.neutral)
    torch.testing.assert_close(read.personal[:3].norm(dim=-1), torch.ones(3, LAYERS))
    assert read.layers[3] == () and not read.personal[3].any()
    assert all(read.layers[:3])
    alone = personal_direction(personal[:, [1, 2]])
    torch.testing.assert_close(read.personal[2], alone)


def test_activations_do_not_hang_on_the_batch():
    pairs = pairs_table(["ann", "bob", "bob"])
    together = subspaces.activations(tiny(), pairs)[0]
    alone = subspaces.activations(tiny(), pairs.slice(1, 1))[0]
    torch.testing.assert_close(together[:, 1:2], alone, atol=1e-4, rtol=1e-4)


def test_no_pairs_at_all_leave_an_edit_that_changes_nothing(tmp_path):
    personal, neutral = subspaces.activations(tiny(), pairs_table([]))
    found, _ = subspaces.find(personal, neutral, {"everyone": []}, Subspaces())
    assert found.layers == ((),) and not found.personal.any()
