"""Cells of the envelope, against brute force over dense grids."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palette.core.envelope import Planes, cells, pairs
from palette.core.region import Region


def planes_of(rng: np.random.Generator, count: int, d: int) -> Planes:
    names = tuple(f"m{k}" for k in range(count))
    return Planes(names, rng.uniform(size=(count, d)), rng.uniform(0, 0.2, size=count))


def inside(cell_planes: Planes, member: int, weights: np.ndarray) -> bool:
    worth = cell_planes.worth(weights)
    return bool((worth[..., member] >= worth.max(axis=-1) - 1e-7).all())


@pytest.mark.parametrize("d", [2, 3, 4])
@pytest.mark.parametrize("floor", [0.0, 0.15])
def test_the_largest_regret_over_a_dense_grid_is_at_a_vertex(d, floor):
    rng = np.random.default_rng(d)
    planes = planes_of(rng, 9, d)
    region = Region((floor,) + (0.0,) * (d - 1))
    points = rng.uniform(size=(40, d))

    def convex(weights):
        return 0.1 * np.log(np.exp(weights @ points.T / 0.1).mean(axis=-1)) + 0.4

    weights, members = pairs(cells(planes, region))
    assert region.contains(weights).all()
    at_vertices = convex(weights) - planes.worth(weights)[np.arange(len(members)), members]
    grid = region.lattice({2: 5000, 3: 150, 4: 40}[d])
    on_grid = convex(grid) - planes.worth(grid).max(axis=1)
    assert at_vertices.max() >= on_grid.max() - 1e-12
    # The vertices are in W, so nothing above the truth can come of them.
    assert at_vertices.max() == pytest.approx(
        (convex(weights) - planes.worth(weights).max(axis=1)).max(), abs=1e-9
    )


@pytest.mark.parametrize("d", [2, 3, 4, 8])
def test_cells_tile_the_region(d):
    rng = np.random.default_rng(10 + d)
    planes, region = planes_of(rng, 12, d), Region((0.05,) * d)
    found = {cell.member: cell.vertices for cell in cells(planes, region)}
    assert all(inside(planes, member, vertices) for member, vertices in found.items())
    shares = rng.dirichlet(np.ones(d), size=4000)
    inner = region.spread(shares)
    np.testing.assert_allclose(region.shares(inner), shares, atol=1e-12)
    assert set(planes.best(inner)) <= set(found)


@pytest.mark.parametrize("d", [2, 3])
def test_the_cells_volumes_add_up_to_the_region(d):
    from scipy.spatial import ConvexHull

    planes, region = planes_of(np.random.default_rng(3), 15, d), Region((0.1,) + (0,) * (d - 1))

    def volume(corners):
        free = corners[:, :-1]
        return np.ptp(free) if d == 2 else ConvexHull(free).volume

    total = sum(volume(cell.vertices) for cell in cells(planes, region))
    assert total == pytest.approx(volume(region.vertices()), rel=1e-9)


def test_one_trait_has_one_cell_of_one_point():
    planes = Planes(("a", "b"), np.array([[0.4], [0.9]]), np.array([0.0, 0.2]))
    (cell,) = cells(planes, Region((0.0,)))
    assert cell.member == 1
    assert cell.vertices.tolist() == [[1.0]]


def test_a_single_member_has_the_whole_region():
    region = Region((0.1, 0.0, 0.2))
    (cell,) = cells(Planes(("a",), np.array([[0.2, 0.3, 0.4]]), np.array([0.5])), region)
    assert np.allclose(cell.vertices, region.vertices())


def test_duplicates_losers_and_touching_members_have_no_cell():
    values = np.array([[1, 0], [1, 0], [0, 1], [0.1, 0.1], [0.5, 0.5]], dtype=float)
    planes = Planes(("a", "twin", "b", "loser", "touches"), values, np.zeros(5))
    assert [cell.member for cell in cells(planes, Region((0.0, 0.0)))] == [0, 2]


def test_negative_planes_and_all_equal_planes():
    region = Region((0.0, 0.0, 0.0))
    negative = Planes(("a", "b"), -np.eye(3)[:2], np.array([3.0, 3.0]))
    assert {cell.member for cell in cells(negative, region)} == {0, 1}
    equal = Planes(("a", "b"), np.full((2, 3), 0.3), np.zeros(2))
    assert [cell.member for cell in cells(equal, region)] == [0]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(2, 8))
def test_permuting_the_traits_permutes_the_cells(seed, d, count):
    rng = np.random.default_rng(seed)
    planes, order = planes_of(rng, count, d), rng.permutation(d)
    turned = Planes(planes.names, planes.values[:, order], planes.costs)
    region = Region((0.0,) * d)
    plain = {cell.member: cell.vertices[:, order] for cell in cells(planes, region)}
    permuted = {cell.member: cell.vertices for cell in cells(turned, region)}
    assert plain.keys() == permuted.keys()
    for member, vertices in plain.items():
        near = np.abs(vertices[:, None] - permuted[member][None]).max(axis=-1).min(axis=1)
        assert near.max() < 1e-6


def test_eight_traits_and_64_members_are_in_reach():
    planes = planes_of(np.random.default_rng(0), 64, 8)
    weights, members = pairs(cells(planes, Region((0.0,) * 8)))
    short = planes.worth(weights).max(axis=1) - planes.worth(weights)[range(len(members)), members]
    assert short.max() < 1e-7


@pytest.mark.parametrize("floor", [(0.6, 0.4), (-0.1, 0.0), ()])
def test_floors_that_leave_nothing_are_refused(floor):
    with pytest.raises(ValueError, match="floors"):
        Region(floor)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6), st.sampled_from(["coarse", "twins", "lattice"]))
def test_degenerate_planes_leave_no_part_of_the_region_out(seed, d, kind):
    rng = np.random.default_rng(seed)
    if kind == "coarse":  # many planes meet in one point
        values, costs = (rng.uniform(size=(12, d)) > 0.5).astype(float), np.zeros(12)
    elif kind == "twins":  # equal but for rounding
        values = np.tile(rng.uniform(size=(6, d)), (2, 1))
        values += 10.0 ** -rng.integers(8, 16) * rng.normal(size=values.shape)
        costs = np.tile(rng.uniform(0, 0.2, size=6), 2)
    else:  # tangents of a parabola at evenly spaced weights
        values = Region((0.0,) * d).lattice(2)
        costs = (values**2).sum(axis=1) / 2
    planes = Planes(tuple(map(str, range(len(values)))), values, costs)
    region = Region(tuple(rng.uniform(0, 0.9 / d, size=d) * rng.integers(2, size=d)))
    found = cells(planes, region)
    weights, members = pairs(found)
    worth = planes.worth(weights)
    assert region.contains(weights).all()
    assert (worth.max(axis=1) - worth[range(len(members)), members]).max() < 1e-7
    inner = region.spread(rng.dirichlet(np.ones(d), size=500))
    kept = [cell.member for cell in found]
    assert (planes.worth(inner).max(axis=1) - planes.worth(inner)[:, kept].max(axis=1)).max() < 1e-8
    # What is convex on every cell is nowhere larger than at the cells' vertices.
    points = rng.uniform(size=(5, d))
    above = np.exp(weights @ points.T).sum(axis=1) - worth[range(len(members)), members]
    inside = np.exp(inner @ points.T).sum(axis=1) - planes.worth(inner).max(axis=1)
    assert inside.max() <= above.max() + 1e-7
