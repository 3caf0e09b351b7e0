"""Adapters: a name for what made them, trained once, written as PEFT's own directories."""

import numpy as np
import pytest
import tiny_chain

from palette import family, members, tables, training_data
from palette.errors import PaletteError
from palette.lm.models import cached_base, load_base
from palette.lm.rehearsal import rehearse
from palette.lm.training import train_members
from palette.params import Adapters, Params
from palette.passes import TOGETHER, Forecast, Pass, announce, foretell, is_long, reckon, split
from palette.store import Store
from palette.training_data import Rollouts, adapter_key, family_key
from tests.test_fanout import running_cluster

TRAITS = {
    "brevity": {"kind": "brevity", "best": 8, "worst": 34}, "humor": {"kind": "humor"},
    "safety": {"kind": "safety"},
}  # fmt: skip
WEIGHTS = {"brevity": 0.7, "humor": 0.3, "safety": 0.0}
REWARDS = np.random.default_rng(0).random((2, 3, 3))
ROLLOUTS = Rollouts(["p", "q"], ["How?", "Why?"], [[[1, 2], [3]], [[4], [5, 6]]], REWARDS)


def key(weights=WEIGHTS, drawn=ROLLOUTS, base="base", traits=TRAITS, **sections) -> str:
    return adapter_key(settings(traits, sections), drawn, weights, base)


def for_all(drawn=ROLLOUTS, base="base", traits=TRAITS, **sections) -> str:
    """The key of the family."""
    return family_key(settings(traits, sections), drawn, base)


def settings(traits, sections) -> Params:
    own = {"rloo_steps": 0} | sections.pop("adapters", {})
    return Params.model_validate({"traits": traits, "adapters": own} | sections)


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
            {"rloo_steps": 1}, {"max_minutes": 5},
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
    assert key(adapters=alone | {"learning_rate": 0.1, "batch": 9}) == key(adapters=alone)


def test_a_family_is_made_of_every_trait_and_of_no_plan():
    assert for_all(plan={"epsilon": 0.01}, portfolio={"epsilon": 0.4}) == for_all()
    assert for_all(drawn=with_rewards(2, 0.5)) != for_all()
    assert for_all(weights={"floor": {"safety": 0.1}}) != for_all()
    assert for_all(adapters={"concentration": 2.0}) != for_all() != key()
    assert key(adapters={"concentration": 2.0, "kind": "members"}) == key()


def test_members_are_split_evenly_and_no_pass_is_too_large():
    names = [f"m{number}" for number in range(37)]
    for workers in (1, 2, 5):
        parts = split(names, workers)
        assert sorted(name for part in parts for name in part) == sorted(names)
        sizes = {len(part) for part in parts}
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= TOGETHER
        assert len(parts) >= workers
    assert split(["one"], 2) == [["one"]]
    assert split([], 2) == []


def test_an_interrupted_pass_is_met_again(chain, monkeypatch):
    """Killed in the middle of a pass: the next run goes on from its checkpoint, to the same bytes."""
    from palette.lm.checkpoints import Saving

    slow = tiny_chain.OF_MEMBERS.adapters.model_copy(update={"seed": 7, "steps": 6})
    runtime = tiny_chain.PARAMS.runtime.model_copy(update={"store": "store-whole"})
    whole = tiny_chain.OF_MEMBERS.model_copy(update={"adapters": slow, "runtime": runtime})
    other = runtime.model_copy(update={"store": "store-killed"})
    killed = whole.model_copy(update={"runtime": other})
    wanted = {"a": {"brevity": 1.0, "humor": 0.0, "safety": 0.0},
              "b": {"brevity": 0.2, "humor": 0.5, "safety": 0.3}}  # fmt: skip
    first = members.train(whole, wanted, "whole")

    begin, done = Saving.on_step_begin, []

    def interrupt(self, args, state, control, **more):
        self._seconds = 0.0  # a checkpoint at every step
        if state.global_step == 4:
            raise KeyboardInterrupt
        begin(self, args, state, control, **more)

    monkeypatch.setattr(Saving, "on_step_begin", interrupt)
    with pytest.raises(KeyboardInterrupt):
        members.train(killed, wanted, "killed")

    def count(self, args, state, control, **more):
        done.append(state.global_step)
        begin(self, args, state, control, **more)

    monkeypatch.setattr(Saving, "on_step_begin", count)
    assert members.train(killed, wanted, "again") == first
    assert len(done) == 2  # of six


