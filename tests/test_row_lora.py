"""Adapters in training that differ by row: each row through its own, however the rows lie."""

import pytest
import torch

from palette.lm.row_lora import Stacked

SIZES = {"one": (5, 7)}
MEMBERS = 3


@pytest.fixture
def stacked() -> Stacked:
    rows = Stacked(SIZES, 2, MEMBERS, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in rows.parameters():
            parameter.normal_(generator=generator)
    return rows


@pytest.mark.parametrize(
    "members",
    [
        [0, 0, 1, 1, 2, 2],
        [2, 2, 0, 0],
        [0, 1, 2, 0, 1, 2],
        [1, 1, 1, 0, 2, 1, 0],
        [2],
        [1, 0, 1, 1],
    ],
)
def test_every_row_goes_through_its_own_member_forward_and_back(stacked, members):
    condition = torch.tensor(members)
    inputs = torch.randn(len(members), 4, 5, generator=torch.Generator().manual_seed(2))
    stacked.focus(condition)
    found = stacked.delta("one", inputs, condition)
    found.square().sum().backward()
    (a,), (b,) = stacked.a.values(), stacked.b.values()
    mine = a.grad.clone(), b.grad.clone()
    a.grad = b.grad = None
    alone = torch.cat([
        inputs[row, None] @ a[member].mT @ b[member].mT for row, member in enumerate(members)
    ])  # fmt: skip
    torch.testing.assert_close(found, alone)
    alone.square().sum().backward()
    torch.testing.assert_close(mine, (a.grad, b.grad))
