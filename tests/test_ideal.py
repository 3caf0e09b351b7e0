"""f* from samples, against worlds whose responses can be counted."""

import numpy as np
import pytest

from palette.core.ideal import Ideal
from palette.core.region import Region

BETA = 0.1


def exact(weights: np.ndarray, rewards: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """(W,): f* of one prompt whose responses have these rewards (R, d) and chances (R,)."""
    return BETA * np.log(np.exp(weights @ rewards.T / BETA) @ chances)


def test_equal_chances_are_exact():
    rng = np.random.default_rng(0)
    rewards, weights = rng.uniform(size=(3, 20, 3)), Region((0.0,) * 3).lattice(4)
    found = Ideal(rewards, BETA).value(weights)
    for prompt in range(3):
        want = exact(weights, rewards[prompt], np.full(20, 1 / 20))
        assert np.allclose(found[:, prompt], want, atol=1e-12)


def test_importance_weights_turn_another_sampler_into_the_base():
    rng = np.random.default_rng(1)
    rewards = rng.uniform(size=(1, 6, 2))
    chances = rng.dirichlet(np.ones(6))
    log_weights = np.log(chances * 6)[None]  # every response once: q is uniform
    weights = Region((0.0, 0.0)).lattice(5)
    ideal = Ideal(rewards, BETA, log_weights)
    assert np.allclose(ideal.value(weights)[:, 0], exact(weights, rewards[0], chances))
    assert np.allclose(ideal.base()[0], chances @ rewards[0])


def test_condensing_equal_rewards_changes_no_estimate():
    rng = np.random.default_rng(8)
    rewards = rng.integers(3, size=(4, 60, 2)) / 2
    absent = np.where(rng.uniform(size=(4, 60)) < 0.2, -np.inf, rng.normal(size=(4, 60)) * 0.1)
    weights = Region((0.0, 0.0)).lattice(5)
    for ideal in (Ideal(rewards, BETA), Ideal(rewards, BETA, absent)):
        small = ideal.condensed()
        assert small.rewards.shape[1] <= 9
        assert np.allclose(small.value(weights), ideal.value(weights))
        assert np.allclose(small.base(), ideal.base())
        for ours, theirs in zip(small.policy(weights), ideal.policy(weights), strict=True):
            assert np.allclose(ours, theirs)
        assert np.allclose(small.curvature(weights), ideal.curvature(weights))


def test_absent_samples_change_nothing():
    rng = np.random.default_rng(2)
    rewards = rng.uniform(size=(2, 8, 3))
    padded = np.concatenate([rewards, np.full((2, 5, 3), 0.99)], axis=1)
    absent = np.concatenate([np.zeros((2, 8)), np.full((2, 5), -np.inf)], axis=1)
    plain, with_gaps = Ideal(rewards, BETA), Ideal(padded, BETA, absent)
    weights = Region((0.0,) * 3).lattice(3)
    assert np.allclose(plain.value(weights), with_gaps.value(weights))
    assert np.allclose(plain.upward(weights), with_gaps.upward(weights))
    assert np.allclose(plain.base(), with_gaps.base())
    assert with_gaps.counts.tolist() == [8, 8]


@pytest.mark.parametrize("samples", [2, 5, 40])
def test_the_upward_estimate_is_at_least_f_star_on_average_and_the_plug_in_at_most(samples):
    rng = np.random.default_rng(3)
    rewards, chances = rng.uniform(size=(5, 2)), np.array([0.4, 0.3, 0.2, 0.09, 0.01])
    weights = np.array([[0.5, 0.5], [0.9, 0.1]])
    drawn = rng.choice(5, size=(20_000, samples), p=chances)
    ideal = Ideal(rewards[drawn], BETA)
    truth = exact(weights, rewards, chances)
    noise = 4 * ideal.upward(weights).std(axis=1) / np.sqrt(20_000)
    assert (ideal.upward(weights).mean(axis=1) >= truth - noise).all()
    assert (ideal.value(weights).mean(axis=1) <= truth).all()


def test_the_upward_estimate_is_the_leave_one_out_formula_and_stays_stable():
    rng = np.random.default_rng(4)
    rewards, weight = rng.uniform(size=(1, 7, 2)), np.array([[0.3, 0.7]])
    scaled = np.exp(rewards[0] @ weight[0] / BETA)
    terms = []
    for j in range(7):
        rest = np.delete(scaled, j).mean()
        terms.append(scaled[j] / rest - 1 + np.log(rest))
    assert Ideal(rewards, BETA).upward(weight)[0, 0] == pytest.approx(BETA * np.mean(terms))
    # One sample holds all but 1e-30 of the mass: plain subtraction from the total would cancel.
    rewards = np.array([[[1.0], [0.31], [0.30]]])
    found = Ideal(rewards, 0.01).upward(np.ones((1, 1)))[0, 0]
    rest = np.log(np.mean(np.exp([31 - 31, 30 - 31]))) + 31
    assert found == pytest.approx(0.01 * np.exp(100 - rest) / 3, rel=1e-9)
    assert Ideal(rewards, 1e-4).upward(np.ones((1, 1)))[0, 0] == np.inf


def test_tangents_touch_f_star_at_their_weights_and_stay_below_elsewhere():
    rng = np.random.default_rng(5)
    ideal, region = Ideal(rng.uniform(size=(4, 30, 3)), BETA), Region((0.0,) * 3)
    at, grid = region.lattice(3), region.lattice(20)
    planes = ideal.tangents(at, tuple(map(str, range(len(at)))))
    assert np.allclose(np.diagonal(planes.worth(at)), ideal.value(at).mean(axis=1))
    assert (planes.worth(grid) <= ideal.value(grid).mean(axis=1)[:, None] + 1e-12).all()
    assert (planes.costs >= 0).all()


def test_gradient_and_curvature_are_the_derivatives():
    rng = np.random.default_rng(6)
    ideal, weights = Ideal(rng.uniform(size=(3, 25, 3)), BETA), np.array([[0.2, 0.5, 0.3]])
    step = 1e-5
    shifted = weights + step * np.vstack([np.eye(3), -np.eye(3)])
    means, kl = ideal.policy(weights)
    f = ideal.value(shifted).mean(axis=1)
    assert np.allclose((f[:3] - f[3:]) / (2 * step), means[0].mean(axis=0), atol=1e-7)
    slopes = ideal.policy(shifted)[0].mean(axis=1)
    curvature = (slopes[:3] - slopes[3:]) / (2 * step)
    assert np.allclose(curvature, ideal.curvature(weights)[0], atol=1e-6)
    assert (kl <= np.log(25)).all()


def test_one_sample_is_refused():
    with pytest.raises(ValueError, match="two samples"):
        Ideal(np.zeros((2, 1, 2)), BETA).upward(np.array([[0.5, 0.5]]))


def test_prompts_that_share_few_rewards_are_counted_as_one_list():
    """Value, policy and curvature are those of the prompts one by one, also far below the top."""
    rng = np.random.default_rng(3)
    grid = np.array([[brief / 8, joke] for brief in range(9) for joke in (0.0, 0.6, 1.0)])
    rewards = grid[rng.integers(len(grid), size=(6, 60))]
    rewards[0] = grid[0]  # nowhere near the others' best
    log_weights = rng.normal(0, 1, (6, 60))
    log_weights[1, 20:] = -np.inf
    weights = rng.dirichlet([0.4, 0.4], 25)
    for beta in (0.1, 0.01):
        ideal = Ideal(rewards, beta, log_weights)
        small = ideal.condensed()
        assert len(small.atoms.rewards) <= len(grid)
        np.testing.assert_allclose(small.value(weights), ideal.value(weights), atol=1e-12)
        np.testing.assert_allclose(small.curvature(weights), ideal.curvature(weights), atol=1e-9)
        for found, want in zip(small.policy(weights), ideal.policy(weights), strict=True):
            np.testing.assert_allclose(found, want, atol=1e-9)
    assert Ideal(rewards, 0.003, log_weights).condensed().atoms is None  # exponentials would vanish
    assert Ideal(rng.uniform(size=(6, 60, 2)), 0.1).condensed().atoms is None  # nothing is shared
