"""Policies: who shares one shares its answers, and its worth is what exact sums say."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tiny_chain
import tiny_models
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_chain import PARAMS

from palette import measuring, policies, tables, traits
from palette.core.answers import complaint
from palette.core.editing import Edit, Edits
from palette.lm.models import load_base, with_adapters
from palette.measuring import Policy
from palette.params import Params, Trait

BASE = Policy()
LONG = Policy(insight="careful how")
ANN = Policy(edit="ann")
MEMBER = Policy((("data/adapters/m", 1.0),))
CUT = Policy(edit="cut")
LAYERS, HIDDEN = 2, 32


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A base of eight words, an adapter of random weights, and questions."""
    folder = tmp_path_factory.mktemp("policies")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        base = tiny_chain.base()
        tiny_models.save(base, tables.DATA / "base")
        torch.manual_seed(1)
        config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
        get_peft_model(base.model, config).save_pretrained("data/adapters/m")
        asked = tiny_chain.QUESTIONS["test"]
        tables.write("prompts", pl.DataFrame({
            "prompt_id": asked, "prompt": asked, "topic": asked, "split": "test",
        }))  # fmt: skip
    return folder


@pytest.fixture
def small(made, monkeypatch) -> Path:
    """The same folder, as the working directory."""
    monkeypatch.chdir(made)
    return made


def edits() -> dict[str, Edit]:
    """One that moves every layer, one that only turns, and one that knows no end of an answer."""
    shifts = torch.randn(2, LAYERS, HIDDEN, generator=torch.Generator().manual_seed(0))
    ending = tiny_chain.base().model.get_output_embeddings().weight[tiny_chain.EOS]
    last = torch.tensor([[0.0], [1.0]])
    return {
        "ann": Edit.add(shifts[0] * 0.2),
        "bob": Edit.project(shifts[1][:, None]) * -1.5,
        "cut": Edit.add(-60 * last * ending),
    }


def worth(chosen, own=None, params=PARAMS, **more) -> pl.DataFrame:
    """The worth of policies on the test prompts."""
    prompts = tables.read("prompts").filter(split="test").sort("prompt_id")
    return policies.worth(params, chosen, prompts, own or edits(), "test", **more)


def storing(name: str) -> Params:
    """The chain's params with a store of its own."""
    runtime = PARAMS.runtime.model_copy(update={"store": name})
    return PARAMS.model_copy(update={"runtime": runtime})


@pytest.fixture
def measured(monkeypatch) -> list[int]:
    """The rows of every batch that is answered."""
    batches: list[int] = []
    real = measuring.generate

    def generate(lm, prompts, *rest):
        batches.append(len(prompts))
        return real(lm, prompts, *rest)

    monkeypatch.setattr(measuring, "generate", generate)
    return batches


