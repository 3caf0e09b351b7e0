"""Preferences: known weights are recovered, intervals hold, and no rows mean the group's prior."""

import numpy as np
import polars as pl
import pytest

from palette import preferences, tables
from palette.core.choices import Choices, Chooser, Prior, from_rating, recency
from palette.core.preference import draw_particles, fit_prior, posterior
from palette.core.said import learn_said
from palette.params import Params

SCALE, LEVEL = 5.0, 0.9
PLAIN = Chooser(SCALE, 0.0)
EVEN = Prior(draw_particles(np.zeros(2), 0), np.full(2048, 1 / 2048))


def tastes(d: int, users: int, rng: np.random.Generator) -> np.ndarray:
    """(users, d) weights, each user near one of up to three corners."""
    centres = 0.6 * np.eye(d)[: min(d, 3)] + 0.4 / d
    return np.stack(
        [rng.dirichlet(12 * c) for c in centres[rng.integers(len(centres), size=users)]]
    )


def expected(
    rewards: np.ndarray, row: np.ndarray, teaches: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What the base's answers to each row's prompt are worth, and how they lie about that."""
    said = learn_said(rewards, row, teaches)
    return said.expected(rewards, row, int(row.max(initial=-1)) + 1), said.base


def pairs(user: np.ndarray, difference: np.ndarray, weight: np.ndarray | None = None) -> Choices:
    """The first of two answers was chosen."""
    n = len(user)
    weight = np.ones(n) if weight is None else weight
    base = np.zeros((0, difference.shape[1]))
    return Choices(user, difference, np.ones(n), weight, np.ones(n, bool), base)


def choices(weights: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> Choices:
    """`rows[i]` choices of user i between two random answers, by the logistic rule."""
    user = np.repeat(np.arange(len(weights)), rows)
    difference = rng.uniform(-1, 1, (len(user), weights.shape[1]))
    liked = rng.random(len(user)) < 1 / (1 + np.exp(-SCALE * (difference * weights[user]).sum(1)))
    return pairs(user, difference * np.where(liked, 1, -1)[:, None])


@pytest.mark.parametrize("d", [1, 2, 3, 5, 8])
def test_known_weights_are_recovered_and_intervals_hold(d):
    rng = np.random.default_rng(d)
    seen, users = 200, 300
    weights, rows = tastes(d, users, rng), rng.integers(0, 21, users)
    made = choices(weights, rows, rng)
    prior = fit_prior(made.of(np.arange(seen)), seen, draw_particles(np.zeros(d), 0), PLAIN)
    found = posterior(made, users, prior, PLAIN, LEVEL)
    np.testing.assert_allclose(found.mean.sum(1), 1)
    held = (found.low - 1e-9 <= weights) & (weights <= found.high + 1e-9)
    for cohort in (rows <= 3, (rows > 3) & (rows <= 10), rows > 10):
        assert held[cohort].mean() > LEVEL - 0.07
    if d > 1:
        error, width = np.abs(found.mean - weights).mean(1), (found.high - found.low).mean(1)
        assert error[rows > 15].mean() < 0.75 * error[rows == 0].mean()
        assert width[rows > 15].mean() < 0.75 * width[rows == 0].mean()


def test_many_rows_pin_the_weights_whatever_the_group_likes():
    rng = np.random.default_rng(0)
    weights = np.array([[0.1, 0.2, 0.7]])
    group = choices(np.tile([0.8, 0.1, 0.1], (50, 1)), np.full(50, 10), rng)
    prior = fit_prior(group, 50, draw_particles(np.zeros(3), 0), PLAIN)
    odd = posterior(choices(weights, np.array([600]), rng), 1, prior, PLAIN, LEVEL)
    np.testing.assert_allclose(odd.mean, weights, atol=0.1)
    assert (odd.high - odd.low).max() < 0.3


def test_no_rows_mean_the_prior_and_a_wide_interval():
    rng = np.random.default_rng(1)
    made = choices(tastes(3, 80, rng), np.full(80, 10), rng)
    prior = fit_prior(made, 80, draw_particles(np.zeros(3), 0), PLAIN)
    found = posterior(made, 82, prior, PLAIN, LEVEL)
    np.testing.assert_allclose(found.mean[80:], np.tile(prior.masses @ prior.particles, (2, 1)))
    widths = (found.high - found.low).mean(1)
    assert widths[80] == widths[81] > widths[:80].mean()
    assert made.evidence(82)[-2:].tolist() == [0, 0]


def test_prior_learns_the_group_and_never_collapses():
    rng = np.random.default_rng(2)
    made = choices(np.tile([0.8, 0.1, 0.1], (100, 1)), np.full(100, 20), rng)
    particles = draw_particles(np.zeros(3), 0)
    prior = fit_prior(made, 100, particles, PLAIN)
    assert prior.masses.sum() == pytest.approx(1) and prior.masses.min() > 0
    assert (prior.masses @ particles)[0] == pytest.approx(0.8, abs=0.12)
    assert np.exp(-(prior.masses * np.log(prior.masses)).sum()) > 50, "mass on a few particles"


def test_no_choices_at_all_leave_all_particles_equal():
    nothing = pairs(np.zeros(0, int), np.zeros((0, 3)))
    prior = fit_prior(nothing, 5, draw_particles(np.zeros(3), 0), PLAIN)
    np.testing.assert_allclose(prior.masses, 1 / len(prior.masses))
    assert posterior(nothing, 5, prior, PLAIN, LEVEL).mean.shape == (5, 3)


def test_a_weight_counts_as_so_many_choices():
    delta = np.array([[0.8, -0.5]])
    one = pairs(np.zeros(1, int), delta)
    split = pairs(np.zeros(4, int), delta.repeat(4, 0), np.full(4, 0.25))
    a, b = (posterior(c, 1, EVEN, PLAIN, LEVEL) for c in (one, split))
    np.testing.assert_allclose(a.mean, b.mean)
    assert split.evidence(1) == one.evidence(1) == 1


def rows(
    difference: np.ndarray, liking: np.ndarray | None = None, base: np.ndarray | None = None
) -> Choices:
    """One user's answers among all, where the base's lie about what is expected of them."""
    n, d = difference.shape
    liking = np.ones(n) if liking is None else liking
    half = np.random.default_rng(0).uniform(-0.5, 0.5, (250, d))
    base = np.concatenate([half, -half]) if base is None else base
    return Choices(np.zeros(n, int), difference, liking, np.ones(n), np.zeros(n, bool), base)


def test_ratings_weigh_and_sign_a_row():
    np.testing.assert_allclose(from_rating(np.array([np.nan, 1, 0.75, 0.5, 0])), [1, 1, 0.5, 0, -1])

    def mean(rating: float) -> float:
        made = rows(np.array([[0.4, -0.4]]), from_rating(np.array([rating])))
        return posterior(made, 1, EVEN, PLAIN, LEVEL).mean[0, 0]

    assert mean(1.0) > mean(0.75) > mean(0.5) > mean(0.25) > mean(0.0)
    assert mean(0.0) == pytest.approx(1 - mean(1.0), abs=0.02)
    assert mean(0.5) == pytest.approx(EVEN.particles[:, 0].mean())


def test_an_answer_like_the_bases_own_speaks_for_weights_that_the_base_serves():
    """The first trait varies in the base's answers, the second hardly: who wants the first says so."""
    base = np.random.default_rng(0).normal(size=(500, 2)) * [0.3, 0.01]
    plain = posterior(rows(np.zeros((10, 2)), base=base), 1, EVEN, PLAIN, LEVEL)
    assert plain.mean[0, 0] < 0.35 < EVEN.particles[:, 0].mean()


def test_half_of_the_rows_say_the_contrary():
    clear = np.tile([[0.4, -0.4]], (10, 1))
    torn = rows(np.concatenate([clear[:5], -clear[:5]]))
    told, doubt = (posterior(c, 1, EVEN, PLAIN, LEVEL) for c in (rows(clear), torn))
    assert doubt.mean[0, 0] == pytest.approx(0.5, abs=0.05)
    assert (doubt.high - doubt.low)[0, 0] > 1.5 * (told.high - told.low)[0, 0]


def test_a_few_rows_of_someone_else_do_not_overrule_the_rest():
    made = rows(np.concatenate([np.tile([[0.2, -0.2]], (8, 1)), np.tile([[-0.5, 0.5]], (3, 1))]))
    trusting = posterior(made, 1, EVEN, PLAIN, LEVEL)
    wary = posterior(made, 1, EVEN, Chooser(SCALE, 0.3), LEVEL)
    alone = posterior(rows(made.difference[:8]), 1, EVEN, Chooser(SCALE, 0.3), LEVEL)
    assert trusting.mean[0, 0] < wary.mean[0, 0] < alone.mean[0, 0]
    assert (wary.high - wary.low)[0, 0] > (alone.high - alone.low)[0, 0]


def test_half_lives_halve():
    age = np.array([0, 10, 20, np.nan])
    np.testing.assert_allclose(recency(age, 10.0), [1, 0.5, 0.25, 1])
    np.testing.assert_allclose(recency(age, None), 1)


def test_what_is_expected_of_the_base_leans_on_all_rows_where_prompts_do_not_differ():
    rng, row = np.random.default_rng(0), np.repeat(np.arange(400), 2)
    teaches = np.ones(800, bool)
    alike = rng.normal(size=(800, 2))
    mean, around = expected(alike, row, teaches)
    np.testing.assert_allclose(mean, np.tile(alike.mean(0), (400, 1)), atol=0.25)
    np.testing.assert_allclose(around.std(0), 1, atol=0.1)
    level = rng.normal(size=(400, 2)) * [5, 1]
    mean, around = expected(alike + level[row], row, teaches)
    # Of two answers' mean, variance 25 + 1/2 about 0, 25/25.5 is the prompt's; of the other, 1/1.5.
    raw = (alike + level[row]).reshape(400, 2, 2).mean(1)
    np.testing.assert_allclose(mean[:, 0], raw[:, 0], atol=0.4)
    assert np.polyfit(raw[:, 1], mean[:, 1], 1)[0] == pytest.approx(1 / 1.5, abs=0.1)
    # A fresh answer about what one other lets expect: within, and what is not known of its prompt.
    np.testing.assert_allclose(around.std(0), np.sqrt(1 + np.array([25 / 26, 1 / 2])), atol=0.15)


def test_answers_to_other_users_prompts_teach_nothing_where_they_may_not():
    rng, row = np.random.default_rng(0), np.repeat(np.arange(6), 2)
    rewards, teaches = rng.random((12, 2)), row < 4
    mean, around = expected(rewards, row, teaches)
    other = np.where(teaches[:, None], rewards, rng.random((12, 2)))
    again, alike = expected(other, row, teaches)
    np.testing.assert_array_equal(around, alike)
    np.testing.assert_array_equal(mean[:4], again[:4])
    assert expected(np.zeros((0, 3)), np.zeros(0, int), np.zeros(0, bool))[0].shape == (0, 3)


def test_users_do_not_see_one_another_and_blocks_change_nothing(monkeypatch):
    rng = np.random.default_rng(3)
    made = choices(tastes(3, 20, rng), rng.integers(0, 9, 20), rng)
    prior = fit_prior(made, 20, draw_particles(np.zeros(3), 0), PLAIN)
    whole = posterior(made, 20, prior, PLAIN, LEVEL)
    alone = posterior(made.of(np.array([7])), 1, prior, PLAIN, LEVEL)
    np.testing.assert_allclose(alone.mean[0], whole.mean[7])
    monkeypatch.setattr("palette.core.choices.USERS_AT_ONCE", 3)
    np.testing.assert_allclose(posterior(made, 20, prior, PLAIN, LEVEL).low, whole.low)


def test_floors_hold_for_every_particle():
    floor = np.array([0.0, 0.2, 0.1])
    particles = draw_particles(floor, 0)
    assert (particles >= floor - 1e-12).all()
    np.testing.assert_allclose(particles.sum(1), 1)
    assert np.array_equal(particles, draw_particles(floor, 0))
    assert particles.max(0) == pytest.approx([0.7, 0.9, 0.8], abs=0.02)


@pytest.fixture
def data(tmp_path, monkeypatch) -> Params:
    """Two seen users of opposite tastes, one without rows, one unseen; histories and contrasts."""
    monkeypatch.chdir(tmp_path)
    short, long = "Wipe it.", " ".join(["Wipe the kettle with a cloth and let it dry."] * 4)
    users = {"ann": "seen", "bob": "seen", "cy": "seen", "dee": "unseen"}
    liked = {"ann": short, "bob": long, "dee": short}
    tables.write("users", pl.DataFrame({
        "user_id": list(users), "cohort": list(users.values()), "rows": [3, 3, 0, 3],
        "public": [False] * 4,
    }))  # fmt: skip
    rows = [
        {"user_id": user, "row": row, "prompt": "How?", "response": text, "rating": None,
         "timestamp": None}
        for user, text in liked.items() for row in range(3)
    ]  # fmt: skip
    tables.write("histories", pl.DataFrame(rows, schema=tables.empty("histories").schema))
    contrasts = [
        {"user_id": user, "row": row, "sample": sample,
         "response": long if text == short else short}
        for user, text in liked.items() for row in range(3) for sample in range(2)
    ]  # fmt: skip
    tables.write("contrasts", pl.DataFrame(contrasts))
    tables.write("pairs", pl.DataFrame({
        "user_id": ["ann"], "pair": [0], "prompt": ["How?"], "personal": [short], "neutral": [long],
    }))  # fmt: skip
    traits = {
        "brevity": {"kind": "brevity", "best": 2, "worst": 30},
        "safety": {"kind": "safety"},
    }
    return Params.model_validate({"traits": traits})


def test_stage_tells_tastes_apart(data):
    preferences.main(data)
    table = tables.read("weights")
    assert table.height == 8
    brevity = {r["user_id"]: r for r in table.filter(trait="brevity").iter_rows(named=True)}
    assert brevity["ann"]["weight"] > brevity["cy"]["weight"] > brevity["bob"]["weight"]
    assert brevity["dee"]["weight"] > brevity["cy"]["weight"]
    assert brevity["ann"]["evidence"] == pytest.approx(3 + data.preferences.pairs)
    assert brevity["cy"]["evidence"] == 0
    assert all(r["low"] <= r["weight"] <= r["high"] for r in brevity.values())


def test_groups_of_users_have_the_weights_of_all_at_once(data, monkeypatch):
    """One after another, as a million would be read."""
    preferences.main(data)
    whole, chooser = tables.read("weights"), preferences.CHOOSER.read_text()
    one = data.runtime.model_copy(update={"engine": "sequential"})
    monkeypatch.setattr(preferences, "ROWS_AT_ONCE", 20)
    assert len(preferences.blocks(tables.read("users").sort("user_id"))) > 2
    preferences.main(data.model_copy(update={"runtime": one}))
    assert preferences.CHOOSER.read_text() == chooser
    found = tables.read("weights")
    assert found.select("user_id", "trait").equals(whole.select("user_id", "trait"))
    for name in ("weight", "low", "high", "evidence"):
        np.testing.assert_allclose(found[name], whole[name], rtol=0, atol=1e-7)


def test_users_whom_the_base_was_not_asked_about_have_weights_too(data):
    """Their rows are laid beside what the base says on average."""
    tables.write("contrasts", tables.read("contrasts").filter(pl.col("user_id") != "dee"))
    preferences.main(data)
    assert tables.read("weights").filter(user_id="dee")["evidence"].to_list() == [0, 0]
    some = data.insights.model_copy(update={"users": 3})
    preferences.main(data.model_copy(update={"insights": some}))
    brevity = {r["user_id"]: r for r in tables.read("weights").filter(trait="brevity").to_dicts()}
    assert brevity["dee"]["evidence"] == pytest.approx(3)
    assert brevity["dee"]["weight"] > brevity["cy"]["weight"] > brevity["bob"]["weight"]


def test_unseen_users_teach_the_prior_nothing(data):
    users = tables.read("users").sort("user_id")
    chooser, prior = preferences.learn(data, users, preferences.compare(data, users))
    tables.write("contrasts", tables.read("contrasts").filter(pl.col("user_id") != "dee"))
    again, alike = preferences.learn(data, users, preferences.compare(data, users))
    assert chooser == again
    np.testing.assert_array_equal(prior.masses, alike.masses)


def test_nobody_has_any_rows(data):
    for table in ("histories", "contrasts", "pairs"):
        tables.write(table, tables.empty(table))
    preferences.main(data)
    weights = tables.read("weights")
    assert weights["evidence"].sum() == 0
    np.testing.assert_allclose(weights["weight"], 0.5, atol=0.03)
