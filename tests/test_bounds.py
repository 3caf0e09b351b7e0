"""The lower bound on a portfolio's size: valid cell by cell, and against exhaustive search."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palette.core.apart import far_apart
from palette.core.bounds import Cells, lower_bound, relaxations
from palette.core.covering import fewest, least, prices
from palette.core.ideal import Ideal
from palette.core.moving import Setting
from palette.core.region import Region


def world(d: int, seed: int = 0, floor: float = 0.0) -> Setting:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(4, 30, d))
    z -= 0.8 * z.mean(axis=2, keepdims=True)
    return Setting(Ideal(1 / (1 + np.exp(-2 * z)), 0.1), Region((floor,) + (0.0,) * (d - 1)))


def cut(setting: Setting, count: int) -> Cells:
    cells = Cells.of(setting, setting.region.vertices()[None])
    while len(cells.centre) < count:
        cells = Cells.of(setting, cells.halves())
    return cells


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.sampled_from([1, 8, 64, 256]))
def test_no_tangent_in_a_cell_is_worth_more_than_the_cells_reach(seed, d, count):
    setting, rng = world(d, seed % 5), np.random.default_rng(seed)
    cells = cut(setting, count)
    points = rng.dirichlet(np.ones(d), size=30)
    reach = cells.reach(points)
    for cell in rng.integers(0, len(cells.centre), size=6):
        shares = np.concatenate([rng.dirichlet(np.full(d, 0.5), size=20), np.eye(d)])
        inside = setting.planes(shares @ cells.corners[cell]).worth(points)[:, 1:]
        assert (inside.max(axis=1) <= reach[:, cell] + 1e-9).all()


def test_small_cells_reach_little_more_than_their_tangents_do():
    setting, points = world(3), world(3).region.lattice(8)
    excess = []
    for count in (64, 256, 1024, 4096):
        cells = cut(setting, count)
        excess.append(np.median(cells.reach(points) - cells.tangents().worth(points)))
    # A quarter of the cells' area is half of their length, and the excess is linear in that.
    assert all(fine < 0.75 * coarse for coarse, fine in pairwise(excess))


def test_halves_are_the_whole():
    cells = cut(world(4), 32)
    edges = cells.corners[:, 1:] - cells.corners[:, :1]
    volume = np.abs(np.linalg.det(edges[:, :, :-1])).sum()
    assert volume == pytest.approx(1.0)  # of the simplex, in units of its own parallelepiped
    assert world(4).region.contains(cells.corners).all()


@pytest.mark.parametrize(("seed", "epsilon"), [(1, 0.05), (5, 0.02)])
def test_no_fewer_tangents_than_the_bound_hold(seed, epsilon):
    setting = world(2, seed)
    bound = lower_bound(setting, epsilon)
    lattice = setting.region.lattice(14)
    assert bound >= 2
    for subset in combinations(range(len(lattice)), bound - 1):
        assert setting.shortfall(lattice[list(subset)]).epsilon().max() > epsilon


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 4), st.integers(2, 3))
def test_a_finer_epsilon_needs_no_fewer(seed, d):
    setting = world(d, seed)
    bounds = [lower_bound(setting, epsilon) for epsilon in (0.3, 0.15, 0.08)]
    assert bounds == sorted(bounds)


def test_cells_say_more_than_pairs_of_weights_far_apart():
    setting = world(3, seed=0)
    assert lower_bound(setting, 0.06) > far_apart(setting, 0.06)


def test_permuted_traits_need_as_many():
    setting = world(3, seed=2)
    turned = Setting(Ideal(setting.ideal.rewards[:, :, [2, 0, 1]], 0.1), setting.region)
    # Rows and columns come in another order, and a search that is cut short may end elsewhere.
    assert abs(lower_bound(turned, 0.08) - lower_bound(setting, 0.08)) <= 1


def test_one_trait_and_a_base_that_is_enough():
    one = Setting(Ideal(np.random.default_rng(0).uniform(size=(3, 50, 1)), 0.1), Region((0.0,)))
    assert lower_bound(one, 0.01) == 1
    flat = Setting(Ideal(np.full((2, 5, 3), 0.5), 0.1), Region((0.0,) * 3))
    assert lower_bound(flat, 0.05) == 0


def test_every_relaxation_brings_candidates_that_cover_its_points():
    setting, epsilon = world(3, seed=3), 0.06
    found = list(relaxations(setting, epsilon, setting.region.vertices()))
    assert [relaxed.bound for relaxed in found] == sorted(relaxed.bound for relaxed in found)
    for relaxed in found:
        targets = (1 - epsilon) * setting.value(relaxed.points)
        covers = relaxed.planes.worth(relaxed.points) >= targets[:, None]
        assert covers.any(axis=1).all()
        assert len(relaxed.planes) == len(relaxed.candidates)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_prices_and_bounds_of_a_cover_agree_with_exhaustive_search(seed):
    rng = np.random.default_rng(seed)
    matrix = rng.uniform(size=(12, 9)) < 0.3
    matrix[np.arange(12), rng.integers(0, 9, size=12)] = True
    need = next(
        size
        for size in range(1, 10)
        if any(matrix[:, list(s)].any(axis=1).all() for s in combinations(range(9), size))
    )
    chosen, bound = least(matrix)
    assert bound == len(chosen) == need
    assert fewest(matrix, free=(), keep=()) == (chosen, True)
    price = prices(matrix)
    assert (price @ matrix <= 1 + 1e-9).all()
    assert price.sum() <= need + 1e-9
