"""Evaluation: every method beside the base and the ideal at equal weights, against exact sums."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tiny_chain
from tiny_chain import PARAMS
from tiny_models import save, tiny

from palette import arrays, evaluation, served, side_effects, tables, tastes
from palette.core.answers import complaint
from palette.lm.models import load_base, with_adapters
from palette.params import Params

METHODS = {
    "base", "prompt", "retrieval", "edit", "edit_random", "edit_mean", "edit_other", "chameleon",
    "chameleon_tuned", "single", "portfolio", "portfolio_robust", "portfolio_edit", "soup", "family",
    "per_user", "sft", "dpo", "ideal",
}  # fmt: skip
FEW = ("per_user", "sft", "dpo")
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
    return np.array(tastes.estimated(PARAMS.trait_names)[user])


def test_every_method_is_there_for_every_user(worth):
    users = set(tables.read("users")["user_id"])
    assert set(worth["method"]) == METHODS
    for (method,), rows in worth.group_by("method"):
        served = rows["user_id"].to_list()
        assert len(served) == len(set(served))
        assert set(served) <= users if method in FEW else set(served) == users
    for method in FEW:
        assert len(worth.filter(method=method)) == PARAMS.baselines.per_user


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
    told = pl.col("method").is_in(["prompt", "retrieval"])
    same = worth.filter((pl.col("method") == "base") | (told & (pl.col("group") == "no_history")))
    assert len(same) == 7 + 2 * len(tiny_chain.SILENT)
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
    users = tastes.judging(PARAMS.trait_names)
    routes = {user: members[row % len(members)] for row, user in enumerate(users["user_id"])}
    test = arrays.scored(PARAMS, ["test"])
    planes = evaluation.members_on(PARAMS, test)
    known = evaluation.unedited(PARAMS, planes, test.prompts)
    rows = evaluation.from_routes(evaluation.as_they_are(PARAMS, users, routes), known)
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
    judges = tastes.judging(PARAMS.trait_names)
    assert tables.read("hidden").is_empty()
    for row in judges.iter_rows(named=True):
        assert [row[f"w_{trait}"] for trait in PARAMS.trait_names] == pytest.approx(
            weights_of(row["user_id"])
        )


def test_the_weights_that_judged_are_written_beside_every_row(worth):
    for row in worth.iter_rows(named=True):
        own = [row[f"w_{trait}"] for trait in PARAMS.trait_names]
        assert own == pytest.approx(weights_of(row["user_id"]))


def test_true_weights_judge_where_they_are_known(hidden):
    truth = {"user_id": "ann", "taste": "x", "w_brevity": 0.2, "w_humor": 0.5, "w_safety": 0.3}
    hidden(pl.DataFrame([truth, truth | {"user_id": "stranger"}]))
    rows = {row["user_id"]: row for row in tastes.judging(PARAMS.trait_names).iter_rows(named=True)}
    assert sorted(rows) == sorted(tables.read("users")["user_id"])
    assert [rows["ann"][f"w_{trait}"] for trait in PARAMS.trait_names] == [0.2, 0.5, 0.3]
    assert rows["bob"]["w_humor"] == pytest.approx(weights_of("bob")[1])


def test_some_of_the_worlds_traits_share_what_is_left_of_the_true_weights(hidden, monkeypatch):
    hidden(pl.DataFrame([
        {"user_id": "ann", "taste": "x", "w_brevity": 0.2, "w_humor": 0.6, "w_safety": 0.2}
    ]))  # fmt: skip
    real = tastes.estimated
    monkeypatch.setattr(tastes, "estimated", lambda _: {
        user: [0.5, 0.5] for user in real(PARAMS.trait_names)
    })  # fmt: skip
    judges = tastes.judging(["humor", "safety"])
    ann = judges.row(by_predicate=pl.col("user_id") == "ann", named=True)
    assert (ann["w_humor"], ann["w_safety"]) == pytest.approx((0.75, 0.25))
    judges = tastes.judging(["humor", "candor"])
    assert set(judges["w_candor"]) == {0.5}  # a trait without true weights: estimates judge


def test_side_effects_are_measured_for_all_but_the_ideal(worth):
    for (method,), rows in worth.group_by("method"):
        for column in ("surprise", "broken"):
            assert rows[column].null_count() == (len(rows) if method == "ideal" else 0)
    known = worth.filter(pl.col("method") != "ideal")
    assert known["broken"].is_between(0, 1).all() and (known["surprise"] > 0).all()


def test_the_side_effects_of_the_base_are_the_exact_ones(worth):
    """An answer that is one of the base's own costs its entropy per token; what has no eos is cut."""
    small = tiny_chain.world("test")
    lengths = np.array([len(answer) for answer in small.answers])
    chance = np.exp(small.base)
    surprise = (chance * -small.base / lengths).sum(axis=1).mean()
    base = worth.filter(method="base")
    assert base["surprise"].n_unique() == base["broken"].n_unique() == 1
    assert base["surprise"][0] == pytest.approx(surprise, rel=0.03)
    cut = np.array([answer[-1] != tiny_chain.EOS for answer in small.answers])
    assert base["broken"][0] >= (chance * cut).sum(axis=1).mean() - 0.03


