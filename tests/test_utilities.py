"""Utilities that are not linear: known means, limits, zeros, and the table that evaluation writes."""

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from palette import tables, utilities
from palette.core.envelope import Planes
from palette.core.utilities import UTILITIES, losses, power_mean, utility, worst_trait
from palette.schema import TABLES

HALF = np.array([[0.5, 0.5]])
rewards = arrays(float, (4, 3), elements=st.floats(0, 1))
plain = arrays(float, (4, 3), elements=st.just(0.0) | st.floats(1e-6, 1))
tastes = arrays(float, (5, 3), elements=st.floats(0.001, 1)).map(
    lambda w: w / w.sum(1, keepdims=True)
)


def test_known_means_of_two_numbers():
    values = np.array([[0.25, 1.0]])
    assert power_mean(HALF, values, 1)[0, 0] == pytest.approx(0.625)
    assert power_mean(HALF, values, 0.5)[0, 0] == pytest.approx(0.5625)
    assert power_mean(HALF, values, 0)[0, 0] == pytest.approx(0.5)
    assert power_mean(HALF, values, -1)[0, 0] == pytest.approx(0.4)
    assert worst_trait(HALF, values)[0, 0] == 0.25


@given(tastes, rewards)
def test_means_fall_with_p_and_stay_between_the_worst_and_the_best_trait(weights, values):
    means = [power_mean(weights, values, p) for p in (1, 0.5, 0, -1)]
    np.testing.assert_allclose(means[0], weights @ values.T, atol=1e-12)
    for higher, lower in pairwise(means):
        assert (lower <= higher + 1e-9).all()
    assert (means[-1] >= values.min(axis=1) - 1e-9).all()
    assert (means[0] <= values.max(axis=1) + 1e-9).all()


@given(tastes, plain, st.floats(0.1, 3))
def test_means_scale_with_their_values_and_do_not_care_for_the_order_of_traits(weights, values, s):
    for name, own in UTILITIES.items():
        found = own(weights, values)
        np.testing.assert_allclose(own(weights, s * values), s * found, atol=1e-9, err_msg=name)
        turned = own(weights[:, ::-1], values[:, ::-1])
        np.testing.assert_allclose(turned, found, atol=1e-9, err_msg=name)


def test_equal_values_are_worth_just_that_under_every_utility():
    weights = np.random.default_rng(0).dirichlet(np.ones(3), 6)
    for own in UTILITIES.values():
        np.testing.assert_allclose(own(weights, np.full((1, 3), 0.3)), 0.3)


def test_a_zero_that_counts_is_all_there_is_and_one_without_weight_is_nothing():
    values = np.array([[0.0, 0.8], [-0.1, 0.8]])
    corner = np.array([[0.0, 1.0]])
    for p in (0, -1):
        np.testing.assert_array_equal(power_mean(HALF, values, p), [[0.0, 0.0]])
        np.testing.assert_allclose(power_mean(corner, values, p), [[0.8, 0.8]])
    np.testing.assert_allclose(power_mean(HALF, values, 0.5), [[0.2, 0.2]])
    assert power_mean(corner[:, ::-1], values, -1).tolist() == [[0.0, 0.0]]


def test_the_worst_trait_is_among_those_that_count():
    values = np.array([[0.1, 0.5, 0.9]])
    assert worst_trait(np.array([[0.05, 0.35, 0.6]]), values)[0, 0] == 0.5  # 0.05 is not above it
    assert worst_trait(np.array([[0.06, 0.34, 0.6]]), values)[0, 0] == 0.1
    many = np.full((1, 40), 1 / 40)  # none is above 0.05
    assert worst_trait(many, np.linspace(0.2, 1, 40)[None])[0, 0] == pytest.approx(0.2)


def test_the_cost_is_taken_off_whatever_the_utility():
    planes = Planes(("base", "m"), np.array([[0.4, 0.4], [0.9, 0.9]]), np.array([0, 0.1]))
    for name in UTILITIES:
        np.testing.assert_allclose(utility(name, HALF, planes), [[0.4, 0.8]])


def test_losses_are_parts_of_the_best_and_finite_where_it_is_nothing():
    routed, best = np.array([0.5, 0.8, -0.2, 0.0, -0.1]), np.array([1.0, 0.8, 0.4, 0.0, 0.0])
    np.testing.assert_allclose(losses(routed, best), [0.5, 0, 1.5, 0, 1])


def test_the_table_compares_the_routed_member_with_the_best_under_every_utility():
    names, weights = ("base", "flat", "sharp"), np.array([[0.8, 0.2], [0.5, 0.5]])
    planes = Planes(names, np.array([[0.3, 0.3], [0.6, 0.6], [0.9, 0.0]]), np.zeros(3))
    users = pl.DataFrame({"user_id": ["ann", "bob"], "group": ["seen", "unseen"]})
    found = utilities.compare(users, weights, ["sharp", "flat"], planes)
    assert set(TABLES["utilities"].columns) <= set(found.columns)
    assert found["utility"].unique(maintain_order=True).to_list() == list(UTILITIES)
    ann = {row["utility"]: row for row in found.filter(user_id="ann").iter_rows(named=True)}
    assert ann["linear"]["loss"] == 0  # the linear model routes her to the best by its own lights
    assert ann["p0"]["routed"] == ann["worst"]["routed"] == 0
    assert ann["p0"]["loss"] == ann["p-1"]["loss"] == ann["worst"]["loss"] == 1
    assert (ann["p0.5"]["routed"], ann["p0.5"]["best"]) == pytest.approx((0.64 * 0.9, 0.6))
    assert found.filter(user_id="bob")["loss"].to_list() == pytest.approx([0] * 5)
    assert (found["best"] >= found["routed"]).all()


def test_evaluation_writes_utilities_that_agree_with_its_objectives(chain):
    table = tables.read("utilities")
    linear = table.filter(utility="linear").sort("user_id")
    routed = tables.read("evaluation").filter(method="portfolio").sort("user_id")
    np.testing.assert_allclose(linear["routed"], routed["objective"])
    assert linear["group"].to_list() == routed["group"].to_list()
    assert (table["loss"] >= -1e-12).all() and (table["loss"] > 0).any()
