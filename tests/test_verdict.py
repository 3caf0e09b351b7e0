"""The verdict on finite worlds, from exact f* to ε, against brute force over w."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from palette.core import certificate
from palette.core.certificate import Verdict, confidence_of_look, verdict
from palette.core.covering import least_epsilon
from palette.core.envelope import cells, pairs
from palette.core.ideal import Ideal
from palette.core.pruning import Bench
from palette.core.region import Region

PROMPTS = 6


def world(
    seed: int, d: int, members: int, beta: float = 0.1, mixing: float = 0.9
) -> tuple[Bench, np.ndarray]:
    """Policies on prompts of nine answers each, measured exactly; and the chances of the answers.

    The members are ideal policies of some weights, mixed with the base so that they fall short.
    """
    rng = np.random.default_rng(seed)
    rewards = rng.uniform(size=(PROMPTS, 9, d))
    chances = rng.dirichlet(np.full(9, 2.0), size=PROMPTS).clip(1e-6)
    chances /= chances.sum(axis=1, keepdims=True)
    tilted = chances * np.exp(
        np.einsum("wd,nad->wna", rng.dirichlet(np.ones(d), size=members), rewards) / beta
    )
    tilted /= tilted.sum(axis=2, keepdims=True)
    policies = np.concatenate([chances[None], mixing * tilted + (1 - mixing) * chances])
    kl = (policies * np.log(policies / chances)).sum(axis=2)
    values = np.einsum("kna,nad->knd", policies, rewards)
    names = ("base", *(f"m{k}" for k in range(members)))
    ideal = Ideal(rewards, beta, np.log(chances * 9))
    return Bench(names, ideal, values, beta * kl, np.arange(PROMPTS)), chances


def judge(bench: Bench, region: Region, epsilon: float = 0.05, delta: float = 0.0) -> Verdict:
    """The verdict of infinitely many samples: f* exact, every prompt as the average one."""
    weights, members = pairs(cells(bench.planes, region))
    evidence = bench.evidence(weights, members)
    ideal = bench.ideal.value(weights).mean(axis=1, keepdims=True)
    worth = evidence.worth.mean(axis=1, keepdims=True)
    alike = np.ones((1, PROMPTS))
    exact = replace(evidence, ideal=ideal * alike, worth=worth * alike)
    return verdict(exact, epsilon, delta, 0.95, draws=100, seed=0)


def regret(bench: Bench, weights: np.ndarray, delta: float = 0.0) -> np.ndarray:
    """(W,): the least ε that holds at each of the weights (W, d)."""
    ideal = bench.ideal.value(weights).mean(axis=1)
    return least_epsilon(ideal, bench.planes.worth(weights).max(axis=1), delta)


def brute_force(bench: Bench, region: Region, delta: float = 0.0) -> float:
    """The largest regret over W: a dense grid, then a solver inside each member's convex piece.

    On the piece of one member the regret is quasiconvex, so that its maxima are corners: SLSQP walks
    to them along the piece's faces from the worst points of the grid.
    """
    d, planes = region.d, bench.planes
    grid = region.lattice({2: 2000, 3: 60, 4: 24}[d])
    found = regret(bench, grid, delta)
    worst = float(found.max())
    for start in grid[np.argsort(-found)[:12]]:
        for member in np.flatnonzero(planes.worth(start) >= planes.worth(start).max() - 0.02):
            value, cost = planes.values[member], planes.costs[member]

            def loss(w, value=value, cost=cost):
                return -float(1 - (w @ value - cost + delta) / bench.ideal.value(w[None]).mean())

            def margins(w, value=value, cost=cost):
                return (w @ value - cost) - (planes.values @ w - planes.costs)

            solved = minimize(
                loss,
                start,
                method="SLSQP",
                bounds=[(low, 1) for low in region.floor],
                constraints=[
                    {"type": "ineq", "fun": margins},
                    {"type": "eq", "fun": lambda w: w.sum() - 1},
                ],
                options={"ftol": 1e-12, "maxiter": 200},
            )
            at = np.clip(solved.x, region.floor, 1)
            worst = max(worst, float(regret(bench, at[None] / at.sum(), delta)[0]))
    return worst


@pytest.mark.parametrize("d", [2, 3, 4])
@pytest.mark.parametrize(("floor", "delta"), [(0.0, 0.0), (0.15, 0.01)])
def test_the_verdict_is_the_worst_that_brute_force_finds(d, floor, delta):
    bench, _ = world(d, d, members=3 + d)
    region = Region((floor,) + (0.0,) * (d - 1))
    found = judge(bench, region, delta=delta)
    assert found.epsilon_point == pytest.approx(brute_force(bench, region, delta), abs=1e-6)
    assert found.epsilon_upper == pytest.approx(found.epsilon_point, abs=1e-6)
    assert region.contains(pairs(cells(bench.planes, region))[0][found.worst])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(1, 6))
def test_adding_a_member_never_raises_the_regret(seed, d, members):
    bench, _ = world(seed, d, members + 1)
    region = Region((0.0,) * d)
    more = judge(bench, region).epsilon_point
    assert more <= judge(bench.take(tuple(range(members + 1))), region).epsilon_point + 1e-9


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_permuting_the_traits_permutes_the_verdict(seed, d):
    bench, _ = world(seed, d, members=5)
    order = np.random.default_rng(seed).permutation(d)
    ideal = replace(bench.ideal, rewards=bench.ideal.rewards[:, :, order])
    turned = replace(bench, ideal=ideal, values=bench.values[:, :, order])
    floor = np.linspace(0, 0.1, d)
    plain, permuted = Region(tuple(floor)), Region(tuple(floor[order]))
    one, other = judge(bench, plain), judge(turned, permuted)
    assert one.epsilon_point == pytest.approx(other.epsilon_point, abs=1e-9)
    assert one.epsilon_upper == pytest.approx(other.epsilon_upper, abs=1e-6)
    if one.epsilon_point > 0:
        here = pairs(cells(bench.planes, plain))[0][one.worst][order]
        assert regret(turned, here[None]) == pytest.approx(one.epsilon_point, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 100), st.floats(0, 0.02))
def test_another_unit_of_reward_changes_nothing(seed, scale, delta):
    bench, _ = world(seed, 3, members=4)
    ideal = replace(bench.ideal, rewards=scale * bench.ideal.rewards, beta=scale * 0.1)
    scaled = replace(bench, ideal=ideal, values=scale * bench.values, costs=scale * bench.costs)
    region = Region((0.0, 0.1, 0.0))
    one, other = judge(bench, region, delta=delta), judge(scaled, region, delta=scale * delta)
    assert one.epsilon_point == pytest.approx(other.epsilon_point, abs=1e-8)
    assert one.epsilon_upper == pytest.approx(other.epsilon_upper, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_epsilon_at_the_gap_passes_and_below_it_fails(seed, d):
    bench, _ = world(seed, d, members=3)
    region = Region((0.0,) * d)
    gap = judge(bench, region).epsilon_point
    assert judge(bench, region, epsilon=gap + 1e-6).passed
    assert not judge(bench, region, epsilon=gap - 1e-6).passed


def test_one_trait_one_member_and_no_member_have_a_verdict():
    bench, _ = world(0, 1, members=3)
    ideal = bench.ideal.value(np.ones((1, 1))).mean()
    best = bench.planes.worth(np.ones(1)).max()
    assert judge(bench, Region((0.0,))).epsilon_point == pytest.approx(1 - best / ideal)
    bench, _ = world(0, 3, members=1)
    region = Region((0.0, 0.0, 0.0))
    for kept in ((0, 1), (0,)):
        few = bench.take(kept)
        assert judge(few, region).epsilon_point == pytest.approx(brute_force(few, region), abs=1e-6)


def test_twins_losers_and_near_twins_change_no_verdict():
    bench, _ = world(3, 4, members=6)
    region = Region((0.0,) * 4)
    want = judge(bench, region)
    crowd = bench.take((*range(7), 2, 2, 5))
    crowd.values[8] += 1e-13  # equal but for rounding
    crowd.costs[9] += 0.3  # worth less everywhere: wins nowhere
    found = judge(crowd, region)
    assert found.epsilon_point == pytest.approx(want.epsilon_point, abs=1e-9)
    assert found.epsilon_upper == pytest.approx(want.epsilon_upper, abs=1e-6)


def test_planes_that_are_negative_are_judged_and_fail():
    bench, _ = world(4, 3, members=3)
    poor = replace(bench, costs=bench.costs + 2.0)
    found = judge(poor, Region((0.0,) * 3), epsilon=0.9)
    assert found.epsilon_point > 1
    assert (found.epsilon_upper, found.passed) == (np.inf, False)


def test_the_bound_of_many_pairs_is_the_largest_of_the_bounds_of_each(monkeypatch):
    bench, _ = world(5, 3, members=8)
    weights, members = pairs(cells(bench.planes, Region((0.0,) * 3)))
    rng, alone = np.random.default_rng(0), []
    evidence = bench.evidence(weights, members)
    noisy = replace(
        evidence,
        ideal=np.tile(bench.ideal.value(weights), 5),
        worth=np.tile(evidence.worth, 5) + rng.normal(scale=0.02, size=(len(weights), 30)),
        topics=np.arange(30),
    )
    monkeypatch.setattr(certificate, "CHUNK", 7 * 300)  # seven pairs at once
    for pair in range(len(weights)):
        part = replace(noisy, ideal=noisy.ideal[[pair]], worth=noisy.worth[[pair]])
        alone.append(verdict(part, 0.05, 0.0, 0.95, draws=300, seed=0).epsilon_upper)
    together = verdict(noisy, 0.05, 0.0, 0.95, draws=300, seed=0).epsilon_upper
    assert together == pytest.approx(max(alone), abs=1e-6)


def test_every_look_halves_what_may_go_wrong():
    looks = [confidence_of_look(0.95, k) for k in (1, 2, 3)]
    assert looks == pytest.approx([0.95, 0.975, 0.9875])
    assert sum(1 - confidence_of_look(0.95, k) for k in range(1, 60)) <= 0.1 + 1e-12
