"""What each source reveals of the true weights: all of it, nothing, and what lies between."""

import numpy as np
import polars as pl
import pytest
import tiny_models
from tiny_models import tiny

from palette import revealed, tables
from palette.core.choices import Choices
from palette.params import Params

USERS = 40
PARAMS = Params.model_validate({
    "traits": {"brevity": {"kind": "brevity", "best": 1, "worst": 31}, "humor": {"kind": "humor"}},
    "runtime": {"device": "cpu"},
})  # fmt: skip


@pytest.fixture
def weights() -> np.ndarray:
    return np.random.default_rng(0).dirichlet([1.0, 2.0, 3.0], 120)


def test_a_source_without_noise_tells_everything(weights):
    features = weights @ np.random.default_rng(1).normal(size=(3, 5)) + 7
    assert min(revealed.told(features, weights)) > 0.999


def test_a_random_source_tells_nothing(weights):
    features = np.random.default_rng(1).normal(size=(120, 40))
    assert max(revealed.told(features, weights)) < 0.05


def test_more_noise_tells_less(weights):
    noise = np.random.default_rng(1).normal(size=weights.shape)
    found = [revealed.told(weights + level * noise, weights)[0] for level in (0.0, 0.1, 0.3, 3.0)]
    assert found == sorted(found, reverse=True) and found[0] > 0.9 > found[1] > found[2] > found[3]


def test_a_weight_that_all_users_share_has_nothing_to_tell():
    assert revealed.told(np.arange(20.0)[:, None], np.ones((20, 1))) == [None]


def test_an_estimate_is_judged_as_it_is(weights):
    assert revealed.shares(weights, weights) == [1.0] * 3
    mean = np.broadcast_to(weights.mean(axis=0), weights.shape)
    assert revealed.shares(mean, weights) == pytest.approx([0.0] * 3)
    # No fit mends an estimate that is off: what says the opposite is worse than nothing.
    assert max(revealed.shares(2 * mean - weights, weights)) == pytest.approx(-3.0)


def test_disliked_rows_count_the_other_way_and_weights_weigh():
    choices = Choices(
        np.array([0, 0, 1, 3]),
        np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.2, 0.4]]),
        np.array([0.5, 1.0, -1.0, 1.0]), np.array([2.0, 3.0, 2.0, 0.0]),
        np.zeros(4, bool), np.zeros((0, 2)),
    )  # fmt: skip
    expected = [[0.25, 0.75], [-0.5, -0.5], [0, 0], [0, 0]]
    np.testing.assert_allclose(revealed.differences(choices, 4), expected)


def write_world(folder, users: int = USERS, known: bool = True) -> None:
    """Users whose pairs say exactly what they value, whose histories and insights say nothing."""
    rng = np.random.default_rng(0)
    tiny_models.save(tiny(), folder / "data" / "base")
    names, words = [f"u{i:03d}" for i in range(users)], rng.integers(1, 31, users)
    brevity = (31 - words) / 30  # the reward of that many words
    true = {"user_id": names, "taste": ["t"] * users, "w_brevity": brevity, "w_humor": 1 - brevity}
    tables.write("hidden", pl.DataFrame(true).head(users if known else 0))
    tables.write("users", pl.DataFrame(
        {"user_id": names, "cohort": ["seen"] * users, "rows": [2] * users, "public": [True] * users}
    ))  # fmt: skip
    rows = [(name, row) for name in names for row in range(2)]
    history = pl.DataFrame(rows, schema=["user_id", "row"], orient="row").with_columns(
        prompt=pl.lit("How?"), rating=pl.lit(None, pl.Float64), timestamp=pl.lit(None, pl.String)
    )
    said = ["so " * int(n) for n in rng.integers(1, 31, len(rows))]
    tables.write("histories", history.with_columns(response=pl.Series(said)))
    other = pl.Series(["so " * int(n) for n in rng.integers(1, 31, len(rows))])
    tables.write("contrasts", history.with_columns(sample=pl.lit(0), response=other))
    tables.write("pairs", pl.DataFrame({
        "user_id": names, "pair": [0] * users, "prompt": ["How?"] * users,
        "personal": ["so " * n for n in words.tolist()], "neutral": ["so " * 31] * users,
    }))  # fmt: skip
    tables.write("insights", pl.DataFrame({
        "user_id": names, "kind": ["personal"] * users, "insight": ["This user likes it."] * users,
        "items": [[0]] * users,
    }))  # fmt: skip
    tables.write("weights", pl.concat([
        pl.DataFrame({"user_id": names, "trait": [trait] * users, "weight": true[f"w_{trait}"]})
        for trait in ("brevity", "humor")
    ]).with_columns(low=0.0, high=1.0, evidence=1.0))  # fmt: skip


def test_every_source_is_measured_on_the_same_users(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_world(tmp_path)
    silent = tables.read("pairs").filter(pl.col("user_id") != "u003")
    tables.write("pairs", silent)
    found = revealed.compare(PARAMS)
    assert found["users"].unique().to_list() == [USERS - 1]
    share = {(source, trait): r2 for source, trait, r2, _ in found.rows()}
    assert len(share) == 8 and {source for source, _ in share} == {
        "insight", "pairs", "history", "estimate",
    }  # fmt: skip
    for trait in ("brevity", "humor"):
        assert share["pairs", trait] > 0.99
        assert share["estimate", trait] == pytest.approx(1.0)
        assert share["history", trait] < 0.3
        assert share["insight", trait] < 0.05
    tables.write("revealed", found)
    assert tables.read("revealed").equals(revealed.compare(PARAMS))


def test_pairs_that_count_nothing_in_the_estimate_are_still_measured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_world(tmp_path)
    settings = PARAMS.preferences.model_copy(update={"pairs": 0.0})
    found = revealed.compare(PARAMS.model_copy(update={"preferences": settings}))
    assert found.equals(revealed.compare(PARAMS))


@pytest.mark.parametrize("users, known", [(USERS, False), (9, True)])
def test_without_true_weights_or_with_few_users_the_table_is_empty(
    tmp_path, monkeypatch, users, known
):
    monkeypatch.chdir(tmp_path)
    write_world(tmp_path, users, known)
    assert revealed.compare(PARAMS).equals(tables.empty("revealed"))
    other = PARAMS.model_copy(update={"traits": {"safety": PARAMS.traits["humor"]}})
    assert revealed.compare(other).is_empty()