def test_a_member_is_measured_by_the_words_of_its_answers(chain):
    test = arrays.scored(PARAMS, ["test"])
    member = tables.read("values")["member"][0]
    told = side_effects.of_unedited(PARAMS, test.prompts, [member])
    assert told["member"].to_list() == ["base", member]
    surprise, broken = {}, {}
    rows = tables.read("values").filter(member=member, split="test")
    rows = rows.join(test.prompts.select("prompt_id", "prompt"), on="prompt_id")
    for row in rows.iter_rows(named=True):
        words = len(row["response"].split())  # a token each
        cut = words >= PARAMS.rollouts.max_new_tokens
        own = -row["logprob_base"] / (words + (not cut))
        surprise.setdefault(row["prompt_id"], []).append(own)
        bad = cut or complaint(row["prompt"], row["response"]) is not None
        broken.setdefault(row["prompt_id"], []).append(bad)
    for column, found in (("surprise", surprise), ("broken", broken)):
        mean = np.mean([np.mean(own) for own in found.values()])
        assert told[column][1] == pytest.approx(mean)


def test_the_tokens_of_a_members_text_are_counted_with_its_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tiny(), tables.DATA / "base")  # a token for each character
    told = {"member": "m", "prompt_id": "p", "logprob": -1.0, "logprob_base": -8.0}
    texts = [("abc", "test"), ("abcd", "test"), ("", "test"), ("<eos>", "test"), ("ab", "select")]
    tables.write("values", pl.DataFrame([
        told | {"sample": place, "response": text, "split": split, "reward_x": 0.0}
        for place, (text, split) in enumerate(texts)
    ]))  # fmt: skip
    params = Params.model_validate({
        "traits": {"x": {"kind": "humor"}}, "rollouts": {"max_new_tokens": 4},
        "runtime": {"device": "cpu"},
    })  # fmt: skip
    rows = side_effects.of_members(params)
    assert rows.select("length", "cut").rows() == [
        (4, False), (4, True), (1, False), (5, True),  # no end is spelt with characters
    ]  # fmt: skip
    assert rows["logprob"].to_list() == [-8.0] * 4


def test_who_is_left_with_a_member_as_it_is_has_the_members_own_worth(chain):
    test, users = arrays.scored(PARAMS, ["test"]), tastes.judging(PARAMS.trait_names)
    known = evaluation.unedited(PARAMS, evaluation.members_on(PARAMS, test), test.prompts)
    names = dict(known.select("policy", "member").rows())
    chosen, _ = served.policies(PARAMS)
    worth = tables.read("evaluation").filter(method="portfolio_edit")
    found = {row["user_id"]: row for row in worth.iter_rows(named=True)}
    rows = {row["member"]: row for row in known.iter_rows(named=True)}
    assert set(chosen) == set(users["user_id"])
    for user, policy in chosen.items():
        assert (policy.name in names) == (not policy.edit)
        if not policy.edit:
            own = rows[names[policy.name]]
            assert found[user]["kl"] == pytest.approx(own["kl"])
            assert found[user]["reward_humor"] == pytest.approx(own["reward_humor"])
    noisy = pl.DataFrame([{
        "method": "x", "user_id": "ann", "policy": "base", "prompt_id": "p", "kl": 9.0,
        "surprise": 9.0, "broken": 1.0, **{f"reward_{t}": 0.0 for t in PARAMS.trait_names},
    }])  # fmt: skip
    (own,) = evaluation.from_answers(noisy, known, users).iter_rows(named=True)
    assert (own["kl"], own["reward_humor"]) == (0, rows["base"]["reward_humor"])
    assert own["broken"] == rows["base"]["broken"]


def test_the_same_again_is_the_same_bytes(chain, tmp_path, monkeypatch):
    for name in ("data", "store"):
        shutil.copytree(chain / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    written = "evaluation", "answers", "utilities"
    before = [tables.path(name).read_bytes() for name in written]
    evaluation.main(PARAMS)
    assert [tables.path(name).read_bytes() for name in written] == before


def test_means_are_the_same_bits_however_threads_share_the_work(chain):
    names = sorted(path.name for path in Path("data/adapters").glob("*-*"))
    test = arrays.scored(PARAMS, ["test"])
    found = [arrays.worths(PARAMS, test, names) for _ in range(40)]
    assert len({worths.values.tobytes() + worths.costs.tobytes() for worths in found}) == 1
