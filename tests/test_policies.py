"""Policies: who shares one shares its answers, and its worth is what exact sums say."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tiny_chain
import torch
from safetensors.torch import load_file, save_file
from tiny_chain import PARAMS

from palette import policies, subspaces, tables
from palette.core.directions import Directions
from palette.lm.models import load_base, with_adapters
from palette.policies import Policy

BASE = Policy()
LONG = Policy(insight="careful how")
ANN = Policy(edit="ann")


def member() -> str:
    return sorted(path for path in Path("data/adapters").iterdir() if path.is_dir())[0].as_posix()


def worth(chosen, directions: Directions | None = None, params=PARAMS) -> pl.DataFrame:
    """The worth of policies on the test prompts; run it in the chain's folder."""
    prompts = tables.read("prompts").filter(split="test").sort("prompt_id")
    return policies.worth(params, chosen, prompts, directions or subspaces.read(), "test")


def of(frame: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    return frame.filter(policy=policy.name).sort("prompt_id")


def test_a_policy_has_one_name_everywhere():
    assert BASE.name == "base"
    others = [
        LONG, ANN, Policy((("a", 1.0),)), Policy((("b", 1.0),)), Policy((("a", 0.5), ("b", 0.5))),
        Policy((("a", 0.4), ("b", 0.6))), Policy((("a", 1.0),), "ann"), Policy(insight="ann"),
    ]  # fmt: skip
    names = [policy.name for policy in (BASE, *others)]
    assert len(set(names)) == len(names)
    here, there = Policy((("x/a", 0.5), ("x/b", 0.5))), Policy((("y/b", 0.5), ("y/a", 0.5)))
    assert here.name == there.name  # wherever the adapters lie


def test_the_base_is_at_no_distance_from_itself_and_has_its_own_worth(chain):
    found = worth([BASE])
    assert found["kl"].to_list() == [0, 0]
    mean, _ = tiny_chain.exact(tiny_chain.world("test"), load_base("cpu").model)
    rewards = found.select(f"reward_{trait}" for trait in PARAMS.trait_names).to_numpy().mean(0)
    np.testing.assert_allclose(rewards, mean, atol=4 * 0.5 / np.sqrt(400))


def test_a_members_worth_is_the_exact_one(chain):
    adapted = Policy(((member(), 1.0),))
    base = load_base("cpu")
    mean, kl = tiny_chain.exact(
        tiny_chain.world("test"), with_adapters(base, {Path(member()): 1.0}).model
    )
    found = worth([adapted]).drop("policy", "prompt_id").mean()
    assert kl > 0.05
    assert found["kl"].item() == pytest.approx(kl, rel=0.25)
    rewards = found.select(f"reward_{trait}" for trait in PARAMS.trait_names).row(0)
    np.testing.assert_allclose(rewards, mean, atol=4 * 0.5 / np.sqrt(400))


def test_an_edited_policys_worth_is_the_exact_one(chain):
    """The edit acts while sampling and while scoring, at the same places; the base has none."""
    model, directions = load_base("cpu").model, subspaces.read()

    def edited(input_ids):
        rows = len(input_ids)
        edits = directions.edits(["ann"] * rows)
        edits.focus(torch.arange(rows), first=torch.ones(rows, dtype=torch.long))
        with edits.attach(model):
            return model(input_ids=input_ids)

    small = tiny_chain.world("test")
    assert {len(prompt) for prompt in small.prompts} == {2}  # so that answers begin after column 1
    mean, kl = tiny_chain.exact(small, edited)
    found = worth([ANN]).drop("policy", "prompt_id").mean()
    assert kl > 0.01
    assert found["kl"].item() == pytest.approx(kl, rel=0.25)
    rewards = found.select(f"reward_{trait}" for trait in PARAMS.trait_names).row(0)
    np.testing.assert_allclose(rewards, mean, atol=4 * 0.5 / np.sqrt(400))


def test_neither_company_nor_batches_change_a_worth(chain, monkeypatch):
    chosen = [BASE, LONG, ANN, Policy(edit="bob"), Policy(((member(), 1.0),), "ann")]
    together = worth(chosen)
    assert len(together) == 2 * len(chosen)
    assert worth([*chosen, *reversed(chosen)]).equals(together)
    monkeypatch.setattr(policies, "TOGETHER", 1)
    apart = worth(chosen)
    for policy in chosen:
        one, other = of(together, policy), of(apart, policy)
        assert one["prompt_id"].to_list() == other["prompt_id"].to_list()
        for column in ("kl", *(f"reward_{trait}" for trait in PARAMS.trait_names)):
            np.testing.assert_allclose(one[column], other[column], atol=1e-5)
    distinct = {tuple(of(together, policy)["kl"].round(4)) for policy in chosen}
    assert len(distinct) == len(chosen)


def test_an_adapter_or_an_edit_that_does_nothing_is_the_base(chain, tmp_path):
    still = tmp_path / "still"
    still.mkdir()
    (still / "adapter_config.json").write_bytes(Path(member(), "adapter_config.json").read_bytes())
    tensors = load_file(Path(member(), "adapter_model.safetensors"))
    save_file({name: 0 * tensor for name, tensor in tensors.items()},
              still / "adapter_model.safetensors")  # fmt: skip
    directions = subspaces.read()
    nothing = replace(directions, personal=0 * directions.personal, neutral=0 * directions.neutral)
    idle = [Policy(((still.as_posix(), 1.0),)), ANN]
    found = worth([BASE, *idle], nothing)
    for policy in idle:
        assert of(found, policy).drop("policy").equals(of(found, BASE).drop("policy"))


def test_an_insight_is_paid_for_in_kl_to_the_plain_question(chain):
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


def worthless() -> pl.DataFrame:
    """What `worth` says of no policies at all."""
    return policies.worth(PARAMS, [], pl.DataFrame(), None, "none")
