"""Clusters of users: planted ones are found, what is unknown is left out, newcomers move nobody."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palette.core import grouping

CENTRES = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
SIZES = (9, 6, 12)


def planted(seed: int, spread: float = 0.03) -> tuple[np.ndarray, np.ndarray]:
    """Weights of three clusters of users, and each user's cluster."""
    rng = np.random.default_rng(seed)
    own = np.repeat(np.arange(3), SIZES)
    return CENTRES[own] + spread * rng.normal(size=(len(own), 3)), own


def told(own: np.ndarray, seed: int, size: float) -> np.ndarray:
    """Embeddings (users, 20) in which the users of one cluster said the same."""
    rng = np.random.default_rng(seed)
    return size * rng.normal(size=(own.max() + 1, 20))[own] + 5


def parts(names: list[str]) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(np.array(names) == name)) for name in set(names)}


@pytest.mark.parametrize("seed", range(3))
def test_planted_clusters_and_their_number_are_found_the_largest_first(seed):
    weights, own = planted(seed)
    found = grouping.find(weights, 8, 0)
    assert found.names == ("c0", "c1", "c2")
    assert max(found.silhouettes, key=found.silhouettes.get) == 3
    assert np.abs(found.centres - CENTRES[[2, 0, 1]]).max() < 0.05
    names = found.nearest(weights)
    assert [names.count(name) for name in found.names] == [12, 9, 6]
    assert parts(names) == parts([str(place) for place in own])


def test_the_number_stays_within_what_is_allowed():
    assert len(grouping.find(planted(0)[0], 2, 0).names) == 2


@pytest.mark.parametrize(
    "points",
    [
        np.zeros((0, 3)),
        CENTRES,  # three users are too few
        np.full((9, 3), 1 / 3),
        np.random.default_rng(0).normal(size=(60, 30)),
    ],
    ids=["nobody", "few", "alike", "cloud"],
)
def test_where_nothing_separates_there_is_one_cluster(points):
    found = grouping.find(points, 4, 0)
    assert found.names == ("c0",)
    assert found.centres[0] == pytest.approx(points.mean(0) if len(points) else 0, abs=1e-9)
    assert found.nearest(np.ones((2, points.shape[1]))) == ["c0", "c0"]


def test_the_order_of_users_and_the_run_change_nothing():
    weights, _ = planted(1)
    order = np.random.default_rng(0).permutation(len(weights))
    first, again, mixed = (grouping.find(w, 8, 0) for w in (weights, weights, weights[order]))
    assert np.array_equal(first.centres, again.centres)
    assert np.abs(first.centres - mixed.centres).max() < 1e-12
    assert np.array(first.nearest(weights))[order].tolist() == mixed.nearest(weights[order])


def test_insights_have_a_stated_part_of_the_weights_variance_whatever_their_scale():
    weights, own = planted(2)
    for size in (1e-3, 1.0, 1e3):
        embeddings = told(own, 0, size)
        points = grouping.learn_space(weights, embeddings)(weights, embeddings)
        assert points.shape == (len(weights), 5)  # three insights vary in two components
        ratio = points[:, 3:].var(0).sum() / weights.var(0).sum()
        assert ratio == pytest.approx(grouping.INSIGHT, rel=1e-6)
        assert np.abs(points[:, 3:].mean(0)).max() < 1e-6


def test_insights_tell_apart_users_whose_weights_agree():
    rng = np.random.default_rng(0)
    weights = np.full((24, 3), 1 / 3) + 0.05 * rng.normal(size=(24, 3))
    own = np.arange(24) % 2
    embeddings = told(own, 1, 1.0)
    space = grouping.learn_space(weights, embeddings)
    assert len(space.axes) == 1
    apart = np.abs(space(weights, embeddings)[:, 3] * np.where(own, 1, -1))
    assert apart.min() > 0.9 * apart.max() > 0  # both insights, on either side of the middle


def test_insights_do_not_outvote_the_weights():
    weights, own = planted(3)
    embeddings = told(np.random.default_rng(5).permutation(own), 6, 1e3)
    points = grouping.learn_space(weights, embeddings)(weights, embeddings)
    by_both = grouping.find(points, 3, 0).nearest(points)
    assert parts(by_both) == parts([str(place) for place in own])


@pytest.mark.parametrize("same", [True, False], ids=["alike", "unknown"])
def test_insights_that_say_nothing_add_no_coordinates(same):
    weights, own = planted(4)
    embeddings = np.full((len(own), 20), 3.7 if same else np.nan)
    assert grouping.learn_space(weights, embeddings)(weights, embeddings).shape == weights.shape


def test_a_user_without_an_insight_goes_by_the_weights_alone():
    weights, own = planted(5)
    embeddings = told(own, 2, 1.0)
    space = grouping.learn_space(weights, embeddings)
    points = space(weights, embeddings)
    found = grouping.find(points, 8, 0)
    lost = points.copy()
    lost[:, 3:] = np.nan
    assert found.nearest(lost) == found.nearest(points)
    some = points.copy()
    some[::4, 3:] = np.nan
    assert grouping.find(some, 8, 0).nearest(some) == found.nearest(points)


@settings(max_examples=25, deadline=None)
@given(
    newcomer=st.lists(st.floats(0, 1), min_size=3, max_size=3),
    place=st.integers(0, 27),
    told_too=st.booleans(),
)
def test_one_more_unseen_user_changes_nobody(newcomer, place, told_too):
    weights, own = planted(6)
    embeddings = told(own, 3, 1.0)
    space = grouping.learn_space(weights, embeddings)
    points = space(weights, embeddings)
    found = grouping.find(points, 8, 0)
    added = space(np.array([newcomer]), np.full((1, 20), 0.5 if told_too else np.nan))
    names = found.nearest(np.insert(points, place, added[0], axis=0))
    assert names.pop(place) in found.names
    assert names == found.nearest(points)
