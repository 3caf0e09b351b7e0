"""Parts of a step side by side are the parts one after another."""

import pytest
import torch

from palette.lm.threads import Threads


def losses(weights, scale):
    """(2,) losses of a part; the second parameter has no gradient in an even one."""
    a, b = weights
    own = torch.tanh(a * scale).sum() + (b.square().sum() if scale % 2 else 0.0)
    return torch.stack([own, (a * a).sum() / scale])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_gradient_of_parts_is_the_sums_whatever_the_number_of_threads(count):
    torch.manual_seed(0)
    weights = [torch.randn(300, 300, requires_grad=True), torch.randn(5, requires_grad=True)]
    unused = torch.randn(2, requires_grad=True)
    parts = [1, 2, 3, 4, 5]
    total, each = Threads(count).add_up(
        lambda part: losses(weights, part), parts, [*weights, unused]
    )
    (2 * total).backward()
    found = [weight.grad.clone() for weight in weights]
    assert unused.grad is None
    for weight in weights:
        weight.grad = None
    plain = torch.stack([losses(weights, part) for part in parts]).sum(0)
    (2 * plain.sum()).backward()
    torch.testing.assert_close(each, plain.detach())
    torch.testing.assert_close(total.detach(), plain.sum().detach())
    for mine, weight in zip(found, weights, strict=True):
        torch.testing.assert_close(mine, weight.grad)
    again, _ = Threads(1).add_up(lambda part: losses(weights, part), parts, [*weights, unused])
    for weight in weights:
        weight.grad = None
    (2 * again).backward()
    assert all(torch.equal(a, w.grad) for a, w in zip(found, weights, strict=True))


def test_results_stand_in_order_and_gradients_are_recorded_as_where_they_are_asked_for():
    weight = torch.ones(3, requires_grad=True)
    with torch.no_grad():
        found = Threads(2).map(lambda item: (item, (weight * item).requires_grad), range(5))
    assert found == [(item, False) for item in range(5)]
    assert Threads(2).map(lambda _: (weight * 2).requires_grad, [0, 1]) == [True, True]


def test_each_part_has_one_of_pytorchs_threads_and_the_caller_keeps_its_own():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        threads = Threads.on(torch.device("cpu"))
        assert threads.map(lambda _: torch.get_num_threads(), range(4)) == [1] * 4
        assert torch.get_num_threads() == 2
        large = torch.ones(600, 600)  # large enough to be shared out
        assert threads.map(lambda n: float((large * n)[0, 0]), range(3)) == [0.0, 1.0, 2.0]
        assert threads.map(lambda _: torch.get_num_threads(), range(2)) == [1, 1]
    finally:
        torch.set_num_threads(before)


def test_a_parts_error_is_the_callers():
    def fails(item):
        if item == 1:
            raise FloatingPointError("here")

    with pytest.raises(FloatingPointError, match="here"):
        Threads(2).map(fails, range(3))
