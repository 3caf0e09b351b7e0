"""Branch and bound over W, in worlds whose worst regret is known by other means."""

import tracemalloc

import numpy as np
import pytest

from palette.checking.branching import _Search, contenders, worst_regret
from palette.errors import PaletteError

BETA = 0.2


class World:
    """One prompt of few responses: f* is exact, and policies are ideal ones that fall a bit short."""

    def __init__(self, d: int, members: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.rewards = rng.uniform(size=(30, d))
        self.corners = np.eye(d)
        worths = [self.rewards.mean(axis=0)]
        for weights in rng.dirichlet(np.ones(d), size=members):
            tilted = np.exp(self.rewards @ weights / BETA)
            tilted /= tilted.sum()
            kl = float((tilted * np.log(tilted * 30)).sum())
            worths.append(tilted @ self.rewards - BETA * kl - rng.uniform(0, 0.02))
        self.select = np.array(worths)
        self.certify = self.select + rng.normal(size=self.select.shape) * 0.01

    def ideal(self, policy: int, weights: np.ndarray) -> np.ndarray:
        return BETA * np.log(np.exp(weights @ self.rewards.T / BETA).mean(axis=1)) + 0.001 * policy

    def regret(self, weights: np.ndarray, delta: float = 0.0) -> np.ndarray:
        """By the definition, at single weights: who is routed, then 1 − (J + δ)/f*."""
        routed = (weights @ self.select.T).argmax(axis=1)
        worth = (weights * self.certify[routed]).sum(axis=1)
        ideal = np.array([self.ideal(k, w[None])[0] for k, w in zip(routed, weights, strict=True)])
        return np.maximum(1 - (worth + delta) / ideal, 0)

    def search(self, tolerance: float = 5e-4, delta: float = 0.0):
        return worst_regret(self.corners, self.select, self.certify, self.ideal, delta, tolerance)


@pytest.mark.parametrize(("d", "members"), [(2, 4), (3, 6), (4, 8)])
def test_no_weights_are_worse_than_the_bound_and_some_reach_it(d, members):
    world = World(d, members)
    found = world.search()
    rng = np.random.default_rng(1)
    tried = np.vstack([rng.dirichlet(np.ones(d), size=20_000), rng.dirichlet([0.2] * d, 20_000)])
    near = np.abs(found.weights + 0.02 * rng.normal(size=(20_000, d)))
    tried = np.vstack([tried, near / near.sum(axis=1, keepdims=True)])
    seen = world.regret(tried).max()
    assert seen <= found.high
    assert found.low - 0.002 < seen  # a coarse search comes close
    assert found.high == pytest.approx(found.low + 5e-4)
    assert found.weights.sum() == pytest.approx(1)


def test_two_traits_agree_with_a_fine_grid_to_the_tolerance():
    world = World(2, 5, seed=3)
    first = np.linspace(0, 1, 20_001)
    truth = world.regret(np.stack([first, 1 - first], axis=1)).max()
    for tolerance in (1e-3, 1e-4, 1e-5):
        found = world.search(tolerance)
        assert found.low <= truth + 1e-5
        assert truth <= found.high


def test_slack_in_units_of_a_reward_lowers_the_regret():
    world = World(3, 5)
    plain, slack = world.search(), world.search(delta=0.02)
    assert slack.high < plain.low
    assert slack.low >= world.regret(slack.weights[None], 0.02)[0] - 1e-9


def test_a_finer_tolerance_takes_more_simplices_and_stays_inside_the_coarse_bound():
    world = World(3, 6)
    coarse, fine = world.search(1e-2), world.search(1e-4)
    assert coarse.simplices < fine.simplices
    assert coarse.low <= fine.high and fine.low <= coarse.high


def test_duplicates_and_policies_that_win_nowhere_take_no_part():
    select = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.5, 0.5], [0.4, 0.4]])
    assert contenders(select).tolist() == [0, 1]  # the fourth is best at one point alone
    world = World(3, 5)
    found = world.search()
    world.select = np.vstack([world.select, world.select[:1], world.select.min(axis=0)])
    world.certify = np.vstack([world.certify, np.full((2, 3), -1.0)])  # worthless, if routed
    assert world.search().low == found.low


def test_one_trait_and_one_policy_are_worlds_too():
    world = World(1, 3)
    found = world.search()
    assert found.low == pytest.approx(world.regret(np.ones((1, 1)))[0])
    alone = World(3, 0)
    corners = alone.regret(alone.corners).max()  # one plane under a convex f*: worst at a corner
    assert alone.search().low == pytest.approx(corners)


def test_an_epsilon_that_nothing_meets_is_said_at_once():
    world = World(2, 1)
    world.certify -= 2
    found = world.search()
    assert found.low >= 1
    assert found.high == np.inf


def test_a_tolerance_out_of_reach_is_refused(monkeypatch):
    monkeypatch.setattr("palette.checking.branching.LIMIT", 20)
    with pytest.raises(PaletteError, match="raise --tolerance"):
        World(4, 8).search(1e-6)


def test_many_members_and_many_traits_do_not_take_much_memory():
    world = World(8, 64)
    world.select = np.eye(8).repeat(9, axis=0)[:65] + world.select / 10  # most may win anywhere
    search = _Search(world.corners, world.select, world.certify, world.ideal, 0.0)
    block = np.arange(8)[None]
    while len(block) < 2048:
        block = search.cut(block)
    whole = search.unproven(block[:64], 0.01)
    tracemalloc.start()
    hard = search.unproven(block, 0.01)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(hard) > 0
    assert {*map(tuple, whole)} >= {*map(tuple, hard)} & {*map(tuple, block[:64])}
    assert peak < 64e6


def test_cutting_the_work_into_pieces_changes_nothing(monkeypatch):
    whole = World(4, 8).search(1e-3)
    monkeypatch.setattr("palette.checking.branching.HELD", 100)
    pieces = World(4, 8).search(1e-3)
    assert (pieces.low, pieces.simplices) == (whole.low, whole.simplices)
