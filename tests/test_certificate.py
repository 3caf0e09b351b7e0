"""The verdict against exact truth, and the bound's coverage on simulated draws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palette.core.certificate import Evidence, UpperBound, Verdict, thin_coverage, verdict
from palette.core.envelope import Planes, cells, pairs
from palette.core.ideal import Ideal
from palette.core.pruning import Bench, prune
from palette.core.region import Region

BETA = 0.1


def judge(evidence: Evidence, epsilon: float = 0.05, delta: float = 0.0) -> Verdict:
    return verdict(evidence, epsilon, delta, confidence=0.95, draws=500, seed=0)


def noisy(
    rng: np.random.Generator, count: int = 4, prompts: int = 40, topics: int = 10
) -> Evidence:
    ideal = rng.uniform(0.6, 0.8, size=(count, prompts))
    worth = ideal - rng.uniform(0.0, 0.06, size=(count, prompts))
    return Evidence(ideal, worth, np.arange(prompts) % topics)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 0.02))
def test_the_numbers_are_the_least_that_pass(seed, delta):
    evidence = noisy(np.random.default_rng(seed))
    found = judge(evidence, delta=delta)
    slack = (1 - found.epsilon_point) * evidence.ideal - evidence.worth - delta
    assert slack.mean(axis=1).max() == pytest.approx(0, abs=1e-9) or found.epsilon_point == 0
    assert found.epsilon_point <= found.upper <= found.epsilon_upper + 1e-6
    bound = UpperBound(evidence, delta, 0.95, draws=500, seed=0)
    assert bound(found.epsilon_upper + 1e-5).max() <= 0
    if found.epsilon_upper > 0:
        assert bound(found.epsilon_upper - 1e-5).max() > 0
    for asked in (found.epsilon_upper - 1e-5, found.epsilon_upper + 1e-5):
        assert judge(evidence, epsilon=asked, delta=delta).passed == (asked > found.epsilon_upper)


def test_the_worst_pair_is_named_with_its_regrets():
    ideal = np.full((3, 20), 0.8)
    worth = ideal - np.array([[0.01], [0.05], [0.02]])
    found = judge(Evidence(ideal, worth, np.arange(20)))
    assert found.worst == 1
    assert found.additive == pytest.approx(0.05)
    assert found.multiplicative == pytest.approx(0.0625)
    # Without noise there is nothing to add.
    assert found.epsilon_upper == pytest.approx(0.0625, abs=1e-6)
    assert not found.passed
    assert judge(Evidence(ideal, worth, np.arange(20)), delta=0.011).passed


def test_few_topics_say_nothing():
    rng = np.random.default_rng(0)
    evidence = noisy(rng)
    for topics in (1, 2, 3):
        few = Evidence(evidence.ideal, evidence.worth, np.arange(40) % topics)
        assert judge(few, epsilon=0.9).epsilon_upper == np.inf
        assert not judge(few, epsilon=0.9).passed


def test_an_infinite_estimate_of_f_star_never_passes():
    evidence = noisy(np.random.default_rng(0))
    evidence.ideal[2, 5] = np.inf
    found = judge(evidence, epsilon=0.9)
    assert (found.epsilon_point, found.epsilon_upper, found.passed) == (np.inf, np.inf, False)


def test_prompts_of_one_topic_count_as_one():
    rng = np.random.default_rng(1)
    regret = np.repeat(rng.uniform(0, 0.1, size=12), 20)[None]
    ideal = np.full_like(regret, 0.7)
    together = judge(Evidence(ideal, ideal - regret, np.repeat(np.arange(12), 20)))
    apart = judge(Evidence(ideal, ideal - regret, np.arange(240)))
    assert together.epsilon_point == apart.epsilon_point
    width = together.epsilon_upper - together.epsilon_point
    assert width > 3 * (apart.epsilon_upper - apart.epsilon_point)


def test_more_pairs_and_more_confidence_never_lower_the_bound():
    evidence = noisy(np.random.default_rng(2), count=12)
    one = Evidence(evidence.ideal[:1], evidence.worth[:1], evidence.topics)
    assert judge(one).epsilon_upper <= judge(evidence).epsilon_upper
    looser = verdict(evidence, 0.05, 0.0, confidence=0.6, draws=500, seed=0)
    assert looser.epsilon_upper < judge(evidence).epsilon_upper


def test_same_seed_same_verdict():
    evidence = noisy(np.random.default_rng(3))
    assert judge(evidence) == judge(evidence)


def test_thin_coverage_fires_on_a_rare_mode_and_not_on_a_common_one():
    rewards = np.zeros((1, 200, 1))
    rewards[0, :100] = 1.0
    common = Ideal(rewards, BETA)
    rewards = np.zeros((1, 200, 1))
    rewards[0, 0] = 1.0
    rare = Ideal(rewards, BETA)
    shares = [thin_coverage(i.policy(np.ones((1, 1)))[1], i.counts)[0] for i in (common, rare)]
    assert shares == [0.0, 1.0]


class World:
    """Prompts drawn from a population of which f* and every member's worth are known exactly.

    A prompt has one of six kinds; a kind has eight responses of known chances and rewards. The
    members are the ideal policies of some weights, mixed with the base so that they fall short.
    """

    def __init__(self, d: int = 2, mixing: float = 0.88) -> None:
        rng = np.random.default_rng(0)
        self.rewards = rng.uniform(size=(6, 8, d))
        self.chances = rng.dirichlet(np.ones(8) * 3, size=6)
        self.region = Region((0.0,) * d)
        members = [self.chances]
        for weights in (np.eye(d)[0], np.eye(d)[1], np.full(d, 1 / d)):
            tilted = self.chances * np.exp(self.rewards @ weights / BETA)
            tilted /= tilted.sum(axis=1, keepdims=True)
            members.append(mixing * tilted + (1 - mixing) * self.chances)
        self.policies = np.array(members)  # (K, kinds, responses)
        self.kl = (self.policies * np.log(self.policies / self.chances)).sum(axis=2)
        values = np.einsum("knr,nrd->knd", self.policies, self.rewards)
        self.planes = Planes(
            ("base", "a", "b", "c"), values.mean(axis=1), BETA * self.kl.mean(axis=1)
        )
        self.weights, self.members = pairs(cells(self.planes, self.region))

    def value(self, weights: np.ndarray) -> np.ndarray:
        scores = np.exp(np.einsum("wd,nrd->wnr", weights, self.rewards) / BETA)
        return BETA * np.log((scores * self.chances).sum(axis=2)).mean(axis=1)

    def regret(self, weights: np.ndarray) -> np.ndarray:
        return 1 - self.planes.worth(weights).max(axis=1) / self.value(weights)

    def gap(self) -> float:
        """The worst multiplicative regret by brute force: a grid, then ever closer looks."""
        rng, d = np.random.default_rng(0), self.region.d
        grid = self.region.lattice({2: 1000, 3: 80, 4: 30}[d])
        best, reach = grid[self.regret(grid).argmax()], 0.05
        while reach > 1e-9:
            near = np.abs(
                best + reach * rng.normal(size=(2000, d)) * rng.integers(2, size=(2000, d))
            )
            near = np.vstack([best, near / near.sum(axis=1, keepdims=True)])
            best, reach = near[self.regret(near).argmax()], reach * 0.7
        return float(self.regret(best[None])[0])

    def bench(self, rng: np.random.Generator, prompts: int, samples: int) -> Bench:
        """A split: prompts, base rollouts and members' answers, all drawn afresh."""
        kinds = rng.integers(6, size=prompts)

        def draw(policy: np.ndarray) -> np.ndarray:
            """(prompts, samples, d): by inverse distribution functions, all prompts at once."""
            edges = policy[kinds].cumsum(axis=1)[:, None, :-1]
            picked = (rng.uniform(size=(prompts, samples, 1)) > edges).sum(axis=2)
            return self.rewards[kinds[:, None], picked]

        ideal = Ideal(draw(self.chances), BETA)
        values = [ideal.base(), *(draw(policy).mean(axis=1) for policy in self.policies[1:])]
        costs = BETA * self.kl[:, kinds]
        return Bench(self.planes.names, ideal, np.array(values), costs, np.arange(prompts))