def of(frame: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    return frame.filter(policy=policy.name).sort("prompt_id")


def test_a_policy_has_one_name_everywhere():
    assert BASE.name == "base"
    others = [
        LONG, ANN, Policy((("a", 1.0),)), Policy((("b", 1.0),)), Policy((("a", 0.5), ("b", 0.5))),
        Policy((("a", 0.4), ("b", 0.6))), Policy((("a", 1.0),), "ann"), Policy(insight="ann"),
        Policy(quoting="ann"),
    ]  # fmt: skip
    names = [policy.name for policy in (BASE, *others)]
    assert len(set(names)) == len(names)
    here, there = Policy((("x/a", 0.5), ("x/b", 0.5))), Policy((("y/b", 0.5), ("y/a", 0.5)))
    assert here.name == there.name  # wherever the adapters lie


def test_the_base_is_at_no_distance_from_itself_and_has_its_own_worth(small):
    found = worth([BASE])
    assert found["kl"].to_list() == [0, 0]
    mean, _ = tiny_chain.exact(tiny_chain.world("test"), load_base("cpu").model)
    np.testing.assert_allclose(rewards(found), mean, atol=4 * 0.5 / np.sqrt(400))


def test_a_members_worth_is_the_exact_one(small):
    model = with_adapters(load_base("cpu"), {Path("data/adapters/m"): 1.0}).model
    mean, kl = tiny_chain.exact(tiny_chain.world("test"), model)
    found = worth([MEMBER])
    assert kl > 0.05
    assert found["kl"].mean() == pytest.approx(kl, rel=0.25)
    np.testing.assert_allclose(rewards(found), mean, atol=4 * 0.5 / np.sqrt(400))


@pytest.mark.parametrize("name", ["ann", "bob"])
@pytest.mark.parametrize("adapters", [(), MEMBER.adapters])
def test_an_edited_policys_worth_is_the_exact_one(small, name, adapters):
    """The edit acts while sampling and while scoring, at the same places; the base has none."""
    base = load_base("cpu")
    merged = {Path(folder): share for folder, share in adapters}
    model = with_adapters(base, merged).model if merged else base.model

    def edited(input_ids):
        changes = Edits([edits()[name]] * len(input_ids))
        rows = torch.arange(len(input_ids))
        with changes.attach(model):
            changes.focus(rows, first=torch.ones(len(rows), dtype=torch.long))
            return model(input_ids=input_ids)

    world = tiny_chain.world("test")
    assert {len(prompt) for prompt in world.prompts} == {2}  # so that answers begin after column 1
    mean, kl = tiny_chain.exact(world, edited)
    found = worth([Policy(adapters, name)])
    assert kl > 0.01
    assert found["kl"].mean() == pytest.approx(kl, rel=0.25)
    np.testing.assert_allclose(rewards(found), mean, atol=4 * 0.5 / np.sqrt(400))


def test_surprise_is_the_bases_own_measure_of_an_answer(small):
    """Of the base itself it is about the entropy of a token, of a policy far from it much more."""
    world = tiny_chain.world("test")
    lengths = np.array([len(answer) for answer in world.answers])
    exact = (np.exp(world.base) * -world.base / lengths).sum(1).mean()
    found = worth([BASE, CUT])
    assert of(found, BASE)["surprise"].mean() == pytest.approx(exact, rel=0.1)
    assert (of(found, CUT)["surprise"] > of(found, BASE)["surprise"]).all()


def test_answers_that_are_cut_off_empty_or_echoes_are_broken(small):
    world = tiny_chain.world("test")
    texts = world.lm.tokenizer.batch_decode(world.answers, skip_special_tokens=True)
    share = [
        sum(
            np.exp(logprob)
            for logprob, answer, text in zip(logprobs, world.answers, texts, strict=True)
            if answer[-1] != tiny_chain.EOS or complaint(question, text)
        )
        for question, logprobs in zip(world.questions, world.base, strict=True)
    ]
    found = worth([BASE, CUT])
    assert 0.05 < np.mean(share) < 0.95
    np.testing.assert_allclose(of(found, BASE)["broken"], share, atol=4 * 0.5 / np.sqrt(200))
    assert of(found, CUT)["broken"].to_list() == [1, 1]


def test_the_first_answer_is_kept_and_is_one_of_those_that_were_judged(small):
    """Of a single answer the mean rewards are its own."""
    single = PARAMS.model_copy(
        update={"baselines": PARAMS.baselines.model_copy(update={"samples": 1})}
    )
    found = worth([BASE, ANN], params=single)
    own = traits.score(PARAMS.traits, [""] * len(found), found["response"].to_list())
    columns = [f"reward_{trait}" for trait in PARAMS.trait_names]
    np.testing.assert_allclose(found.select(columns).to_numpy(), own)
    many = worth([BASE, ANN])
    assert many.sort("policy", "prompt_id")["response"].to_list() == (
        found.sort("policy", "prompt_id")["response"].to_list()
    )


def test_a_quoted_row_is_read_before_the_question(small):
    """The policy reads it; what it costs is the KL to the plain question."""
    asked = tiny_chain.QUESTIONS["test"]
    rows = {
        "ann": {q: ("how it", "haha") for q in asked},
        "bob": {q: ("it", "wipe") for q in asked},
    }
    ann, bob = Policy(quoting="ann"), Policy(quoting="bob")
    found = worth([BASE, ann, bob], quotes=rows, key=("paired", 0))
    assert (of(found, ann)["kl"] > 0.001).all()
    assert not of(found, ann).drop("policy").equals(of(found, bob).drop("policy"))
    swapped = {"bob": rows["ann"]}
    again = worth([bob], quotes=swapped, key=("paired", 0))
    assert of(again, bob).drop("policy").equals(of(found, ann).drop("policy"))


def test_each_policy_has_numbers_of_its_own_unless_they_are_named(small):
    """Common luck would be common to all users, where no interval over users could see it."""
    twin = Policy(edit="nothing")
    alone = worth([BASE, twin], {"nothing": edits()["ann"] * 0})
    assert not of(alone, BASE).drop("policy").equals(of(alone, twin).drop("policy"))


def test_samples_and_random_numbers_are_those_asked_for(small):
    few, many = worth([BASE], samples=1), worth([BASE], samples=3)
    thirds = many["broken"] * 3
    assert thirds.to_list() == thirds.round().to_list() and set(few["broken"]) <= {0.0, 1.0}
    again, other = (worth([BASE], key=("tuning", seed)) for seed in (0, 1))
    assert not again.equals(other) and not again.equals(worth([BASE]))
    assert again.equals(worth([BASE], key=("tuning", 0)))


def test_neither_company_nor_batches_nor_what_is_stored_change_a_bit(small, monkeypatch):
    chosen = [BASE, LONG, ANN, Policy(edit="bob"), Policy(MEMBER.adapters, "ann")]
    together = worth(chosen, params=storing("together"))
    assert len(together) == 2 * len(chosen)
    assert worth([*chosen, *reversed(chosen)]).equals(together)
    with monkeypatch.context() as patch:
        patch.setattr(policies, "HANDED", 1)
        assert worth(chosen, params=storing("one-by-one")).equals(together)
    growing = [worth(chosen[:count], params=storing("growing")) for count in range(1, 6)]
    assert growing[-1].equals(together)
    assert of(growing[0], BASE).equals(of(together, BASE))
    distinct = {tuple(of(together, policy)["kl"].round(4)) for policy in chosen}
    assert len(distinct) == len(chosen)


def test_policies_that_are_asked_together_are_so_whatever_is_stored(small, measured):
    own, adapted = edits(), Policy(MEMBER.adapters, "ann")
    chosen = [ANN, Policy(edit="bob"), adapted, Policy(MEMBER.adapters, "bob"), BASE]
    with_one = dict.fromkeys(chosen[:4], "one")
    rows = PARAMS.baselines.samples * len(tiny_chain.QUESTIONS["test"])
    first = worth(chosen, own, storing("all"), key=("k", 0), together=with_one)
    assert sorted(measured) == [rows, 2 * rows, 2 * rows]
    alone = worth(chosen, own, key=("k", 0))
    for column in ("kl", "surprise", "reward_brevity"):
        np.testing.assert_allclose(first[column], alone[column], atol=1e-4)
    part = storing("part")
    worth([BASE, ANN], own, part, key=("k", 0))  # what is known of one alone is no help
    assert worth(chosen, own, part, key=("k", 0), together=with_one).equals(first)
    measured.clear()
    assert worth(chosen, own, part, key=("k", 0), together=with_one).equals(first)
    assert not measured
    own["bob"] = own["bob"] * 0.5
    again = worth(chosen, own, part, key=("k", 0), together=with_one)
    assert sorted(measured) == [2 * rows] * 2  # with those beside it
    np.testing.assert_allclose(of(again, ANN)["kl"], of(first, ANN)["kl"], atol=1e-4)


def test_what_was_measured_once_is_not_measured_again(small, measured):
    params = storing("once")
    own, chosen = edits(), [ANN, LONG, MEMBER, Policy(edit="bob")]
    first = worth(chosen, own, params)
    assert len(measured) == 4
    assert worth(chosen, edits(), params).equals(first)  # equal edits, of other objects
    assert worth(chosen[1:3], params=params).equals(
        first.filter(pl.col("policy").is_in([LONG.name, MEMBER.name]))
    )
    assert len(measured) == 4
    worth([*chosen, Policy(insight="how mend")], own, params)
    assert len(measured) == 5
    worth([ANN, LONG, MEMBER, Policy(edit="bob")], own | {"ann": own["ann"] * 0.5}, params)
    assert len(measured) == 6


def test_whatever_a_worth_is_made_of_is_measured_anew(small, measured, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(MEMBER.adapters[0][0], folder)
    quoting = Policy(((folder.as_posix(), 1.0),), quoting="ann")
    asked = tables.read("prompts").filter(split="test")["prompt_id"]
    rows = {"ann": dict.fromkeys(asked, ("how it", "haha"))}
    params = storing("anew")
    usual = {"quotes": rows, "params": params}
    worth([quoting], **usual)
    scaled = params.traits | {"brevity": Trait(kind="brevity", best=0, worst=3)}
    short = params.rollouts.model_copy(update={"max_new_tokens": 2})
    others = [
        {"quotes": {"ann": dict.fromkeys(asked, ("how it", "wipe"))}}, {"samples": 7},
        {"key": ("tuning", 0)}, {"key": ("tuning", 1)},
        {"params": params.model_copy(update={"traits": scaled})},
        {"params": params.model_copy(update={"traits": dict(reversed(params.traits.items()))})},
        {"params": params.model_copy(update={"rollouts": short})},
    ]  # fmt: skip
    for count, other in enumerate(others, 2):
        for _ in range(2):
            worth([quoting], **usual | other)
            assert len(measured) == count, other
    weaker = Policy(((folder.as_posix(), 0.5),), quoting="ann")
    worth([weaker], **usual)
    assert len(measured) == count + 1
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({name: 2 * tensor for name, tensor in tensors.items()},
              folder / "adapter_model.safetensors")  # fmt: skip
    worth([quoting], **usual)
    assert len(measured) == count + 2


def test_a_trait_whose_code_was_changed_judges_anew(small, measured, tmp_path, monkeypatch):
    monkeypatch.setattr(traits, "__path__", [*traits.__path__, tmp_path.as_posix()])
    code = tmp_path / "of_the_test.py"
    code.write_text("def reward(prompts, responses):\n    return [0.5] * len(responses)\n")
    params = storing("code").model_copy(update={"traits": {"own": Trait(kind="of_the_test")}})
    for text, count in (("", 1), ("", 1), ("# changed\n", 2)):
        code.write_text(code.read_text() + text)
        assert worth([BASE], params=params, samples=2)["reward_own"].to_list() == [0.5, 0.5]
        assert len(measured) == count


def test_an_adapter_or_an_edit_that_does_nothing_is_the_base(small, tmp_path):
    still = tmp_path / "still"
    still.mkdir()
    source = Path("data/adapters/m")
    (still / "adapter_config.json").write_bytes((source / "adapter_config.json").read_bytes())
    tensors = load_file(source / "adapter_model.safetensors")
    save_file({name: 0 * tensor for name, tensor in tensors.items()},
              still / "adapter_model.safetensors")  # fmt: skip
    idle = [Policy(((still.as_posix(), 1.0),)), ANN, Policy(edit="bob")]
    nothing = {name: edit * 0 for name, edit in edits().items()}
    found = worth([BASE, *idle], nothing, key=("paired", 0))
    for policy in idle:
        one, base = (of(found, each).drop("policy", "surprise") for each in (policy, BASE))
        assert one.equals(base)
        np.testing.assert_allclose(of(found, policy)["surprise"], of(found, BASE)["surprise"], 1e-5)


def test_an_insight_is_paid_for_in_kl_to_the_plain_question(small):
    found = of(worth([LONG]), LONG)
    assert (found["kl"] > 0.001).all()


def test_users_of_one_policy_share_its_worth():
    values = pl.DataFrame(
        {"policy": [BASE.name, BASE.name, ANN.name], "prompt_id": ["p", "q", "p"], "kl": [0, 0, 1]}
    )
    found = policies.assign({"x": ANN, "y": BASE, "z": ANN}, values, "edit")
    assert found.select("user_id", "prompt_id", "kl").rows() == [
        ("x", "p", 1), ("y", "p", 0), ("y", "q", 0), ("z", "p", 1)
    ]  # fmt: skip
    assert found["method"].unique().to_list() == ["edit"]
    assert policies.assign({}, worthless(), "per_user").is_empty()


def rewards(found: pl.DataFrame) -> np.ndarray:
    """(traits,) mean over the rows."""
    return found.select(f"reward_{trait}" for trait in PARAMS.trait_names).to_numpy().mean(0)


def worthless() -> pl.DataFrame:
    """What `worth` says of no policies at all."""
    return policies.worth(PARAMS, [], pl.DataFrame(), {}, "none")
