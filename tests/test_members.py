"""Adapters: a name for what made them, trained once, written as PEFT's own directories."""

import numpy as np
import polars as pl
import pytest
import tiny_chain

from palette import members, tables
from palette.lm.models import load_base
from palette.members import Rollouts, adapter_key
from palette.params import Params
from palette.store import Store

TRAITS = {
    "brevity": {"kind": "brevity", "best": 8, "worst": 34}, "humor": {"kind": "humor"},
    "safety": {"kind": "safety"},
}  # fmt: skip
WEIGHTS = {"brevity": 0.7, "humor": 0.3, "safety": 0.0}
REWARDS = np.random.default_rng(0).random((2, 3, 3))
ROLLOUTS = Rollouts(["p", "q"], ["How?", "Why?"], [[[1, 2], [3]], [[4], [5, 6]]], REWARDS)


def key(weights=WEIGHTS, drawn=ROLLOUTS, base="base", traits=TRAITS, **sections) -> str:
    sections.setdefault("adapters", {})
    params = Params.model_validate({"traits": traits} | sections)
    return adapter_key(params, drawn, weights, base)


def with_rewards(trait: int, rewards: np.ndarray) -> Rollouts:
    changed = REWARDS.copy()
    changed[:, :, trait] = rewards
    return Rollouts(ROLLOUTS.prompt_ids, ROLLOUTS.questions, ROLLOUTS.answers, changed)


def reordered(order: list[str]) -> str:
    places = [list(TRAITS).index(trait) for trait in order]
    rollouts = Rollouts(
        ROLLOUTS.prompt_ids, ROLLOUTS.questions, ROLLOUTS.answers, REWARDS[:, :, places]
    )
    weights = {trait: WEIGHTS[trait] for trait in reversed(order)}
    return key(weights, rollouts, traits={trait: TRAITS[trait] for trait in order})


def test_what_a_member_does_not_weigh_is_no_part_of_it():
    assert key(drawn=with_rewards(2, 0.5)) == key()
    assert key(traits=TRAITS | {"safety": {"kind": "humor"}}) == key()
    fewer = {trait: TRAITS[trait] for trait in ("brevity", "humor")}
    without = Rollouts(ROLLOUTS.prompt_ids, ROLLOUTS.questions, ROLLOUTS.answers, REWARDS[:, :, :2])
    assert key({"brevity": 0.7, "humor": 0.3}, without, traits=fewer) == key()


def test_the_order_of_the_traits_is_no_part_of_it():
    assert reordered(["safety", "humor", "brevity"]) == key()


