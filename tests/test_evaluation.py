"""Evaluation: every method beside the base and the ideal at equal weights, against exact sums."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tiny_chain
from tiny_chain import PARAMS

from palette import arrays, baselines, evaluation, tables
from palette.lm.models import load_base, with_adapters
from palette.params import Params

METHODS = {
    "base", "prompt", "edit", "edit_random", "edit_other", "single", "portfolio",
    "portfolio_robust", "portfolio_edit", "soup", "per_user", "ideal",
}  # fmt: skip
UNEDITED = ("base", "single", "portfolio")
BETA = PARAMS.objective.beta


@pytest.fixture
def worth(chain) -> pl.DataFrame:
    return tables.read("evaluation").with_columns(
        share=(pl.col("objective") - pl.col("base")) / (pl.col("ideal") - pl.col("base"))
    )


@pytest.fixture
def hidden(chain, monkeypatch):
    """Say what the true weights are, for as long as a test lasts."""
    real = tables.read

    def tell(frame: pl.DataFrame) -> None:
        monkeypatch.setattr(tables, "read", lambda n, *a: frame if n == "hidden" else real(n, *a))

    return tell


def weights_of(user: str) -> np.ndarray:
    return np.array(baselines.estimated(PARAMS.trait_names)[user])


def test_every_method_is_there_for_every_user(worth):
    users = set(tables.read("users")["user_id"])
    assert set(worth["method"]) == METHODS
    for (method,), rows in worth.group_by("method"):
        served = rows["user_id"].to_list()
        assert len(served) == len(set(served))
        assert set(served) <= users if method == "per_user" else set(served) == users
    assert len(worth.filter(method="per_user")) == PARAMS.baselines.per_user


def test_seen_unseen_and_silent_users_are_apart(worth):
    groups = dict(worth.select("user_id", "group").unique().rows())
    assert {user for user, group in groups.items() if group == "no_history"} == set(
        tiny_chain.SILENT
    )
    cohorts = dict(tables.read("users").select("user_id", "cohort").rows())
    for user in tiny_chain.HISTORIES:
        assert groups[user] == cohorts[user]
    assert set(groups.values()) == {"seen", "unseen", "no_history"}


def test_rows_add_up(worth):
    for row in worth.iter_rows(named=True):
        rewards = np.array([row[f"reward_{trait}"] for trait in PARAMS.trait_names])
        assert row["reward"] == pytest.approx(weights_of(row["user_id"]) @ rewards)
        assert row["objective"] == pytest.approx(row["reward"] - BETA * row["kl"])
        assert row["kl"] >= 0
        assert row["ideal"] > row["base"]


def test_what_equals_the_base_has_a_share_of_nothing_and_the_ideal_of_everything(worth):
    same = worth.filter((pl.col("method") == "base") | (
        (pl.col("method") == "prompt") & (pl.col("group") == "no_history")
    ))  # fmt: skip
    assert len(same) == 7 + len(tiny_chain.SILENT)
    np.testing.assert_allclose(same["share"], 0, atol=1e-12)
    assert same["kl"].to_list() == [0] * len(same)
    ideal = worth.filter(method="ideal")
    np.testing.assert_allclose(ideal["share"], 1, atol=1e-9)
    np.testing.assert_allclose(ideal["objective"], ideal["ideal"])


def test_the_references_are_the_exact_ones(worth):
    small = tiny_chain.world("test")
    mean, kl = tiny_chain.exact(small, load_base("cpu").model)
    assert kl == pytest.approx(0, abs=1e-6)
    for row in worth.filter(method="ideal").iter_rows(named=True):
        weights = weights_of(row["user_id"])
        assert row["base"] == pytest.approx(weights @ mean, abs=0.02)
        assert row["ideal"] == pytest.approx(tiny_chain.ideal(small, weights), abs=0.02)


def test_the_portfolio_is_worth_what_its_members_are(chain):
    """Sampled, scored, merged, routed and averaged, it is still the exact J of the routed model."""
    small, base = tiny_chain.world("test"), load_base("cpu")
    portfolio = tables.read_json(tables.DATA / "portfolio" / "portfolio.json")
    members = ["base", *(member["id"] for member in portfolio["members"])]
    assert len(members) > 2
    users = evaluation.judges(PARAMS)
    routes = {user: members[row % len(members)] for row, user in enumerate(users["user_id"])}
    test = arrays.scored(PARAMS, ["test"])
    planes = evaluation.members_on(PARAMS, test)
    rows = evaluation.from_planes(PARAMS, planes, users, routes)
    worth = evaluation.compare(PARAMS, rows, test, users)
    for row in worth.filter(method="portfolio").iter_rows(named=True):
        folder = Path("data/adapters", routes[row["user_id"]])
        model = base if folder.name == "base" else with_adapters(base, {folder: 1.0})
        mean, kl = tiny_chain.exact(small, model.model)
        assert row["objective"] == pytest.approx(
            weights_of(row["user_id"]) @ mean - BETA * kl, abs=0.02
        )
        assert row["kl"] == pytest.approx(kl, rel=0.1)


def test_nothing_unedited_beats_the_ideal(worth):
    unedited = worth.filter(pl.col("method").is_in(UNEDITED))
    assert (unedited["objective"] < unedited["ideal"] + 0.02).all()
    small = tiny_chain.world("test")
    for folder in sorted(Path("data/adapters").glob("*-*")):
        model = with_adapters(load_base("cpu"), {folder: 1.0}).model
        mean, kl = tiny_chain.exact(small, model)
        for weights in np.random.default_rng(0).dirichlet(np.ones(3), 50):
            assert weights @ mean - BETA * kl < tiny_chain.ideal(small, weights)


def test_the_single_member_is_chosen_for_seen_users_on_select(chain):
    portfolio = tables.read_json(Path("data/portfolio/portfolio.json"))
    names = [member["id"] for member in portfolio["members"]]
    chosen = evaluation.best_for_all(PARAMS)
    on_select = arrays.worths(PARAMS, arrays.scored(PARAMS, ["select"]), names)
    seen = tables.read("users").filter(cohort="seen")["user_id"]
    mean = np.mean([weights_of(user) for user in seen], axis=0)
    worths = on_select.values.mean(1) @ mean - on_select.costs.mean(1)
    assert chosen == on_select.names[int(worths.argmax())]
    used = tables.read("evaluation").filter(method="single").select("^reward_.*$").unique()
    assert len(used) == 1


def test_users_without_true_weights_are_judged_by_their_estimates(chain):
    judges = evaluation.judges(PARAMS)
    assert tables.read("hidden").is_empty()
    for row in judges.iter_rows(named=True):
        assert [row[f"w_{trait}"] for trait in PARAMS.trait_names] == pytest.approx(
            weights_of(row["user_id"])
        )


def test_true_weights_judge_where_they_are_known(hidden):
    truth = {"user_id": "ann", "taste": "x", "w_brevity": 0.2, "w_humor": 0.5, "w_safety": 0.3}
    hidden(pl.DataFrame([truth, truth | {"user_id": "stranger"}]))
    rows = {row["user_id"]: row for row in evaluation.judges(PARAMS).iter_rows(named=True)}
    assert sorted(rows) == sorted(tables.read("users")["user_id"])
    assert [rows["ann"][f"w_{trait}"] for trait in PARAMS.trait_names] == [0.2, 0.5, 0.3]
    assert rows["bob"]["w_humor"] == pytest.approx(weights_of("bob")[1])


def test_some_of_the_worlds_traits_share_what_is_left_of_the_true_weights(hidden, monkeypatch):
    hidden(pl.DataFrame([
        {"user_id": "ann", "taste": "x", "w_brevity": 0.2, "w_humor": 0.6, "w_safety": 0.2}
    ]))  # fmt: skip
    real = baselines.estimated
    monkeypatch.setattr(baselines, "estimated", lambda _: {
        user: [0.5, 0.5] for user in real(PARAMS.trait_names)
    })  # fmt: skip
    kinds = {"humor": {"kind": "humor"}, "safety": {"kind": "safety"}}
    judges = evaluation.judges(Params.model_validate({"traits": kinds}))
    ann = judges.row(by_predicate=pl.col("user_id") == "ann", named=True)
    assert (ann["w_humor"], ann["w_safety"]) == pytest.approx((0.75, 0.25))
    unknown = {"humor": {"kind": "humor"}, "candor": {"kind": "safety"}}
    judges = evaluation.judges(Params.model_validate({"traits": unknown}))
    assert set(judges["w_candor"]) == {0.5}  # a trait without true weights: estimates judge


def test_the_same_again_is_the_same_bytes(chain, tmp_path, monkeypatch):
    for name in ("data", "store"):
        shutil.copytree(chain / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    before = tables.path("evaluation").read_bytes()
    evaluation.main(PARAMS)
    assert tables.path("evaluation").read_bytes() == before


def test_means_are_the_same_bits_however_threads_share_the_work(chain):
    names = sorted(path.name for path in Path("data/adapters").glob("*-*"))
    test = arrays.scored(PARAMS, ["test"])
    found = [arrays.worths(PARAMS, test, names) for _ in range(40)]
    assert len({worths.values.tobytes() + worths.costs.tobytes() for worths in found}) == 1
