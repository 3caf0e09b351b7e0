"""The parts of the second opinion: covering, f* from mixtures, and the upper bound."""

import numpy as np
import pytest

from palette.checking.covering import covered, stray_corners
from palette.checking.mixtures import Mean, mixtures
from palette.checking.resampling import Resampled, our_draws, stray, their_draws
from palette.checking.sources import Answers, Split
from palette.core.certificate import Evidence, verdict

BETA = 0.1


def test_cells_cover_all_of_w_or_lack_what_was_left_out():
    first, second, third = np.eye(3)
    middle = (first + second) / 2
    left, right = np.stack([first, middle, third]), np.stack([middle, second, third])
    flat = np.stack([first, middle, second])
    zero = np.zeros(3)
    assert covered([left, right], zero) == pytest.approx(1)
    assert covered([left, flat], zero) == pytest.approx(0.5)
    assert covered([left, right, right], zero) == pytest.approx(1.5)
    floor = np.array([0.2, 0.1, 0.0])
    assert covered([floor + 0.7 * np.eye(3)], floor) == pytest.approx(1)
    assert covered([np.array([[0.0, 1.0], [0.4, 0.6]])], np.zeros(2)) == pytest.approx(0.4)


def test_corners_outside_w_and_corners_of_another_are_named():
    planes = {"base": (np.array([1.0, 0.0]), 0.0), "m": (np.array([0.0, 1.0]), 0.2)}
    floor = np.array([0.1, 0.0])
    right = {"cells.0": ("base", np.array([[1.0, 0.0], [0.4, 0.6]]))}
    assert stray_corners(right, floor, planes) == []
    wrong = {"cells.1": ("m", np.array([[0.05, 0.95], [0.5, 0.5], [0.2, 0.9], [0.1, 0.9]]))}
    assert stray_corners(wrong, floor, planes) == [
        ("cells.1.vertices.0", "lies outside W"),
        ("cells.1.vertices.1", "base is better here"),
        ("cells.1.vertices.2", "lies outside W"),
    ]


def answers(rng: np.random.Generator, policy: np.ndarray, base: np.ndarray, rewards, count: int):
    drawn = rng.choice(len(base), size=count, p=policy)
    logs = np.log(base[drawn]), np.log(policy[drawn])
    return Answers(rewards[drawn], *logs), drawn


def test_a_mixture_sees_the_mode_that_its_member_gives_and_stays_right_where_the_member_is_poor():
    rng, weights = np.random.default_rng(0), np.eye(2)
    rewards = np.array([[0.0, 0.0], [1.0, 0.2], [0.1, 1.0]])
    base = np.array([0.96, 0.02, 0.02])
    member = np.array([0.1, 0.89, 0.01])  # knows the first good mode, hardly the second
    truth = BETA * np.log(np.exp(rewards @ weights.T / BETA).T @ base)
    alone, mixed = [], []
    for _ in range(300):
        rollouts, drawn = answers(rng, base, base, rewards, 40)
        own, _ = answers(rng, member, base, rewards, 20)
        told = {"base": [rollouts], "m": [own]}
        split = Split(np.array(["t"]), told, {"m": [np.log(member[drawn])]})
        judged = mixtures(split, ["base", "m"], BETA)
        alone.append(judged["base"].upward(weights)[:, 0])
        mixed.append(judged["m"].upward(weights)[:, 0])
        assert len(judged["m"].prompts[0].membership.T) == 20
    alone, mixed = np.array(alone), np.array(mixed)
    assert abs(np.median(mixed[:, 0]) - truth[0]) < 0.01  # where the member is at home
    assert mixed[:, 0].std() < alone[np.isfinite(alone[:, 0]), 0].std() / 2
    assert mixed[:, 1].mean() > truth[1] - 0.01  # and where it is not, it still errs upward


def test_the_mean_over_prompts_its_slope_and_the_upward_estimate_fit_together():
    rng = np.random.default_rng(1)
    prompts = [rng.integers(3, size=(30, 2)) / 2 for _ in range(5)]
    told = [Answers(rewards, *np.zeros((2, 30))) for rewards in prompts]
    split = Split(np.arange(5), {"base": told}, {})
    mixture = mixtures(split, ["base"], BETA)["base"]
    weights = rng.dirichlet(np.ones(2), size=7)
    plain = mixture.plain(weights).mean(axis=1)
    assert Mean(mixture)(weights) == pytest.approx(plain)
    assert (mixture.upward(weights).mean(axis=1) > plain).all()
    step = np.array([1e-6, 0.0])
    slope = (mixture.plain(weights + step) - mixture.plain(weights - step)).mean(axis=1) / 2e-6
    assert mixture.slopes(weights)[:, 0] == pytest.approx(slope, abs=1e-6)
    assert mixture.thin(np.array([[0.0, 0.0]])) == 0  # all 30 samples speak for the base


def ours(topics: np.ndarray, confidence: float) -> Resampled:
    return Resampled(topics, confidence, our_draws(topics))


def test_the_upper_bound_covers_a_known_mean_as_often_as_it_says():
    rng, covers = np.random.default_rng(2), []
    for _ in range(60):
        ideal = np.full((1, 40), 1.0)
        regret = rng.exponential(0.05, size=(1, 40))
        noise = stray(0.9, 2000)
        upper = ours(np.arange(40), 0.9).upper(ideal, ideal - regret, 0.0, noise)
        assert upper.low <= upper.middle <= upper.high
        covers.append(upper.middle >= 0.05)
    assert np.mean(covers) >= 0.9 - 2 * np.sqrt(0.09 / 60)


def test_without_noise_the_bound_is_the_point_and_the_largest_pair_decides():
    ideal = np.full((3, 8), 0.5)
    worth = np.array([0.45, 0.4, 0.49])[:, None] * np.ones((1, 8))
    topics = np.repeat(np.arange(4), 2)
    drawn = ours(topics, 0.95)
    assert drawn.upper(ideal, worth, 0.0).middle == pytest.approx(0.2, abs=1e-6)
    assert drawn.upper(ideal, worth, 0.05).middle == pytest.approx(0.1, abs=1e-6)
    assert drawn.bound(ideal, worth, 0.0, 0.1) == pytest.approx(0.9 * 0.5 - 0.4)
    assert ours(np.zeros(8), 0.95).upper(ideal, worth, 0.0).middle == np.inf
    assert drawn.upper(ideal, worth - 1, 0.0).middle == np.inf


@pytest.mark.parametrize("count", [2, 3, 5, 12, 40])
def test_the_draws_of_a_file_give_its_own_upper_bound_again(count):
    rng = np.random.default_rng(count)
    for seed in range(6):
        topics = np.array([f"t{place}" for place in rng.integers(count, size=2 * count)])
        ideal = rng.uniform(0.4, 1, size=(5, len(topics)))
        worth = ideal * rng.uniform(0.7, 1, size=ideal.shape)
        evidence = Evidence(ideal, worth, topics)
        found = verdict(evidence, 0.2, 0.01, 0.95, draws=301, seed=seed)
        drawn = Resampled(topics, 0.95, their_draws(topics, 301, seed))
        upper = drawn.upper(ideal, worth, 0.01).middle
        assert upper == pytest.approx(found.epsilon_upper, abs=1e-5)
        assert (drawn.bound(ideal, worth, 0.01, 0.2) <= 1e-6 and upper <= 0.2) == found.passed
