"""Plans, covers and lower bounds on finite worlds, against brute force."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palette.core.covering import cover, shortfall
from palette.core.ideal import Ideal
from palette.core.moving import Setting, hundredths, move
from palette.core.planning import budgeted, lazy, lower_bound, minimal
from palette.core.region import Region
from palette.core.set_cover import complete
from palette.errors import PaletteError

NONE = {d: np.empty((0, d)) for d in (1, 2, 3, 4)}


def world(d: int, seed: int = 0, floor: float = 0.0) -> Setting:
    """A few prompts whose traits pull against each other."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(5, 40, d))
    z -= 0.8 * z.mean(axis=2, keepdims=True)
    rewards = 1 / (1 + np.exp(-2 * z))
    return Setting(Ideal(rewards, 0.1), Region((floor,) + (0.0,) * (d - 1)))


def worst_on_grid(setting: Setting, weights: np.ndarray, steps: int) -> float:
    grid = setting.region.lattice(steps)
    worth, ideal = setting.planes(weights).worth(grid).max(axis=1), setting.value(grid)
    return float((1 - worth[ideal > 1e-9] / ideal[ideal > 1e-9]).max())


@pytest.mark.parametrize(("d", "steps"), [(2, 2000), (3, 80), (4, 24)])
@pytest.mark.parametrize("strategy", ["minimal", "lazy"])
def test_a_plan_holds_on_a_dense_grid_and_reaches_what_it_says(d, steps, strategy):
    setting, epsilon = world(d), {2: 0.01, 3: 0.04, 4: 0.08}[d]
    plan = (
        minimal(setting, epsilon, NONE[d], 12)
        if strategy == "minimal"
        else lazy(setting, epsilon, NONE[d])
    )
    on_grid = worst_on_grid(setting, plan.weights, steps)
    assert on_grid <= plan.reached + 1e-9 <= epsilon + 2e-9
    # f* changes little between neighbours of a dense grid, so the exact worst is near the grid's.
    assert plan.reached - on_grid < 0.01
    assert 1 <= plan.lower_bound <= len(plan.weights)
    assert np.array_equal(plan.weights, hundredths(plan.weights))
    assert np.allclose(plan.weights.sum(axis=1), 1)


def test_minimal_needs_no_more_than_the_best_subset_of_a_small_lattice():
    setting, epsilon = world(2, seed=3), 0.02
    lattice = hundredths(setting.region.lattice(10))
    need = next(
        size
        for size in range(len(lattice) + 1)
        for subset in combinations(range(len(lattice)), size)
        if setting.shortfall(lattice[list(subset)]).epsilon().max() <= epsilon
    )
    plan = minimal(setting, epsilon, NONE[2], 10)
    assert plan.lower_bound <= len(plan.weights) <= need
    chosen = cover(
        setting.planes(lattice), setting.region, setting.value, lattice[:2], epsilon, free=(0,)
    )
    assert chosen.optimal
    assert len(chosen.members) == need


def test_lazy_is_nested_and_minimal_is_never_larger():
    setting = world(3, seed=1)
    coarse, fine = (lazy(setting, epsilon, NONE[3]).weights for epsilon in (0.06, 0.03))
    assert len(coarse) < len(fine)
    assert np.array_equal(fine[: len(coarse)], coarse)
    assert len(minimal(setting, 0.03, NONE[3], 12).weights) <= len(fine)


def test_a_budget_is_kept_and_more_members_reach_a_finer_epsilon():
    setting, pinned = world(3, seed=1), np.array([[0.2, 0.3, 0.5]])
    plans = [budgeted(setting, most, pinned, 8) for most in (1, 2, 4)]
    for plan, most in zip(plans, (1, 2, 4), strict=True):
        assert len(plan.weights) == most >= plan.lower_bound
        assert np.array_equal(plan.weights[0], pinned[0])
        assert plan.reached == setting.shortfall(plan.weights).epsilon().max()
    assert plans[0].reached > plans[1].reached > plans[2].reached
    # Nearly as good as what the search for the fewest reaches with as many, and far above lazy.
    fewest = minimal(setting, plans[2].reached, pinned, 8)
    assert len(fewest.weights) in (3, 4)
    first = lazy(setting, plans[2].reached, pinned).weights[:4]
    assert setting.shortfall(first).epsilon().max() > plans[2].reached


