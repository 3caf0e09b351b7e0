"""The weights that would mend a portfolio, in worlds where what training reaches is known exactly."""

from itertools import combinations

import numpy as np
import pytest

from palette.core.ideal import Ideal
from palette.core.moving import hundredths
from palette.core.pruning import Bench
from palette.core.region import Region
from palette.core.repair import GAIN, Mend, Outlook, mend, shortage

VALUES, COST = {2: [0.01, 0.015], 3: [0.004, 0.008, 0.012]}, 0.002
CORNERS = {2: np.eye(2), 3: np.eye(3)}


def bench(trained: np.ndarray, values=None, cost: float = COST, mirrored: bool = False) -> Bench:
    """Members that miss the ideal policies of their weights by the same in each trait, and in cost.

    In a mirrored world the first and the last trait may change places.
    """
    d = trained.shape[1]
    rng = np.random.default_rng(0)
    z = rng.normal(size=(6, 60, d))
    z -= 0.8 * z.mean(axis=2, keepdims=True)
    if mirrored:
        z = np.concatenate([z, z[:, :, ::-1]], axis=1)
    ideal = Ideal(1 / (1 + np.exp(-2 * z)), 0.1)
    means, kl = ideal.policy(trained)  # (K, prompts, d), (K, prompts)
    means, costs = means - np.array(VALUES[d] if values is None else values), 0.1 * kl + cost
    names = ("base", *(f"member {k}" for k in range(len(trained))))
    return Bench(
        names,
        ideal,
        np.concatenate([ideal.base()[None], means]),
        np.concatenate([np.zeros((1, len(z))), costs]),
        np.arange(len(z)),
    )


def mended(
    trained: np.ndarray, epsilon: float, tightness: float = 1.0, most: int = 9, **more
) -> Mend:
    region = Region((0.0,) * trained.shape[1])
    kept = tuple(range(1, len(trained) + 1))
    return mend(bench(trained, **more), kept, region, epsilon, 0.0, tightness, trained, most)


def worst(trained: np.ndarray, steps: int) -> float:
    """The worst ε of the base with these members on a dense grid."""
    tested = bench(trained)
    grid = Region((0.0,) * trained.shape[1]).lattice(steps)
    ideal = tested.ideal.upward(grid).mean(axis=1)
    return float((1 - (tested.planes.worth(grid).max(axis=1)) / ideal).max())


@pytest.mark.parametrize("d", [2, 3])
def test_a_member_left_out_is_foreseen_from_the_others(d):
    tested = bench(Region((0.0,) * d).lattice(3))
    for left_out in range(1, len(tested.names)):
        others = [k for k in range(len(tested.names)) if k != left_out]
        weights = Region((0.0,) * d).lattice(3)
        lacking = shortage(tested.take(tuple(others)), np.delete(weights, left_out - 1, axis=0))
        foreseen = lacking.foresee(tested.ideal, weights[[left_out - 1]])
        real = tested.planes.take([left_out])
        np.testing.assert_allclose(foreseen.values, real.values, atol=1e-12)
        np.testing.assert_allclose(foreseen.costs, real.costs, atol=1e-12)


def test_one_failed_training_does_not_darken_the_outlook():
    trained = Region((0.0, 0.0)).lattice(4)
    good = bench(trained)
    broken = Bench(good.names, good.ideal, good.values.copy(), good.costs.copy(), good.topics)
    broken.values[2] -= 0.3
    seen, told = shortage(good, trained), shortage(broken, trained)
    np.testing.assert_allclose(told.values, seen.values, atol=1e-12)
    assert told.cost == pytest.approx(seen.cost, abs=1e-12)
    assert told.largest > seen.largest + 0.2


@pytest.mark.parametrize(("d", "epsilon", "steps"), [(2, 0.06, 500), (3, 0.07, 60)])
def test_what_is_named_mends_the_portfolio_when_it_is_trained(d, epsilon, steps):
    trained, tightness = CORNERS[d], 0.9
    assert worst(trained, steps) > epsilon
    found = mended(trained, epsilon, tightness)
    assert np.array_equal(found.weights, hundredths(found.weights))
    after = np.concatenate([trained, found.weights])
    assert worst(after, steps) <= tightness * epsilon + 1e-6
    assert worst(after, steps) == pytest.approx(found.expected, abs=2e-3)
    assert f"which holds {epsilon:.1%}" in found.advice


def test_no_fewer_weights_of_the_lattice_would_do():
    trained, epsilon = CORNERS[2], 0.05
    found = mended(trained, epsilon)
    assert len(found.weights) >= 2
    lattice = hundredths(Region((0.0, 0.0)).lattice(100))
    for fewer in combinations(range(0, 101, 4), len(found.weights) - 1):
        assert worst(np.concatenate([trained, lattice[list(fewer)]]), 200) > epsilon