@pytest.mark.parametrize(
    "unused",
    [
        {"adapters": {"rloo_learning_rate": 0.5}}, {"adapters": {"generations": 4}},
        {"rollouts": {"max_new_tokens": 5}}, {"values": {"samples": {"test": 1}}},
        {"plan": {"epsilon": 0.01}}, {"portfolio": {"epsilon": 0.4}},
        {"runtime": {"workers": 1, "store": "elsewhere"}}, {"rollouts": {"samples": {"test": 3}}},
        {"traits": TRAITS | {"humor": {"kind": "humor", "told": 1}}},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_no_step_uses_are_no_part_of_it(unused):
    assert key(**unused) == key()


@pytest.mark.parametrize(
    "used",
    [
        {"weights": {"brevity": 0.69, "humor": 0.31, "safety": 0.0}}, {"base": "another"},
        {"weights": {"brevity": 0.3, "humor": 0.7, "safety": 0.0}}, {"objective": {"beta": 0.2}},
        {"drawn": with_rewards(0, 0.5)}, {"drawn": with_rewards(1, REWARDS[:, :, 1] + 1e-9)},
        {"drawn": Rollouts(["p", "q"], ["How?", "Who?"], ROLLOUTS.answers, REWARDS)},
        {"drawn": Rollouts(["p", "q"], ["How?", "Why?"], [[[1, 2], [3]], [[4], [5]]], REWARDS)},
        *({"adapters": setting} for setting in (
            {"rank": 8}, {"learning_rate": 1e-3}, {"batch": 64}, {"steps": 61}, {"seed": 1},
            {"rloo_steps": 1},
        )),
    ],
    ids=str,
)  # fmt: skip
def test_what_makes_a_member_is_part_of_it(used):
    assert key(**used) != key()


def test_on_policy_steps_bring_their_settings_and_the_rewards_parameters():
    on = {"rloo_steps": 1}
    known = key(adapters=on)
    assert key(adapters=on | {"rloo_learning_rate": 0.5}) != known
    assert key(adapters=on | {"generations": 4}) != known
    assert key(adapters=on, traits=TRAITS | {"humor": {"kind": "humor", "told": 1}}) != known
    assert key(adapters=on, rollouts={"max_new_tokens": 9}) != known
    alone = on | {"steps": 0}
    assert key(adapters=alone | {"learning_rate": 0.1}) == key(adapters=alone)


def test_rollouts_and_their_rewards_are_of_the_same_prompt(chain):
    found = members.read_rollouts(tiny_chain.PARAMS)
    prompts = tables.read("prompts").filter(split="train")
    assert found.questions == prompts["prompt"].to_list()
    assert found.rewards.shape == (3, 100, 3)
    decode, small = tiny_chain.base().tokenizer.decode, tiny_chain.PARAMS
    for prompt, (answers, rewards) in enumerate(zip(found.answers, found.rewards, strict=True)):
        texts = [decode(ids, skip_special_tokens=True).strip() for ids in answers]
        np.testing.assert_array_equal(rewards, members.traits.score(small.traits, texts, texts))
        rows = tables.read("rollouts").filter(prompt_id=found.prompt_ids[prompt])
        assert rows.sort("sample")["tokens"].to_list() == answers


def test_every_adapter_was_stored_under_its_key_and_is_not_trained_again(chain, capfd):
    params, plan = tiny_chain.PARAMS, tables.read_json(chain / "data/plan/plan.json")
    wanted = {member["id"]: member["weights"] for member in plan["members"]}
    store, base = Store("store"), load_base("cpu").digest
    rollouts = members.read_rollouts(params)
    keys = {name: adapter_key(params, rollouts, w, base) for name, w in wanted.items()}
    assert len(set(keys.values())) == len(wanted) > 1
    before = {name: store.load(found) for name, found in keys.items()}
    assert all(before.values())
    capfd.readouterr()
    assert members.train(params, wanted, "again") == before
    assert "again: 0 of 0" in capfd.readouterr().err
    for name, files in before.items():
        folder = chain / "data/adapters" / name
        assert sorted(files) == ["adapter_config.json", "adapter_model.safetensors", members.LOG]
        assert sorted(file.name for file in folder.iterdir()) == sorted(files)[:2]
        for file in folder.iterdir():
            assert file.read_bytes() == files[file.name]


def test_an_adapter_says_what_was_logged_and_learned(chain):
    log = tables.read("training")
    steps = tiny_chain.PARAMS.adapters.steps
    for _, rows in log.group_by("member"):
        assert rows["step"].to_list() == list(range(1, steps + 1))
        assert rows["phase"].unique().to_list() == ["supervised"]
    ends = log.group_by("member").agg(
        first=pl.col("loss").head(3).mean(), last=pl.col("loss").tail(3).mean()
    )
    assert (ends["last"] < ends["first"]).all()


def test_weighted_rewards_are_a_weighted_sum():
    traits = Params.model_validate({"traits": TRAITS}).traits
    weighted = members.Weighted(traits, np.array([0.5, 0.25, 0.25]))
    texts = ["Wipe it. A funny hat helps too.", "Wear gloves for this."]
    assert weighted(["", ""], texts).tolist() == pytest.approx([0.5 + 0.15, 0.5 + 0.15])