def test_a_budget_of_nothing_is_the_base_and_one_below_the_pinned_is_refused():
    setting = world(2)
    plan = budgeted(setting, 0, NONE[2], 8)
    assert len(plan.weights) == plan.lower_bound == 0
    assert plan.reached == setting.shortfall(NONE[2]).epsilon().max()
    with pytest.raises(PaletteError, match="max_members is 1, but 2 weights are pinned"):
        budgeted(setting, 1, np.array([[0.2, 0.8], [0.8, 0.2]]), 8)


def test_pinned_weights_that_hold_already_are_the_plan():
    setting = world(2)
    pinned = minimal(setting, 0.03, NONE[2], 12).weights
    plan = minimal(setting, 0.03, pinned, 12)
    assert np.array_equal(plan.weights, pinned)
    assert plan.pinned.all()


def test_permuted_traits_need_at_most_one_more_or_less():
    setting = world(3, seed=4)
    turned = Setting(Ideal(setting.ideal.rewards[:, :, [1, 2, 0]], 0.1), setting.region)
    sizes = [len(minimal(world, 0.06, NONE[3], 10).weights) for world in (setting, turned)]
    assert abs(sizes[0] - sizes[1]) <= 1


def test_pinned_weights_come_first_and_stay():
    setting, pinned = world(3), np.array([[0.31, 0.42, 0.27], [0.0, 0.07, 0.93]])
    for plan in (minimal(setting, 0.05, pinned, 10), lazy(setting, 0.05, pinned)):
        assert np.array_equal(plan.weights[:2], pinned)
        assert plan.pinned.tolist() == [True, True] + [False] * (len(plan.weights) - 2)
        assert plan.reached <= 0.05


def test_a_base_that_is_good_enough_needs_no_training():
    rewards = np.full((2, 5, 2), 0.5) + np.linspace(0, 0.001, 5)[:, None]
    setting = Setting(Ideal(rewards, 0.1), Region((0.0, 0.0)))
    for plan in (minimal(setting, 0.05, NONE[2], 5), lazy(setting, 0.05, NONE[2])):
        assert (len(plan.weights), plan.lower_bound) == (0, 0)


def test_one_trait_needs_one_training():
    setting = Setting(Ideal(np.random.default_rng(0).uniform(size=(3, 50, 1)), 0.1), Region((0.0,)))
    for plan in (minimal(setting, 0.01, NONE[1], 5), lazy(setting, 0.01, NONE[1])):
        assert plan.weights.tolist() == [[1.0]]
        assert plan.lower_bound == 1


@pytest.mark.parametrize("seed", range(4))
def test_a_trait_that_no_answer_shows_asks_for_no_member(seed):
    rewards = world(3, seed).ideal.rewards.copy()
    rewards[:, :, 2] = 0.0
    setting = Setting(Ideal(rewards, 0.1), Region((0.0,) * 3))
    for plan in (minimal(setting, 0.05, NONE[3], 10), lazy(setting, 0.05, NONE[3])):
        assert plan.reached <= 0.05 + 1e-9
        assert worst_on_grid(setting, plan.weights, 61) <= 0.05 + 1e-9
        assert not (plan.weights[:, 2] == 1).any()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("d", [1, 3])