@pytest.mark.parametrize("d", [2, 3, 4])
def test_the_verdict_on_exact_numbers_is_the_brute_force_gap(d):
    world = World(d)
    ideal = world.value(world.weights)[:, None] * np.ones((1, 8))
    worth = world.planes.worth(world.weights)[range(len(world.members)), world.members]
    found = judge(Evidence(ideal, worth[:, None] * np.ones((1, 8)), np.arange(8)))
    assert found.epsilon_point == pytest.approx(world.gap(), abs=1e-6)
    assert found.epsilon_upper == pytest.approx(world.gap(), abs=1e-6)


def test_the_upper_bound_covers_the_true_gap():
    world = World()
    gap, rng = world.gap(), np.random.default_rng(7)
    assert 0.03 < gap < 0.08
    uppers = []
    for _ in range(60):
        bench = world.bench(rng, prompts=48, samples=48)
        evidence = bench.evidence(world.weights, world.members)
        uppers.append(verdict(evidence, 0.05, 0.0, 0.95, draws=300, seed=1).epsilon_upper)
    covered = np.mean(np.array(uppers) >= gap)
    assert covered >= 0.9  # 0.95 less two standard errors of 60 draws
    assert np.median(uppers) < 2.5 * gap  # and it is no empty promise


def test_pruning_keeps_what_is_needed_and_drops_what_is_not():
    world = World(mixing=1.0)
    bench = world.bench(np.random.default_rng(0), prompts=60, samples=200)
    asked = dict(delta=0.0, confidence=0.95, draws=300, seed=0)
    alone = {
        member: float((1 - bench.take((0, member)).planes.worth(grid).max(axis=1) / truth).max())
        for grid in [world.region.lattice(500)]
        for truth in [bench.ideal.upward(grid).mean(axis=1)]
        for member in (1, 2, 3)
    }
    tight = prune(bench, world.region, epsilon=0.08, **asked).members
    loose = prune(bench, world.region, epsilon=min(alone.values()) + 0.15, **asked).members
    assert len(loose) == 1 < len(tight)
    # An ε that nothing reaches keeps all that win somewhere, and no more.
    twin = bench.take((0, 1, 2, 3, 3))
    assert prune(twin, world.region, epsilon=1e-4, **asked).members == (1, 2, 3)


def test_a_trait_worth_nothing_leaves_pruning_its_judgement():
    """Where f* is 0 no absolute margin can be held: what is asked for noise must fall with f*."""
    world = World(mixing=1.0)
    bench = world.bench(np.random.default_rng(0), prompts=60, samples=200)
    dead = Bench(
        bench.names,
        Ideal(np.pad(bench.ideal.rewards, ((0, 0), (0, 0), (0, 1))), bench.ideal.beta),
        np.pad(bench.values, ((0, 0), (0, 0), (0, 1))),
        bench.costs,
        bench.topics,
    )
    region = Region((*world.region.floor, 0.0))
    found = prune(dead, region, 0.4, 0.0, confidence=0.95, draws=300, seed=0)
    assert 0 < found.tightness <= 1
    assert 0 < len(found.members) < len(bench.names) - 1
