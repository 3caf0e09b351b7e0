"""Soft targets are what a count over all rollouts with the same prefix says, whatever the rollouts."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palette.core.prefixes import Prefixes

ROLLOUTS = st.lists(st.lists(st.integers(0, 3), max_size=6), min_size=1, max_size=12)


@st.composite
def weighed(draw):
    """Prompts of rollouts with many shared prefixes, and a mass for each, some of it 0."""
    answers = draw(st.lists(ROLLOUTS, min_size=1, max_size=3))
    weight = st.just(0.0) | st.floats(1e-12, 1.0)
    return answers, [
        np.array(draw(st.lists(weight, min_size=len(rows), max_size=len(rows)))) for rows in answers
    ]


def counted(rows, sample, mass) -> dict[tuple[int, int], float]:
    """(position, token) → share, by looking at every rollout at every position."""
    wanted = defaultdict(float)
    for position, own in enumerate(rows[sample]):
        same = [
            i for i, row in enumerate(rows)
            if row[:position] == rows[sample][:position] and len(row) > position
        ]  # fmt: skip
        total = sum(mass[same])
        for i in same:
            if mass[i] and total:
                wanted[position, rows[i][position]] += mass[i] / total
        if not total:
            wanted[position, own] = 1.0
    return wanted


def dense(found) -> dict[tuple[int, int], float]:
    """(position, token) → share, of what has any; no pair may be listed twice."""
    pairs = [(int(p), int(t)) for p, t in zip(found[0], found[1], strict=True)]
    assert len(set(pairs)) == len(pairs)
    return {pair: share for pair, share in zip(pairs, found[2], strict=True) if share}


@given(weighed())
def test_targets_are_those_counted_over_all_rollouts_that_share_the_prefix(case):
    answers, masses = case
    prefixes = Prefixes(answers)
    for prompt, (rows, mass) in enumerate(zip(answers, masses, strict=True)):
        for sample in range(len(rows)):
            found = prefixes.targets(prompt, sample, mass)
            assert dense(found) == pytest.approx(counted(rows, sample, mass), rel=1e-9, abs=0)
            assert list(found[0]) == sorted(found[0])
            np.testing.assert_allclose(
                np.bincount(found[0], found[2], len(rows[sample])), np.ones(len(rows[sample]))
            )


@given(weighed())
def test_soft_targets_have_the_mean_of_the_one_hot_targets_at_every_prefix(case):
    (rows, *_), (mass, *_) = case
    prefixes = Prefixes([rows])
    soft, hard = defaultdict(float), defaultdict(float)
    for sample, row in enumerate(rows):
        if not mass[sample]:  # never drawn
            continue
        for (position, token), share in dense(prefixes.targets(0, sample, mass)).items():
            soft[tuple(row[:position]), token] += mass[sample] * share
        for position, token in enumerate(row):
            hard[tuple(row[:position]), token] += mass[sample]
    assert soft == pytest.approx(hard, rel=1e-9)


@given(ROLLOUTS, st.data())
def test_a_rollout_that_shares_no_first_token_has_its_own_tokens_as_targets(rows, data):
    rows = [[9, *data.draw(st.lists(st.integers(0, 9), max_size=5))], *rows]
    position, token, share = Prefixes([rows]).targets(0, 0, np.ones(len(rows)))
    others = {row[0] for row in rows[1:] if row}
    inner = position > 0
    assert list(position[inner]) == list(range(1, len(rows[0])))
    assert list(token[inner]) == rows[0][1:]
    assert (share[inner] == 1).all()
    assert set(token[~inner]) == others | {9}


def test_an_answer_that_ends_leaves_the_next_token_to_those_that_go_on():
    rows = [[1, 2], [1, 2, 3], [1, 2, 4, 5], [1, 2], []]
    found = dense(Prefixes([rows]).targets(0, 2, np.array([100.0, 1.0, 3.0, 100.0, 100.0])))
    assert found == {(0, 1): 1.0, (1, 2): 1.0, (2, 3): 0.25, (2, 4): 0.75, (3, 5): 1.0}
    position, token, share = Prefixes([rows]).targets(0, 4, np.ones(5))
    assert len(position) == len(token) == len(share) == 0


def test_a_prefix_whose_mass_has_vanished_falls_back_on_the_rollout_itself():
    rows, mass = [[1, 5], [1, 6], [2, 7]], np.exp(np.array([-800.0, -800.0, 0.0]))
    found = dense(Prefixes([rows]).targets(0, 1, mass))
    assert found == {(0, 2): 1.0, (1, 6): 1.0}


def test_rollouts_may_be_arrays_and_prompts_of_unlike_counts():
    answers = [[np.array([3, 4], dtype=np.int32)], [np.array([1]), np.array([2]), np.array([])]]
    prefixes = Prefixes(answers)
    assert dense(prefixes.targets(0, 0, np.ones(1))) == {(0, 3): 1.0, (1, 4): 1.0}
    assert dense(prefixes.targets(1, 1, np.array([1, 3, 4]))) == {(0, 1): 0.25, (0, 2): 0.75}


def test_a_mass_for_other_rollouts_is_refused():
    with pytest.raises(ValueError, match="2 masses for 1 rollouts"):
        Prefixes([[[1]]]).targets(0, 0, np.ones(2))
