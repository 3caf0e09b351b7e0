"""The whole chain, every stage real, on models as others save them, beside sums over all answers."""

import foreign
import numpy as np
import pytest
import tiny_chain
import tiny_models
import typer
from peft import PeftModel

from palette import members, tables, traits
from palette.commands.certify import certify
from palette.exporting import sameness
from palette.family import points
from palette.lm.models import load_base
from palette.params import Params

PARAMS = Params.model_validate(tiny_chain.PARAMS.model_dump(mode="json") | {
    "insights": {"items": 1, "candidates": 2, "pairs": 1, "contrasts": 1},
    "subspaces": {"restarts": 1, "epochs": 2, "samples": 20},
    "tuning": {"strengths": [0.5], "layers": ["all"], "users": 1, "samples": 4},
    "rollouts": {"max_new_tokens": 3, "samples": {
        "train": 60, "select": 40, "certify": 40, "test": 600}},
    "plan": {"epsilon": 0.1, "lattice": 4, "max_members": 2},
    "adapters": {"rank": 2, "batch": 32, "steps": 16, "learning_rate": 0.005, "rloo_batch": 16,
                 "rloo_steps": 4},
    "values": {"samples": {"select": 20, "certify": 20, "test": 600}},
    "baselines": {"samples": 2, "per_user": 1, "steps": 1, "training": 2},
})  # fmt: skip
FAMILIES = [*foreign.FAMILIES, "sandbox"]


@pytest.fixture(scope="module", params=FAMILIES)
def made(request, tmp_path_factory):
    """Family, and the folder in which the chain has run on it."""
    folder, elsewhere = (tmp_path_factory.mktemp(name) for name in ("project", "model"))
    if request.param == "sandbox":
        tiny_models.save(tiny_chain.base(), elsewhere)
    else:
        foreign.save(request.param, elsewhere)
    tiny_chain.build(folder, PARAMS, elsewhere)
    return request.param, folder


@pytest.mark.slow
def test_the_whole_chain_runs_on_it_and_says_what_is_so(made, monkeypatch):
    family, folder = made
    monkeypatch.chdir(folder)
    assert [file.name for file in (tables.DATA / "base").iterdir()] == ["reference.json"]
    base = load_base("cpu")
    assert base.model.config.model_type == ("llama" if family == "sandbox" else family)
    ends = {foreign.EOS, foreign.TURN} if family in ("phi3", "gemma2") else {foreign.EOS}
    assert base.eos == ends

    # What the stages measured, beside sums over every answer that there is.
    asked = tables.read("prompts").filter(split="test").sort("prompt_id")
    small = foreign.Answers(base, asked["prompt"].to_list())
    rewards = scored(small)
    chance = np.exp(small.base)
    assert chance.sum(1) == pytest.approx(1, abs=1e-4)  # in float32
    names = [f"reward_{trait}" for trait in PARAMS.trait_names]
    drawn = tables.read_rewards(PARAMS.trait_names).join(asked, on="prompt_id")
    assert drawn.select(names).mean().row(0) == pytest.approx((chance @ rewards).mean(0), abs=0.05)
    planned = tables.read_json(tables.DATA / "plan" / "plan.json")["members"]
    assert planned
    for told in planned:
        mean, kl = worth(small, rewards, tables.DATA / "adapters" / told["id"])
        own = tables.read("values").filter(member=told["id"], split="test")
        assert own.select(names).mean().row(0) == pytest.approx(mean, abs=0.05)
        ratio = (own["logprob"] - own["logprob_base"]).mean()
        assert ratio == pytest.approx(kl, abs=0.05 + 0.1 * kl)

    # What the training was for, on the prompts that it saw.
    seen = foreign.Answers(base, tables.read("prompts").filter(split="train")["prompt"].to_list())
    before = (np.exp(seen.base) @ rewards).mean(0)
    for trait, files in enumerate(points(PARAMS, np.eye(len(names)))):
        members.write(files, folder / f"corner-{trait}")
        mean, kl = worth(seen, rewards, folder / f"corner-{trait}")
        assert mean[trait] - before[trait] - PARAMS.objective.beta * kl > 0.03

    portfolio = tables.read_json(tables.DATA / "portfolio" / "portfolio.json")
    kept = {m["id"]: tables.DATA / "adapters" / m["id"] for m in portfolio["members"]}
    if kept:
        assert sameness.check(base, kept)["relative"] < 1e-3
    with pytest.raises(typer.Exit) as said:
        certify(tables.DATA / "portfolio" / "portfolio.json")
    assert said.value.exit_code == (0 if portfolio["passed"] else 1)
    assert not tables.read("evaluation")["objective"].is_null().any()


def scored(small) -> np.ndarray:
    """(answers, traits)"""
    texts = small.lm.tokenizer.batch_decode(small.answers, skip_special_tokens=True)
    return traits.score(PARAMS.traits, [""] * len(texts), texts)


def worth(small, rewards, adapter) -> tuple[np.ndarray, float]:
    """A member's mean rewards and its KL to the base, exactly, by PEFT on a fresh base."""
    adapted = PeftModel.from_pretrained(load_base("cpu").model, adapter)
    logprobs = small.logprobs(adapted)
    chance = np.exp(logprobs)
    return (chance @ rewards).mean(0), float((chance * (logprobs - small.base)).sum(1).mean())