def test_rollouts_and_their_rewards_are_of_the_same_prompt(chain):
    found = training_data.read_rollouts(tiny_chain.PARAMS)
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
    params, plan = tiny_chain.OF_MEMBERS, tables.read_json(chain / "data/plan/plan.json")
    wanted = {member["id"]: member["weights"] for member in plan["members"]}
    store, base = Store("store"), load_base("cpu").digest
    rollouts = training_data.read_rollouts(params)
    keys = {name: adapter_key(params, rollouts, w, base) for name, w in wanted.items()}
    assert len(set(keys.values())) == len(wanted) > 1
    before = {name: store.load(found) for name, found in keys.items()}
    assert all(before.values())
    capfd.readouterr()
    assert members.train(params, wanted, "again") == before
    assert "again: 0 of 0" in capfd.readouterr().err
    for files in before.values():
        assert sorted(files) == ["adapter_config.json", "adapter_model.safetensors", members.LOG]


def test_members_of_a_family_are_its_points(chain, capfd):
    plan = tables.read_json(chain / "data/plan/plan.json")
    weights = np.array([list(member["weights"].values()) for member in plan["members"]])
    for member, files in zip(
        plan["members"], family.points(tiny_chain.PARAMS, weights), strict=True
    ):
        folder = chain / "data/adapters" / member["id"]
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == files
    capfd.readouterr()
    stored = members.train_family(tiny_chain.PARAMS)
    assert capfd.readouterr().err == ""  # nothing is trained again
    assert stored["family.safetensors"] == (chain / "data/family/family.safetensors").read_bytes()


def test_without_a_family_there_are_no_points(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PaletteError, match="dvc repro family"):
        family.points(tiny_chain.PARAMS, np.array([[1.0, 0.0, 0.0]]))


def test_what_is_about_to_be_trained_is_said(capfd):
    part = tiny_chain.PARAMS.adapters.model_copy(update={"max_minutes": 3.0})
    announce(part, [Pass(["a", "b"], ["1", "2"]), Pass(["c"], ["3"])], "training")
    said = capfd.readouterr().err
    assert said == (
        "training: 3 of rank 2 in 2 passes, 12 supervised steps of 32 rows and 2 RLOO steps of 32 "
        "rows each, at most 3 min a phase\n"
    )
    announce(part, [Pass(["a"], ["1"])], "training", reckon(part, 10.0, 20.0, 3))
    trained, generated = (12 + 2) * 32 * 30 / 1e6, 2 * 32 * 20 / 1e6
    assert capfd.readouterr().err.endswith(
        f"a phase: at most {trained:.3g} M tokens to train on and {generated:.3g} M tokens to generate\n"
    )


def test_a_forecast_counts_rounds_of_passes_and_the_memory_of_those_side_by_side(capfd):
    foretell([Forecast(60, 900), Forecast(50, 1200), Forecast(10, 100)], workers=2)
    said = capfd.readouterr().err
    assert said == "by a rehearsal it will take about 2 min 00 s and 2.1 GB at most\n"
    assert is_long(Adapters(steps=0, rloo_steps=20))
    assert not is_long(tiny_chain.PARAMS.adapters)


def test_a_rehearsal_foretells_and_leaves_no_trace(chain):
    rollouts = training_data.read_rollouts(tiny_chain.PARAMS)
    base, task = cached_base("cpu"), members._task(tiny_chain.PARAMS, rollouts)
    part = tiny_chain.PARAMS.adapters.model_copy(update={"steps": 30, "rloo_steps": 0})
    weights = np.eye(3)[:2]
    before = train_members(base, task, weights, part)
    forecast = rehearse(base, task, weights, part)
    assert train_members(base, task, weights, part) == before
    assert forecast.seconds > 0
    assert 50 < forecast.peak < 20_000
    short = part.model_copy(update={"max_minutes": 0.001})
    assert rehearse(base, task, weights, short).seconds <= 0.06


def test_a_training_says_what_was_logged_and_learned(chain):
    log, own = tables.read("family_training"), tiny_chain.PARAMS.adapters
    assert log["phase"].to_list() == ["supervised"] * own.steps + ["rloo"] * own.rloo_steps
    assert log["step"].to_list() == [*range(1, own.steps + 1), *range(1, own.rloo_steps + 1)]
    losses = log.filter(phase="supervised")["loss"]
    assert losses.tail(3).mean() < losses.head(3).mean()
    assert tables.read("training").is_empty()  # no member had a training of its own


@pytest.mark.slow
def test_members_trained_over_a_dask_cluster_are_the_same(chain):
    """A real cluster of two workers, each of which trains its part in one pass."""
    wanted = {
        f"m{part}": {"brevity": part / 4, "humor": 1 - part / 4, "safety": 0.0} for part in range(4)
    }

    def trained(engine: str) -> dict[str, dict[str, bytes]]:
        changed = {"engine": engine, "workers": 2, "store": str(chain / f"store-{engine}")}
        runtime = tiny_chain.PARAMS.runtime.model_copy(update=changed)
        return members.train(
            tiny_chain.OF_MEMBERS.model_copy(update={"runtime": runtime}), wanted, "training"
        )

    here = trained("sequential")
    with running_cluster(n_workers=2, threads_per_worker=1):
        there = trained("dask")
    assert there == here
