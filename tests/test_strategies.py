"""The strategies beside minimal, PALM's grid and its pruning, against what they promise."""

from itertools import combinations

import numpy as np
import pytest

from palette.core import palm
from palette.core.bounds import lower_bound
from palette.core.ideal import Ideal
from palette.core.moving import Setting, hundredths
from palette.core.planning import lazy
from palette.core.region import Region
from palette.core.strategies import Asked, choose, prefix, random, uniform, worst_first
from palette.errors import PaletteError

NONE = {d: np.empty((0, d)) for d in (1, 2, 3)}
PINS = np.array([[0.31, 0.42, 0.27], [0.0, 0.07, 0.93]])
OTHERS = ["lazy", "palm-grid", "uniform", "random"]


def world(d: int, seed: int = 0, floor: float = 0.0) -> Setting:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(5, 40, d))
    z -= 0.8 * z.mean(axis=2, keepdims=True)
    return Setting(Ideal(1 / (1 + np.exp(-2 * z)), 0.1), Region((floor,) + (0.0,) * (d - 1)))


def worst_on_grid(setting: Setting, weights: np.ndarray, steps: int = 80) -> float:
    grid = setting.region.lattice(steps)
    return float((1 - setting.planes(weights).worth(grid).max(axis=1) / setting.value(grid)).max())


def rows(weights: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(row) for row in np.rint(100 * weights).astype(int)}


@pytest.mark.parametrize("strategy", OTHERS)
@pytest.mark.parametrize("floor", [0.0, 0.2])
def test_every_strategy_holds_epsilon_and_says_what_it_reaches(strategy, floor):
    setting = world(3, floor=floor)
    plan = choose(setting, Asked(strategy, 0.06, NONE[3]))
    on_grid = worst_on_grid(setting, plan.weights)
    assert on_grid <= plan.reached + 1e-9 <= 0.06 + 2e-9
    assert plan.reached - on_grid < 0.01
    assert plan.lower_bound == lower_bound(setting, 0.06) <= len(plan.weights)
    assert np.array_equal(plan.weights, hundredths(plan.weights))
    assert len(rows(plan.weights)) == len(plan.weights)
    assert not plan.pinned.any()


@pytest.mark.parametrize("strategy", OTHERS)
@pytest.mark.parametrize("most", [None, 7])
def test_pinned_weights_come_first_with_every_strategy(strategy, most):
    plan = choose(world(3), Asked(strategy, 0.06, PINS, most))
    assert np.array_equal(plan.weights[:2], PINS)
    assert plan.pinned.tolist() == [True, True] + [False] * (len(plan.weights) - 2)


@pytest.mark.parametrize("strategy", OTHERS)
def test_a_budget_is_kept_and_more_of_it_serves_better(strategy):
    setting = world(3)
    small, large = (choose(setting, Asked(strategy, 0.001, NONE[3], most)) for most in (4, 10))
    assert 3 <= len(small.weights) <= 4 < len(large.weights) <= 10
    assert large.reached < small.reached
    for plan in (small, large):
        on_grid = worst_on_grid(setting, plan.weights)
        assert on_grid <= plan.reached + 1e-9
        assert plan.reached - on_grid < 0.02
        assert plan.lower_bound <= len(plan.weights)


def test_lazy_within_a_budget_is_the_start_of_lazy_without():
    setting = world(3, seed=1)
    first = worst_first(setting, Asked("lazy", 0.04, PINS, 6))
    assert len(first) == 6
    assert np.array_equal(first, lazy(setting, 0.04, PINS).weights[:6])


def test_random_is_one_sequence_for_each_seed_and_stops_where_epsilon_holds():
    setting = world(3)
    coarse, fine = (random(setting, Asked("random", epsilon, NONE[3])) for epsilon in (0.1, 0.04))
    assert 1 < len(coarse) < len(fine)
    assert np.array_equal(fine[: len(coarse)], coarse)
    assert setting.shortfall(fine).epsilon().max() <= 0.04
    assert setting.shortfall(fine[:-1]).epsilon().max() > 0.04
    other = random(setting, Asked("random", 0.04, NONE[3], seed=1))
    assert rows(other) != rows(fine)


def test_the_shortest_start_of_a_sequence_is_found():
    setting = world(2)
    sequence = hundredths(np.random.default_rng(0).dirichlet(np.ones(2), size=40))
    reached = [setting.shortfall(sequence[:k]).epsilon().max() for k in range(41)]
    for epsilon in (0.3, 0.05, 0.02, 0.01):
        short = [k for k in range(41) if reached[k] <= epsilon]
        assert prefix(setting, sequence, epsilon, 0) == (short[0] if short else None)


