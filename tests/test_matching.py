"""Members matched by nearest weights."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from palette.core.matching import distances, matched


def weights(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(3), rows)


@given(st.integers(1, 12), st.integers(0, 99))
def test_a_portfolio_is_itself_in_any_order(rows, seed):
    own = weights(rows, seed)
    order = np.random.default_rng(seed).permutation(rows)
    assert matched(own, own[order]) == [
        (row, int(np.flatnonzero(order == row)[0])) for row in range(rows)
    ]


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_each_is_matched_once_and_both_ways(before, after, seed):
    old, new = weights(before, seed), weights(after, seed + 1)
    pairs = matched(old, new)
    assert 1 <= len(pairs) <= min(before, after)  # the nearest two of all are each other's nearest
    assert len({row for row, _ in pairs}) == len({row for _, row in pairs}) == len(pairs)
    assert sorted((b, a) for a, b in matched(new, old)) == sorted(pairs)


def test_what_is_far_from_all_was_dropped_or_added_not_moved():
    old = np.array([[1.0, 0, 0], [0, 1, 0]])
    new = np.array([[0.9, 0.1, 0], [0.02, 0.98, 0], [0.6, 0.4, 0], [0, 0, 1]])
    assert matched(old, new) == [(0, 0), (1, 1)]
    assert matched(new, old) == [(0, 0), (1, 1)]
    np.testing.assert_allclose(distances(old, new)[0], [0.1, 0.98, 0.4, 1])


def test_nothing_matches_nothing():
    assert (
        matched(np.empty((0, 3)), weights(2, 0)) == matched(weights(2, 0), np.empty((0, 3))) == []
    )