def test_where_nothing_can_be_gained_the_base_is_enough(d, seed):
    """All answers of a prompt are alike: f* is the base's own worth, but for the noise of floats."""
    rewards = np.random.default_rng(seed).random((5, 1, d)).repeat(40, axis=1)
    setting = Setting(Ideal(rewards, 0.1), Region((0.0,) * d))
    for plan in (minimal(setting, 0.05, NONE[d], 10), lazy(setting, 0.05, NONE[d])):
        assert (len(plan.weights), plan.lower_bound) == (0, 0)
    for one in (world(1, seed), setting):
        assert budgeted(one, 1, np.empty((0, one.region.d)), 10).reached <= 1e-9


def test_a_row_in_no_column_is_no_cover():
    with pytest.raises(ValueError, match="no column"):
        complete(np.array([[True, False], [False, False]]), np.arange(0))


def test_floors_need_fewer_members():
    free, floored = world(3), world(3, floor=0.5)
    plan = minimal(floored, 0.03, NONE[3], 10)
    assert len(plan.weights) < len(minimal(free, 0.03, NONE[3], 10).weights)
    assert worst_on_grid(floored, plan.weights, 60) <= 0.03 + 1e-9


def test_the_lower_bound_holds_for_every_subset_of_a_lattice():
    setting, epsilon = world(2, seed=5), 0.02
    bound = lower_bound(setting, epsilon)
    lattice = setting.region.lattice(12)
    assert bound >= 2
    for subset in combinations(range(len(lattice)), bound - 1):
        assert setting.shortfall(lattice[list(subset)]).epsilon().max() > epsilon


def test_moving_lowers_the_worst_regret():
    setting = world(3, seed=2)
    start = np.array([[0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.2, 0.2, 0.6], [0.34, 0.33, 0.33]])
    fixed = np.array([True, False, False, False])
    moved, _ = move(setting, start, fixed, epsilon=1e-6)
    before, after = (setting.shortfall(weights).epsilon().max() for weights in (start, moved))
    assert after < 0.8 * before
    assert np.array_equal(moved[0], start[0])


def test_what_no_candidate_covers_is_named():
    setting = world(2)
    planes = setting.planes(np.array([[1.0, 0.0]]))
    found = cover(planes, setting.region, setting.value, np.eye(2), 0.01, free=(0,))
    assert found.missing.tolist() == [[0.0, 1.0]]
    assert found.members == ()


def test_an_epsilon_finer_than_hundredths_is_refused():
    with pytest.raises(PaletteError, match="finer than weights in hundredths"):
        lazy(world(2), 1e-7, NONE[2])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 3))
def test_adding_a_member_never_raises_the_worst_regret(seed, d):
    setting = world(d, seed=seed % 7)
    weights = np.random.default_rng(seed).dirichlet(np.ones(d), size=4)
    regrets = [setting.shortfall(weights[:count]).epsilon().max() for count in range(5)]
    assert all(np.diff(regrets) <= 1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4))
def test_epsilon_equal_to_the_gap_passes_and_less_fails(seed, d):
    rng = np.random.default_rng(seed)
    setting = world(d, seed=seed % 5)
    short = shortfall(
        setting.planes(rng.dirichlet(np.ones(d), size=3)), setting.region, setting.value
    )
    gap = short.epsilon().max()
    assert not short.violated(gap, 0.0).any()
    assert short.violated(gap - 1e-6, 0.0).any()
    delta = (short.ideal - short.worth).max()
    assert short.epsilon(delta).max() <= 1e-12


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=8).filter(lambda part: sum(part) > 0.1))
def test_hundredths_add_up_and_stay_near(part):
    weights = np.array([part]) / sum(part)
    rounded = hundredths(weights)
    assert np.rint(rounded * 100).sum() == 100
    assert (rounded >= 0).all()
    assert np.abs(rounded - weights).max() < 0.01 + 1e-9


def test_greedy_covers_every_row():
    matrix = np.random.default_rng(0).uniform(size=(30, 10)) < 0.3
    matrix[:, 0] |= ~matrix.any(axis=1)
    assert matrix[:, complete(matrix, np.arange(0))].any(axis=1).all()
