"""Directions of pooled texts: no group sees another, and who has no texts has the group's."""

import pytest
import torch
from torch.testing import assert_close

from palette.core.directions import contrast
from palette.core.pooled import projections, shifts

LAYERS, HIDDEN = 2, 12
PROBE = {"rank": 2, "restarts": 2, "epochs": 20, "seed": 0}


def sides(seed: int, texts: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, LAYERS, texts, HIDDEN, generator=generator))


POOLS = {"everyone": sides(0, 9), "c0": sides(1, 4), "c1": sides(2, 5), "ann": sides(3, 4)}


def test_no_group_sees_another():
    together = projections(POOLS, **PROBE)
    assert together.groups == list(POOLS)
    for place, (name, own) in enumerate(POOLS.items()):
        alone = projections({name: own}, **PROBE)
        for part in ("personal", "neutral", "loss"):
            assert_close(
                getattr(together, part)[place], getattr(alone, part)[0], atol=1e-3, rtol=1e-3
            )


def test_a_group_without_texts_projects_on_nothing():
    found = projections({"everyone": sides(0, 0)}, **PROBE)
    assert found.layers == {"everyone": []}
    assert not found.personal.any() and not found.neutral.any() and not found.loss.any()


@pytest.mark.parametrize("rows, part", [(1, 0.2), (4, 0.5), (36, 0.9)])
def test_a_users_own_shift_gains_on_the_groups_with_every_row(rows, part):
    pools = {name: POOLS[name] for name in ("everyone", "c0", "c1")}
    found = shifts(pools, contrast, {"ann": (POOLS["ann"], "c1", rows)}, weight=4)
    assert list(found) == ["everyone", "c0", "c1", "ann"]
    expected = part * contrast(*POOLS["ann"]) + (1 - part) * contrast(*POOLS["c1"])
    assert_close(found["ann"], expected)


def test_a_cluster_without_texts_has_everyones_shift():
    found = shifts({"everyone": POOLS["everyone"], "c0": sides(0, 0)}, contrast, {}, weight=4)
    assert found["everyone"].any()
    assert torch.equal(found["c0"], found["everyone"])