def test_within_a_budget_the_worst_falls_as_far_as_any_weights_bring_it():
    trained, epsilon = CORNERS[2], 0.05
    found = mended(trained, epsilon, most=1)
    assert len(found.weights) == 1
    assert len(mended(trained, epsilon).weights) > 1
    lattice = hundredths(Region((0.0, 0.0)).lattice(100))
    best = min(worst(np.concatenate([trained, [weights]]), 500) for weights in lattice)
    assert epsilon < found.expected <= best + 2 * GAIN * epsilon
    assert found.expected < worst(trained, 500)
    assert "takes more: raise portfolio.mend, or extend again" in found.advice


def test_a_trait_that_training_misses_asks_for_longer_training_not_for_more():
    """The worst place is a member's own weights: no neighbour serves it better."""
    trained = Region((0.0, 0.0)).lattice(10)
    found = mended(trained, 0.05, values=[0.0, 0.2])
    assert len(found.weights) == 0
    assert "adapters.steps" in found.advice
    lack = shortage(bench(trained, values=[0.0, 0.2]), trained).largest
    assert lack > 0.05
    assert f"by up to {lack:.1%}" in found.advice


def test_two_places_that_are_equally_bad_are_worth_two_trainings_but_not_one():
    trained, world = np.array([[0.5, 0.5]]), {"values": [0.01, 0.01], "mirrored": True}
    one, two = (mended(trained, 0.05, most=most, **world) for most in (1, 2))
    assert len(one.weights) == 0
    assert one.advice.endswith("raise portfolio.mend.")
    assert len(two.weights) == 2
    assert two.expected < one.expected


def test_where_select_holds_already_nothing_is_trained():
    trained = Region((0.0, 0.0)).lattice(10)
    found = mended(trained, 0.2, tightness=0.95)
    assert len(found.weights) == 0
    assert found.expected == pytest.approx(worst(trained, 500), abs=1e-3)
    assert "select" in found.advice and "add prompts" in found.advice


def test_without_a_bound_no_training_is_a_cure():
    found = mended(CORNERS[2], 0.05, tightness=0.0)
    assert len(found.weights) == 0
    assert "more topics" in found.advice


def shifted(trained: np.ndarray, shift: list[float]) -> Bench:
    """The same world with each reward lower by so much: f* need not be positive."""
    tested = bench(trained)
    ideal = Ideal(tested.ideal.rewards - np.array(shift), 0.1)
    return Bench(tested.names, ideal, tested.values - np.array(shift), tested.costs, tested.topics)


def test_where_no_epsilon_holds_and_none_will_the_additive_slack_is_the_cure():
    tested = shifted(CORNERS[2], [2.0, 2.0])
    found = mend(tested, (1, 2), Region((0.0, 0.0)), 0.05, 0.0, 1.0, CORNERS[2], 4)
    assert len(found.weights) == 0 and found.expected == np.inf
    assert "lower the worst ε, infinity (f* is not positive there), on select" in found.advice
    assert found.advice.endswith("raise portfolio.delta.")
    assert "inf%" not in found.advice


def test_what_falls_from_infinity_is_said_in_words():
    trained = CORNERS[2][:1]
    at_the_other_end = bench(trained).ideal.upward(CORNERS[2][1:]).mean()
    tested = shifted(trained, [0.0, at_the_other_end + 0.01])
    found = mend(tested, (1,), Region((0.0, 0.0)), 0.05, 0.05, 1.0, trained, 4)
    assert len(found.weights) and np.isfinite(found.expected)
    assert "to fall from infinity (f* is not positive there) to " in found.advice
    assert "inf%" not in found.advice


def test_weights_that_are_trained_are_not_named_again():
    trained = np.array([[0.5, 0.5], [0.51, 0.49], [0.49, 0.51], [1.0, 0.0]])
    found = mended(trained, 0.03)
    named = {tuple(weights) for weights in found.weights.tolist()}
    assert named and not named & {tuple(weights) for weights in trained.tolist()}


def test_a_base_without_members_gets_its_first():
    found = mended(np.empty((0, 2)), 0.1)
    assert len(found.weights) > 0
    assert found.expected <= 0.1


def test_floors_bound_what_is_named():
    trained, region = np.array([[0.5, 0.5]]), Region((0.3, 0.0))
    tested = bench(trained)
    found = mend(tested, (1,), region, 0.05, 0.0, 1.0, trained, 4)
    assert len(found.weights) and region.contains(found.weights).all()
    outlook = Outlook(tested, (1,), region, trained)
    assert outlook.shortfall(found.weights).epsilon().max() == pytest.approx(found.expected)
