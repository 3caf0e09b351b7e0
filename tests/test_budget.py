"""The budget: steps and minutes, whichever is spent first, and the learning rate that follows."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import get_cosine_schedule_with_warmup

from palette.core.budget import WARM_UP, Clock


class Hand:
    """A clock's hand that a test moves."""

    def __init__(self):
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def transformers_rates(steps: int, upto: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_cosine_schedule_with_warmup(optimizer, int(WARM_UP * steps), steps)
    rates = []
    for _ in range(upto):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 37, 80, 300])
def test_without_a_limit_the_rate_is_that_of_transformers(steps):
    hand = Hand()
    clock = Clock(steps, None, hand)
    rates = []
    for step in range(steps + 1):
        rates.append(clock.rate(step))
        hand.seconds += 1e6
    assert rates == transformers_rates(steps, steps + 1)


def test_a_limit_that_is_never_near_changes_nothing():
    hand = Hand()
    limited, free = Clock(50, 10, hand), Clock(50, None, hand)
    for step in range(51):
        assert limited.rate(step) == free.rate(step)
        assert limited.progress(step) == free.progress(step) == step / 50
        hand.seconds += 11.9  # 595 of 600 seconds in all


def test_where_steps_are_slow_the_rate_falls_to_nothing_within_the_minutes():
    hand = Hand()
    clock, rates, step = Clock(1000, 2, hand), [], 0
    while not clock.over(step):
        rates.append(clock.rate(step))
        hand.seconds += 3.0
        step += 1
    assert (step, hand.seconds) == (40, 1120.0)
    # 40 steps see the rates of a training of 40: that of the first 4 rises.
    assert rates == pytest.approx(transformers_rates(40, 40))
    assert clock.rate(step) == 0.0


def test_over_comes_with_the_last_step_or_with_the_last_second():
    hand = Hand()
    clock = Clock(3, 1, hand)
    assert [clock.over(step) for step in range(5)] == [False, False, False, True, True]
    hand.seconds += 59.9
    assert not clock.over(0)
    hand.seconds += 0.2
    assert clock.over(0) and clock.progress(0) == 1.0
    assert Clock(0, None, hand).over(0)
    hand.seconds += 1e9
    assert not Clock(3, None, hand).over(2)


def test_what_was_spent_before_an_interruption_counts():
    hand = Hand()
    first = Clock(100, 1, hand)
    hand.seconds += 40
    resumed = Clock(100, 1, hand, spent=first.elapsed)
    hand.seconds += 5
    assert resumed.elapsed == first.elapsed == 45
    assert resumed.rate(10) == first.rate(10)
    hand.seconds += 15
    assert resumed.over(10)


@given(
    st.integers(1, 400), st.floats(0.01, 100), st.lists(st.floats(0, 1000), max_size=30),
)  # fmt: skip
@example(1, 0.01, [0.0])
def test_progress_never_goes_back_and_the_rate_stays_a_share(steps, minutes, pauses):
    hand = Hand()
    clock, seen = Clock(steps, minutes, hand), [0.0]
    for step, pause in enumerate(pauses):
        seen.append(clock.progress(step))
        assert 0.0 <= clock.rate(step) <= 1.0
        assert clock.over(step) == (seen[-1] == 1.0)
        hand.seconds += pause
    assert seen == sorted(seen) and seen[-1] <= 1.0
