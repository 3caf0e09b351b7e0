"""The smallest subset of existing policies, against brute force over all subsets."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from palette.core import linear_regret, selecting
from palette.core.envelope import Planes
from palette.core.linear_regret import Contest, worst_shares
from palette.core.paired import Measured, choose, epsilon_upper
from palette.core.region import Region
from palette.core.selecting import best, smallest
from palette.core.set_cover import at_least, complete, hardest, prove, search

GIVEN = {"max_examples": 12, "deadline": None, "derandomize": True}


def contest(values, costs=None, floor=None) -> Contest:
    values = np.asarray(values, dtype=float)
    costs = np.zeros(len(values)) if costs is None else np.asarray(costs, dtype=float)
    names = tuple(f"p{number}" for number in range(len(values)))
    return Contest(Planes(names, values, costs), Region(floor or (0.0,) * values.shape[1]))


@st.composite
def contests(draw, most: int = 7, objectives: tuple[int, int] = (1, 3)) -> Contest:
    """Values in steps of 0.1, so that ties, duplicates and dominated policies are common."""
    d = draw(st.integers(*objectives))
    count = draw(st.integers(2, most))
    steps = st.lists(st.integers(0, 10), min_size=d, max_size=d)
    values = np.array(draw(st.lists(steps, min_size=count, max_size=count))) / 10
    costs = np.array(draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))) / 20
    costs[0] = 0  # someone is worth at least nothing everywhere
    floor = tuple(draw(st.sampled_from([0.0, 0.1])) for _ in range(d))
    return contest(values, costs, floor)


def slack(made: Contest, members, epsilon: float, delta: float) -> float:
    """How much more than (ε, δ) asks the members have, at worst: by mixtures, not by weights.

    They hold where, for every policy, some mixture of them is high enough at every corner of W.
    """
    heights = made.planes.worth(made.region.vertices()).T
    own, d = heights[list(members)], made.region.d
    found = []
    for target in (1 - epsilon) * heights - delta:
        answer = linprog(
            np.append(np.zeros(len(own)), -1),
            A_ub=np.hstack([-own.T, np.ones((d, 1))]),
            b_ub=-target,
            A_eq=[[1] * len(own) + [0]],
            b_eq=[1],
            bounds=[(0, None)] * len(own) + [(None, None)],
        )
        found.append(-answer.fun)
    return min(found)


def subsets(made: Contest, size: int):
    return combinations(range(len(made.planes)), size)


@settings(**GIVEN)
@given(contests(), st.sampled_from([0.0, 0.05, 0.3]), st.sampled_from([0.0, 0.03]))
def test_no_smaller_subset_holds_and_the_chosen_one_does(made, epsilon, delta):
    found = smallest(made, epsilon, delta)
    size = len(found.members)
    assert slack(made, found.members, epsilon, delta) >= -1e-7
    for members in subsets(made, size - 1) if size > 1 else ():
        assert slack(made, members, epsilon, delta) < 1e-7
    assert found.optimal and found.lower_bound == size


@settings(**GIVEN)
@given(contests(most=6), st.integers(1, 3))
def test_no_other_subset_of_the_size_is_better(made, size):
    found = best(made, size, 0.05, 0.0)
    assert len(found.members) <= size and found.optimal
    worst, _ = made.worst(found.members, 0.0)
    for members in subsets(made, min(size, len(made.planes))):
        other, _ = made.worst(np.array(members), 0.0)
        assert worst <= other + 2e-6
    if np.isfinite(worst):
        assert slack(made, found.members, worst, 0.0) >= -1e-7
    if 1e-3 < worst < 1:
        assert slack(made, found.members, worst - 1e-4, 0.0) < 0


@settings(**GIVEN)
@given(st.integers(0, 10_000), st.integers(2, 4), st.sampled_from([0.02, 0.1]))
def test_the_chosen_hold_at_every_weight_that_is_tried(seed, d, epsilon):
    rng = np.random.default_rng(seed)
    made = contest(rng.uniform(size=(40, d)), rng.uniform(0, 0.1, size=40))
    found = smallest(made, epsilon, 0.01)
    worth = made.planes.worth(rng.dirichlet(np.ones(d), size=5000))
    assert (worth[:, found.members].max(axis=1) >= (1 - epsilon) * worth.max(axis=1) - 0.01).all()
    assert found.lower_bound <= len(found.members)


@settings(**GIVEN)
@given(contests(most=12), st.integers(0, 100), st.sampled_from([0.0, 0.05]))
def test_order_and_scale_of_the_table_do_not_matter(made, seed, epsilon):
    found = smallest(made, epsilon, 0.0)
    order = np.random.default_rng(seed).permutation(len(made.planes))
    shuffled = Contest(made.planes.take(order), made.region)
    assert len(smallest(shuffled, epsilon, 0.0).members) == len(found.members)
    planes = Planes(made.planes.names, made.planes.values * 37, made.planes.costs * 37)
    assert smallest(Contest(planes, made.region), epsilon, 0.0).members.tolist() == (
        found.members.tolist()
    )


@settings(**GIVEN)
@given(contests(most=8, objectives=(2, 3)), st.integers(1, 3))
def test_linear_programs_and_exact_cells_find_the_same_worst(made, count):
    members = made.front[:count]
    by_cells = made.worst(members, 0.0)[0], made.shortfall(members, 0.0)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear_regret, "CORNERS_UP_TO", 0)
        by_programs = made.worst(members, 0.0)[0], made.shortfall(members, 0.0)[0]
    assert by_programs == pytest.approx(by_cells, abs=1e-7)


def test_without_slack_all_that_win_somewhere_are_chosen():
    angles = np.linspace(0, np.pi / 2, 9)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    beaten = 0.9 * circle
    found = smallest(contest(np.concatenate([beaten, circle])), 0.0, 0.0)
    assert found.members.tolist() == list(range(9, 18))
    assert found.optimal


def test_of_equal_policies_the_first_is_chosen():
    values = [[0.2, 0.2], [1, 0], [0, 1], [1, 0], [0, 1]]
    assert smallest(contest(values), 0.0, 0.0).members.tolist() == [1, 2]
    assert smallest(contest([[0.5, 0.5]] * 3), 0.1, 0.0).members.tolist() == [0]


def test_one_objective_needs_one_policy():
    found = smallest(contest([[0.2], [0.9], [0.9]]), 0.0, 0.0)
    assert (found.members.tolist(), found.lower_bound) == ([1], 1)


def test_the_gap_itself_passes_and_less_does_not():
    # the middle policy alone loses 0.3 of 1 at each corner
    made = contest([[1, 0], [0, 1], [0.7, 0.7]])
    assert smallest(made, 0.3, 0.0).members.tolist() == [2]
    assert len(smallest(made, 0.2999, 0.0).members) > 1
    assert smallest(made, 0.0, 0.3).members.tolist() == [2]


def test_a_policy_that_never_wins_may_still_be_the_answer():
    made = contest([[1, 0], [0, 1], [0.49, 0.49]])
    assert smallest(made, 0.0, 0.51).members.tolist() == [2]


def test_negative_worth_is_judged_by_delta():
    made = contest([[-1, -5], [-5, -1], [-2, -2]])
    assert smallest(made, 0.0, 1.0).members.tolist() == [2]
    found = best(made, 1, 0.0, 0.0)
    assert found.members.tolist() == [2]
    assert made.shortfall(found.members, 0.0)[0] * made.unit == pytest.approx(1)


def test_the_shortfall_is_found_where_qhull_gives_up(monkeypatch):
    made = contest([[1, 0], [0.95, 0], [0, 1], [0.7, 0.8]])
    monkeypatch.setattr(Contest, "_corners", lambda self, members: np.eye(2))
    # 0.05 at a corner; where the two members meet, much more
    share = 1 / 1.95
    expected = 0.7 * share + 0.8 * (1 - share) - 0.95 * share
    assert made.shortfall(np.array([1, 2]), 0.0)[0] == pytest.approx(expected)


@settings(**GIVEN)
@given(st.integers(0, 10_000))
def test_set_cover_agrees_with_brute_force(seed):
    rng = np.random.default_rng(seed)
    matrix = rng.uniform(size=(25, 9)) < 0.35
    matrix[np.arange(25), rng.integers(9, size=25)] = True
    least = next(
        size
        for size in range(1, 10)
        if any(matrix[:, list(chosen)].any(axis=1).all() for chosen in combinations(range(9), size))
    )
    start = complete(matrix, np.zeros(0, dtype=int))
    found, steps = search(matrix, start, 1, 300)
    assert matrix[:, found].any(axis=1).all() and steps <= 300
    assert len(found) == least
    assert at_least(matrix) <= least
    assert at_least(matrix[hardest(matrix)]) == at_least(matrix)
    assert prove(matrix, least, 1000) == (None, least)
    smaller, bound = prove(matrix, least + 1, 1000)
    assert matrix[:, smaller].any(axis=1).all() and len(smaller) == bound == least


def test_out_of_effort_the_choice_still_holds_and_says_what_is_proven(monkeypatch):
    rng = np.random.default_rng(1)
    sphere = np.abs(rng.normal(size=(150, 4)))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    made = contest(sphere)
    monkeypatch.setattr(selecting, "STEPS", 0)
    monkeypatch.setattr(selecting, "LARGEST_PROGRAM", 0)
    found = smallest(made, 0.05, 0.0)
    assert not found.optimal
    assert 1 < found.lower_bound < len(found.members)
    assert not len(made.violated(found.members, 0.05, 0.0))


def test_many_objectives_work():
    rng = np.random.default_rng(2)
    made = contest(rng.uniform(0.5, 1, size=(40, 12)))
    found = smallest(made, 0.15, 0.0)
    assert made.worst(found.members, 0.0)[0] <= 0.15
    worth = made.planes.worth(rng.dirichlet(np.full(12, 0.3), size=5000))
    assert (worth[:, found.members].max(axis=1) >= 0.85 * worth.max(axis=1)).all()


@settings(**GIVEN)
@given(contests(objectives=(2, 4)))
def test_a_mixture_makes_up_for_as_much_as_the_worst_weights_lose(made):
    heights = made.heights[made.front[:2]]
    shares, mixtures = worst_shares(made.heights, heights)
    lost = (shares * made.heights).sum(axis=1) - (shares @ heights.T).max(axis=1)
    short = (made.heights - mixtures @ heights).max(axis=1)
    assert short == pytest.approx(lost, abs=1e-8)


def measured(rng, planes: Planes, prompts: int) -> Measured:
    """Noise that the policies of a prompt share, and a little of their own."""
    count, d = planes.values.shape
    noise = rng.normal(0, 0.1, size=(1, prompts, d)) + rng.normal(0, 0.05, size=(count, prompts, d))
    return Measured(planes.names, planes.values[:, None] + noise, np.zeros((count, prompts)))


def test_a_choice_that_does_not_hold_is_seldom_certified():
    rng = np.random.default_rng(0)
    made = contest([[0.9, 0.3], [0.3, 0.9], [0.645, 0.645], [0.5, 0.5]])
    wrong = certified = 0
    for _ in range(30):
        choosing, certifying = measured(rng, made.planes, 50), measured(rng, made.planes, 50)
        # without the third policy the loss is 7 % in the middle
        choice, claim = choose(choosing, made.region, 0.06, 0.0, 0.95, None, lambda line: None)
        upper = epsilon_upper(claim.bound(certifying, 0.95), 0.06)
        wrong += upper < made.worst(choice.members, 0.0)[0]
        certified += upper <= 0.06
    assert wrong <= 4  # 1.5 expected at most
    assert certified >= 20
