"""Tuning: the choice on arrays, and both stages on a model small enough to enumerate."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tiny_chain
import tiny_models
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from tiny_chain import PARAMS

from palette import policies, tables, tuning
from palette.core.editing import Edit
from palette.core.tuning import choose, layer_set, representatives
from palette.errors import PaletteError
from palette.measuring import Policy
from palette.params import Tuning

LAYERS, HIDDEN = 2, 32
WEIGHTS = {  # brevity, humor, safety
    "ann": (0.1, 0.8, 0.1), "bob": (0.2, 0.7, 0.1), "cid": (0.0, 0.9, 0.1),
    "dot": (0.8, 0.1, 0.1), "eve": (0.1, 0.1, 0.8), "new": (0.3, 0.4, 0.3),
}  # fmt: skip
CLUSTERS = {"c0": ["ann", "bob", "cid"], "c1": ["dot"], "c2": ["eve"], "c3": []}
PLACE = {"new": "c3"} | {user: name for name, users in CLUSTERS.items() for user in users}
FEW = PARAMS.model_copy(update={
    "tuning": Tuning(strengths=[0.5, 1.0], layers=["all", "last"], users=2, samples=60)
})  # fmt: skip


@dataclass
class Book:
    """What `palette.edits` promises, of edits whose effect is known: the words of a taste."""

    clusters: dict[str, list[str]] = field(default_factory=lambda: CLUSTERS)
    depth: int = LAYERS
    kept: dict = field(default_factory=dict)

    def cluster(self, user: str) -> str:
        return PLACE[user]

    def group(self, user: str) -> str:
        return user

    def edit(self, user, method="edit", reference=None, layers="all") -> Edit:
        named = method, user, tuple((reference or {}).items()), layers
        if named not in self.kept:
            words = tiny_chain.base().model.get_output_embeddings().weight.detach()
            short, fun, safe = (
                words[tiny_chain.WORDS.index(w)] for w in ("<eos>", "haha", "careful")
            )
            away = torch.tensor(list((reference or {}).values()) or [0.0, 0.0, 0.0])
            taste = torch.tensor(WEIGHTS[user]) - away
            toward = taste[0] * short + taste[1] * fun + taste[2] * safe
            sign = -1.0 if method == "edit_mean" else float(method == "edit")
            shift = Edit.add(sign * toward.expand(LAYERS, -1).clone())
            self.kept[named] = shift.on(layer_set(layers, LAYERS))
        return self.kept[named]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tuning.books, "read", lambda params: Book())
    base = tiny_chain.base()
    tiny_models.save(base, tables.DATA / "base")
    asked = [
        (question, split)
        for split in tiny_chain.QUESTIONS
        for question in tiny_chain.QUESTIONS[split]
    ]
    names = [question for question, _ in asked]
    tables.write("prompts", pl.DataFrame({
        "prompt_id": names, "prompt": names, "topic": names, "split": [split for _, split in asked],
    }))  # fmt: skip
    rows = [
        {"user_id": user, "trait": trait, "weight": w, "low": w, "high": w, "evidence": 1.0}
        for user, own in WEIGHTS.items()
        for trait, w in zip(PARAMS.trait_names, own, strict=True)
    ]
    tables.write("weights", pl.DataFrame(rows))
    return tmp_path


def run(monkeypatch, what: str, params=FEW) -> pl.DataFrame:
    monkeypatch.setattr("sys.argv", ["tuning", what])
    tuning.main(params)
    return tables.read({"base": "trials", "members": "member_trials"}[what])


def write_members(member_values: dict[str, dict[str, float]]) -> None:
    """A portfolio whose members, of random weights, are worth what is said."""
    members = []
    for number, (name, values) in enumerate(member_values.items()):
        torch.manual_seed(number)
        config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
        get_peft_model(tiny_chain.base().model, config).save_pretrained(f"data/adapters/{name}")
        total = sum(values.values())
        weights = {trait: value / total for trait, value in values.items()}
        members.append({"id": name, "weights": weights, "values": values, "cost": 0.1})
    base = {"values": dict.fromkeys(PARAMS.trait_names, 0.3)}
    tables.write_json(
        tables.DATA / "portfolio" / "portfolio.json", {"base": base, "members": members}
    )


@pytest.mark.parametrize(
    ("depth", "upper"), [(1, [0]), (2, [1]), (3, [1, 2]), (4, [2, 3]), (5, [2, 3, 4])]
)
def test_layer_sets_are_never_empty(depth, upper):
    assert layer_set("all", depth) == list(range(depth))
    assert layer_set("upper", depth) == upper
    assert layer_set("last", depth) == [depth - 1]


def test_the_first_representative_is_in_the_middle_and_the_next_at_the_edges():
    line = np.array([[0.0], [0.4], [0.5], [0.6], [1.2]])
    assert representatives(line, 1) == [2]
    assert representatives(line, 3) == [2, 4, 0]
    assert representatives(np.zeros((0, 3)), 4) == []
    assert representatives(np.ones((5, 3)), 4) == [0]  # who are alike are asked once


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 1000))
def test_more_representatives_extend_fewer(users, count, seed):
    weights = np.random.default_rng(seed).dirichlet(np.ones(3), users)
    chosen = representatives(weights, count)
    assert len(chosen) == len(set(chosen)) == min(count, users)
    assert representatives(weights, max(1, count - 1)) == chosen[: max(1, count - 1)]


def test_the_best_of_the_trials_that_surely_gain_is_chosen():
    identity = np.array([0.2, 0.4, 0.6, 0.8])
    sure, large = np.full(4, 0.05), np.array([0.3, -0.2, 0.3, 0.2])
    no_harm = np.zeros(3)
    assert choose(np.stack([identity, identity + sure, identity + 2 * sure]), no_harm) == 2
    assert choose(np.stack([identity, identity + sure, identity - sure]), no_harm) == 1
    assert choose(np.stack([identity, identity + sure, identity + large]), no_harm) == 1
    noisy = np.array([0.3, -0.25, 0.3, -0.2])  # mean 0.04, error 0.15
    assert choose(np.stack([identity, identity + noisy, identity - sure]), no_harm) == 0


def test_the_best_of_many_trials_that_are_worth_nothing_is_hardly_ever_kept():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(600, 8, 40)) + rng.normal(size=(600, 1, 40))  # trials are alike
    kept = [choose(np.vstack([np.zeros(40), own]), np.zeros(9)) > 0 for own in noise]
    assert 0 < np.mean(kept) < 0.07  # 0.05 at most, and three errors
    best = noise.mean(axis=2).max(axis=1) / (noise.std(axis=2, ddof=1).max(axis=1) / np.sqrt(40))
    assert np.mean(best > 1) > 0.4  # the control: one standard error keeps nearly every second


def test_the_identity_wins_over_trials_that_do_nothing_or_that_one_prompt_praises():
    identity = np.random.default_rng(0).random(30)
    assert choose(np.stack([identity, identity + 1e-12]), np.zeros(2)) == 0
    assert choose(np.array([[0.1], [0.9]]), np.zeros(2)) == 0
    assert choose(identity[None], np.zeros(1)) == 0


def test_a_trial_that_breaks_answers_is_out_whatever_it_gains():
    identity = np.zeros(9)
    objective = np.stack([identity, identity + 0.5, identity + 0.1])
    assert choose(objective, np.array([0.1, 0.121, 0.12])) == 2
    assert choose(objective, np.array([0.1, 0.119, 0.12])) == 1
    assert choose(objective[:2], np.array([0.1, 0.2])) == 0


def test_every_method_and_cluster_has_the_same_trials_and_one_is_chosen(folder, monkeypatch):
    found = run(monkeypatch, "base")
    keys = found.group_by("method", "cluster", maintain_order=True).agg(
        pl.len(), pl.col("chosen").sum()
    )
    told = keys.filter(pl.col("cluster") != "c3")
    assert len(told) == len(tuning.TUNED) * 3 and set(told["len"]) == {1 + 2 * 2}
    nobody = found.filter(cluster="c3")  # nobody seen: nothing is known, nothing is done
    assert nobody["strength"].to_list() == [0.0] * len(tuning.TUNED)
    assert nobody["objective"].null_count() == len(nobody)
    assert set(keys["chosen"]) == {1}
    assert found.equals(found.sort("method", "cluster", "layers", "strength"))
    identity = found.filter(pl.col("strength") == 0)
    assert set(identity["layers"]) == {"all"} and identity["kl"].drop_nulls().eq(0).all()


def test_an_edit_toward_a_taste_is_chosen_and_one_away_from_it_is_not(folder, monkeypatch):
    monkeypatch.setattr(tuning.core, "DOUBT", 0.9)  # three prompts are few for more
    found = run(monkeypatch, "base")
    choice = tuning.chosen()
    assert choice["edit", "c0"][0] > 0
    gains = found.filter(method="edit", cluster="c0").sort("objective")
    assert gains["chosen"].to_list()[-1] and gains["kl"][-1] > 0.01
    assert choice["edit_mean", "c0"] == (0.0, "all")
    assert choice["edit_random", "c0"] == choice["edit", "c3"] == (0.0, "all")


def test_objectives_are_those_of_the_representatives_at_their_estimates(folder, monkeypatch):
    """Of c0 the medoid, ann, and the farthest, bob; each with an edit of their own."""
    assert representatives(np.array([WEIGHTS[user] for user in CLUSTERS["c0"]]), 2) == [0, 1]
    found = run(monkeypatch, "base")
    row = found.filter(method="edit", cluster="c0", strength=1.0, layers="last").row(0, named=True)
    edits: dict[str, Edit] = {}
    stand = [tuning.edited(Book(), user, "edit", (1.0, "last"), edits) for user in ("ann", "bob")]
    select = tables.read("prompts").filter(split="select")
    values = policies.worth(FEW, stand, select, edits, "test", 60, key=("tuning", 0))
    expected = []
    for user, policy in zip(("ann", "bob"), stand, strict=True):
        own = values.filter(policy=policy.name)
        reward = own.select(f"reward_{trait}" for trait in PARAMS.trait_names).to_numpy()
        expected.append((reward @ WEIGHTS[user]).mean() - PARAMS.objective.beta * own["kl"].mean())
    assert row["objective"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert row["kl"] == pytest.approx(values["kl"].mean(), abs=1e-6)
    assert edits["edit|ann|base|last|1"].layers == [1]


def test_nothing_but_select_prompts_and_seen_users_takes_part(folder, monkeypatch):
    few = FEW.model_copy(update={"tuning": FEW.tuning.model_copy(update={"samples": 5})})
    asked, policies_of = [], []
    real = policies.worth

    def worth(params, chosen, prompts, edits, *rest, **more):
        asked.extend(prompts["split"])
        policies_of.extend(policy.edit for policy in chosen)
        return real(params, chosen, prompts, edits, *rest, **more)

    monkeypatch.setattr(policies, "worth", worth)
    run(monkeypatch, "base", few)
    assert set(asked) == {"select"}
    users = {name.split("|")[1] for name in policies_of if name}
    assert users == {"ann", "bob", "dot", "eve", "everyone"}
    before = tables.path("trials").read_bytes()
    weights = tables.read("weights")  # of an unseen user: nothing was read of them
    other = pl.when(pl.col("user_id") == "new").then(1 / 3).otherwise(pl.col("weight"))
    tables.write("weights", weights.with_columns(weight=other))
    run(monkeypatch, "base", few)
    assert tables.path("trials").read_bytes() == before


def test_published_directions_are_everyones_and_answered_once(folder):
    edits: dict[str, Edit] = {}
    book = Book()
    one, other = (
        tuning.edited(book, user, "chameleon_tuned", (0.5, "all"), edits) for user in ("ann", "eve")
    )
    assert one == other and list(edits) == ["chameleon_tuned|everyone|base|all|0.5"]


def test_members_are_tuned_for_the_seen_users_they_serve(folder, monkeypatch):
    high = {"brevity": 0.2, "humor": 0.9, "safety": 0.2}
    rare = {"brevity": 0.3, "humor": 0.3, "safety": 0.3}
    write_members({"fun": high, "none": rare})
    found = run(monkeypatch, "members")
    units = tuning.members(FEW, Book())
    assert [(unit.member, unit.users) for unit in units] == [("fun", ["ann", "bob"]), ("none", [])]
    assert len(found.filter(member="fun")) == 5
    kept = tables.read("member_trials").filter("chosen", member="none")
    assert kept.select("strength", "layers").rows() == [(0.0, "all")]
    bare = found.filter(member="fun", strength=0.0).row(0, named=True)
    assert bare["kl"] > 0.01  # the identity is the member as it is
    assert found["chosen"].sum() == 2


def test_an_edit_on_a_member_goes_from_the_members_weights(folder):
    edits: dict[str, Edit] = {}
    weights = dict(zip(PARAMS.trait_names, WEIGHTS["ann"], strict=True))
    policy = tuning.edited(Book(), "ann", "edit", (1.0, "all"), edits, "fun", weights)
    assert policy == Policy((("data/adapters/fun", 1.0),), "edit|ann|fun|all|1")
    assert edits[policy.edit].layers == []  # who is served exactly needs nothing


def test_a_portfolio_without_members_has_nothing_to_tune(folder, monkeypatch):
    write_members({})
    assert run(monkeypatch, "members").is_empty()
    assert tables.read("member_trials").is_empty()


def test_users_of_a_cluster_share_its_choice_each_with_an_edit_of_their_own():
    chosen = {("edit", name): (0.5, "last") for name in CLUSTERS} | {("edit", "c1"): (0.0, "all")}
    edits: dict[str, Edit] = {}
    book = Book()
    ann, bob, dot, new = (
        tuning.policy(book, user, "edit", chosen, edits) for user in ("ann", "bob", "dot", "new")
    )
    assert dot == Policy() and len({ann, bob, new}) == 3 == len(edits)
    assert torch.equal(edits[ann.edit].shift, book.edit("ann").on([1]).shift * 0.5)
    again = dict(edits)
    assert tuning.policy(book, "ann", "edit", chosen, edits) == ann
    assert all(edits[name] is again[name] for name in again)  # one object, one table entry


def test_the_command_says_what_it_wants(monkeypatch):
    monkeypatch.setattr("sys.argv", ["tuning"])
    with pytest.raises(PaletteError, match="tuning base, or members"):
        tuning.main(FEW)