def test_uniform_is_the_coarsest_lattice_that_holds():
    setting = world(3)
    weights = uniform(setting, Asked("uniform", 0.05, NONE[3]))
    steps = next(n for n in range(1, 50) if (n + 1) * (n + 2) // 2 == len(weights))
    assert setting.shortfall(weights).epsilon().max() <= 0.05
    for coarser in range(1, steps):
        lattice = hundredths(setting.region.lattice(coarser))
        assert setting.shortfall(lattice).epsilon().max() > 0.05


@pytest.mark.parametrize("strategy", [*OTHERS, "minimal"])
def test_a_base_or_pins_that_hold_need_no_training(strategy):
    rewards = np.full((2, 5, 2), 0.5) + np.linspace(0, 0.001, 5)[:, None]
    good = Setting(Ideal(rewards, 0.1), Region((0.0, 0.0)))
    assert len(choose(good, Asked(strategy, 0.05, NONE[2])).weights) == 0
    pins = hundredths(np.linspace([0, 1], [1, 0], 21))
    assert len(choose(world(2), Asked(strategy, 0.05, pins)).weights) == 21


@pytest.mark.parametrize("strategy", OTHERS)
def test_one_trait_has_one_weight(strategy):
    setting = Setting(Ideal(np.random.default_rng(0).uniform(size=(3, 50, 1)), 0.1), Region((0.0,)))
    for most in (None, 3):
        assert choose(setting, Asked(strategy, 0.01, NONE[1], most)).weights.tolist() == [[1.0]]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Asked("minimal", 0.05, PINS, 1), "plan.max_members is 1, but plan.pinned names 2 weights"),
        (Asked("uniform", 0.05, NONE[3], 2), "coarsest uniform lattice"),
        (Asked("palm-grid", 0.05, NONE[3], 2), "coarsest grid of PALM"),
        (Asked("palm-grid", 0.0005, NONE[3]), "needs about .* trainings"),
        (Asked("random", 1e-6, NONE[3]), "random weights do not hold plan.epsilon 1e-06"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_sentence(asked, words):
    with pytest.raises(PaletteError, match=words) as refused:
        choose(world(3), asked)
    assert "\n" not in str(refused.value)


def test_a_trait_that_no_answer_shows_leaves_palm_without_a_grid():
    rewards = world(3).ideal.rewards.copy()
    rewards[:, :, 2] = 0.0
    setting = Setting(Ideal(rewards, 0.1), Region((0.0,) * 3))
    with pytest.raises(PaletteError, match=r"give portfolio\.delta"):
        choose(setting, Asked("palm-grid", 0.05, NONE[3]))
    assert len(choose(setting, Asked("palm-grid", 0.3, NONE[3], delta=0.1)).weights) > 10


def test_palms_bound_is_the_number_of_points_of_its_grid():
    for d, epsilon, about in (
        (2, 0.05, 110),
        (3, 0.05, 14_000),
        (3, 0.02, 84_000),
        (3, 0.01, 330_000),
    ):
        assert palm.palm_bound(d, epsilon, 0.01) == pytest.approx(about, rel=0.08)
        steps = palm.levels(d, epsilon, 0.01)
        assert palm.grid_size(d, 0.01, steps) == pytest.approx(about, rel=0.08)
    assert palm.palm_bound(3, 0.05, 0.0) == float("inf")
    assert palm.palm_bound(1, 0.05, 0.0) == 1


@pytest.mark.parametrize("d", [1, 2, 3, 4])
def test_every_weight_has_a_point_of_the_grid_a_step_below(d):
    epsilon, delta = 0.3, 0.1
    steps = palm.levels(d, epsilon, delta)
    grid = palm.grid(Region((0.0,) * d), delta, steps)
    assert len(grid) == palm.grid_size(d, delta, steps) == len(np.unique(grid, axis=0))
    assert np.allclose(grid.sum(axis=1), 1)
    for own in np.random.default_rng(d).dirichlet(np.ones(d), size=50):
        free, points = own[:-1], grid[:, :-1]
        near = (points <= free + 1e-12) & (points * (1 + epsilon) >= free - 1e-12)
        near |= (points == 0) & (free < delta / d)
        assert near.all(axis=1).any()


def test_half_of_epsilon_pays_for_a_delta_that_is_not_given():
    setting = world(3, floor=0.1)
    least = palm.least_ideal(setting)
    on_grid = setting.value(setting.region.lattice(60)).min()
    assert on_grid - 0.002 < least <= on_grid
    assert palm.allowance(setting, 0.05, 0.0) == (0.025, pytest.approx(0.025 * least))
    assert palm.allowance(setting, 0.05, 0.02) == (0.05, 0.02)


def test_pruning_a_grid_keeps_what_holds_and_the_exact_way_no_more():
    setting, epsilon = world(3), 0.05
    grid = palm.grid(setting.region, 0.1, 12)
    planes = setting.ideal.tangents(grid, tuple(map(str, range(len(grid)))))
    greedily = palm.prune_greedy(setting, planes, epsilon)
    exactly, _ = palm.prune_exact(setting, planes, epsilon)
    assert 1 < len(exactly) <= len(greedily) < len(grid) // 4
    for kept in (greedily, exactly):
        assert worst_on_grid(setting, grid[kept]) <= epsilon + 1e-9


def test_exact_pruning_is_proven_and_right_where_brute_force_reaches():
    setting, epsilon = world(2, seed=3), 0.03
    grid = hundredths(setting.region.lattice(12))
    planes = setting.ideal.tangents(grid, tuple(map(str, range(len(grid)))))
    kept, proven = palm.prune_exact(setting, planes, epsilon)
    fewer = combinations(range(len(grid)), len(kept) - 1)
    assert proven
    assert setting.shortfall(grid[kept]).epsilon().max() <= epsilon
    assert all(setting.shortfall(grid[list(k)]).epsilon().max() > epsilon for k in fewer)


def test_pruning_says_when_a_grid_does_not_hold():
    setting = world(2)
    planes = setting.ideal.tangents(np.array([[1.0, 0.0]]), ("one",))
    with pytest.raises(ValueError, match="do not hold"):
        palm.prune_greedy(setting, planes, 0.01)
