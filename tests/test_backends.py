"""Engines in place of our own loop: each must be the model that it says it is."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import foreign
import numpy as np
import pytest
import tiny_chain
import torch
from peft import PeftModel
from tiny_models import save
from worlds import world

from palette import tables, traits
from palette.errors import PaletteError
from palette.lm import backends
from palette.lm.generation import generate, row_uniforms
from palette.lm.models import cached_base, load_base, with_adapters

ROWS = 3000


class HuggingFace:
    """`generate` of transformers, as an engine: another sampler of the same policies."""

    def __init__(self, folder: Path):
        self.folder, self.asked = folder, []

    def answer(self, prompts, limit, seeds, ends, adapter):
        self.asked.append(adapter)
        model = load_base("cpu", self.folder).model
        if adapter is not None:
            model = PeftModel.from_pretrained(model, adapter)
        torch.manual_seed(0 if seeds is None else seeds[0])
        made, rows = [], {}
        for row, prompt in enumerate(prompts):
            rows.setdefault(tuple(prompt), []).append(row)
        found = {}
        for prompt, same in rows.items():
            out = model.generate(
                torch.tensor([prompt] * len(same)), do_sample=seeds is not None, temperature=1.0, top_k=0,
                top_p=1.0, repetition_penalty=1.0, max_new_tokens=limit, eos_token_id=sorted(ends),
                pad_token_id=0, output_scores=True, return_dict_in_generate=True,
            )  # fmt: skip
            scores = torch.stack(out.scores, 1).float().log_softmax(-1)
            for place, row in enumerate(same):
                drawn = out.sequences[place, len(prompt) :].tolist()
                stop = next((i + 1 for i, token in enumerate(drawn) if token in ends), len(drawn))
                own = [float(scores[place, i, token]) for i, token in enumerate(drawn[:stop])]
                found[row] = drawn[:stop], sum(own)
        made = [found[row] for row in range(len(prompts))]
        return made


def engine(name: str, folder: Path) -> backends.Engine:
    if name == "vllm":
        if importlib.util.find_spec("vllm") is None:
            pytest.skip("vLLM is not installed")
        return backends.Vllm(str(folder), None)
    return HuggingFace(folder)


@pytest.fixture(params=["transformers", "vllm"])
def lm(request, tmp_path):
    """A world's base, answered by an engine."""
    save(world().lm, tmp_path)
    base = load_base("cpu", tmp_path)
    return replace(base, engine=engine(request.param, tmp_path))


def test_an_engines_frequencies_are_the_exact_distribution(lm):
    small = world()
    for place, prompt in enumerate(small.prompts):
        exact = np.exp(small.base[place])
        made = generate(lm, [prompt] * ROWS, 3, row_uniforms(ROWS, 3, "engine", place))
        index = {tuple(answer): i for i, answer in enumerate(small.answers)}
        drawn = [index[tuple(tokens)] for tokens in made.tokens]
        np.testing.assert_allclose(made.logprobs, small.base[place][drawn], atol=1e-3)
        seen, common = np.bincount(drawn, minlength=len(exact)), exact * ROWS >= 5
        observed = np.array([*seen[common], seen[~common].sum()])
        expected = np.array([*exact[common], exact[~common].sum()]) * ROWS
        freedom = len(expected) - 1
        assert ((observed - expected) ** 2 / expected).sum() < freedom + 4 * np.sqrt(2 * freedom)


def test_greedy_answers_texts_and_seeds_are_ours(lm):
    prompts = world().prompts
    ours = generate(replace(lm, engine=None), prompts, 3)
    theirs = generate(lm, prompts, 3)
    assert (theirs.tokens, theirs.texts) == (ours.tokens, ours.texts)
    np.testing.assert_allclose(theirs.logprobs, ours.logprobs, atol=1e-3)
    seeds = [backends._seed(row) for row in row_uniforms(500, 3, "seeds")]
    assert len(set(seeds)) == 500 and all(0 <= seed < 2**48 for seed in seeds)
    assert backends._seed(np.array([0.5], np.float32)) == 2**47


class Wrong:
    """An engine that answers as `change` says of what ours does."""

    def __init__(self, lm, change: Callable):
        self.lm, self.change = lm, change

    def answer(self, prompts, limit, seeds, ends, adapter):
        made = generate(self.lm, prompts, limit, row_uniforms(len(prompts), limit, "wrong"))
        return self.change(list(zip(made.tokens, made.logprobs.tolist(), strict=True)))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda made: [(tokens, logprob - 1.5) for tokens, logprob in made], "another policy"),
        (lambda made: [(tokens[:-1] or [4], logprob) for tokens, logprob in made], "do not end"),
        (lambda made: [([*tokens, 4, 4, 4], logprob) for tokens, logprob in made], "do not end"),
        (lambda made: [([1, 1], logprob) for _, logprob in made], "do not end"),
    ],
)
def test_an_engine_that_is_not_the_model_is_refused(change, why):
    lm = world().lm
    wrong = replace(lm, engine=Wrong(lm, change))
    with pytest.raises(PaletteError, match=rf"runtime.backend \(Wrong\) .*{why}"):
        generate(wrong, world().prompts * 4, 3, row_uniforms(8, 3, "asked"))


def test_an_engine_answers_for_one_adapter_and_not_for_a_mixture(tmp_path, monkeypatch, chain):
    folders = sorted(
        path.parent for path in (chain / "data/adapters").glob("*/adapter_config.json")
    )
    base = replace(cached_base("cpu"), engine=HuggingFace(tables.DATA / "base"))
    one, mixed = with_adapters(base, {folders[0]: 1.0}), with_adapters(base, {folders[0]: 0.5})
    assert (one.adapter, one.engine) == (folders[0], base.engine)
    assert (mixed.adapter, mixed.engine) == (None, None)
    generate(one, [[2, 6]] * 20, 3, row_uniforms(20, 3, "one"))
    assert base.engine.asked == [folders[0]]
    other = replace(one, adapter=folders[-1])  # what was merged is another adapter's policy
    with pytest.raises(PaletteError, match="answers as another policy than the model"):
        for turn in range(20):
            generate(other, [[2, 6]] * 2, 3, row_uniforms(2, 3, "other", turn))


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_vllm_that_is_missing_is_told_in_a_sentence(chain):
    with pytest.raises(
        PaletteError, match="which is not installed: pip install vllm, or set"
    ) as said:
        cached_base("cpu", "vllm")
    assert "\n" not in str(said.value)
    assert cached_base("cpu", "transformers").engine is None


def test_the_stages_that_answer_do_so_by_the_engine(tmp_path, monkeypatch):
    """Insights, rollouts and values of a whole run, beside sums over every answer."""
    from test_own_models import PARAMS

    elsewhere = tmp_path / "model"
    foreign.save("mistral", elsewhere)
    params = PARAMS.model_copy(
        update={"runtime": PARAMS.runtime.model_copy(update={"backend": "vllm"})}
    )
    ours = HuggingFace(elsewhere)
    monkeypatch.setattr(backends, "find", lambda *_: ours)
    with monkeypatch.context() as patch:
        stages = (
            "prompts",
            "users",
            "insights",
            "rollouts",
            "rewards",
            "family",
            "plan",
            "adapters",
            "values",
        )
        patch.setattr(tiny_chain, "STAGES", stages)
        tiny_chain.build(tmp_path / "run", params, elsewhere)
    monkeypatch.chdir(tmp_path / "run")
    counts = tables.read_json(Path("counts.json"))
    for stage in ("insights", "rollouts", "values"):
        assert "answers" not in counts[stage], f"{stage} answered by our own loop"
    assert counts["family"]["answers"] > 0  # adapters in training
    assert {None} < set(ours.asked)
    asked = tables.read("prompts").filter(split="test").sort("prompt_id")
    small = foreign.Answers(load_base("cpu"), asked["prompt"].to_list())
    texts = small.lm.tokenizer.batch_decode(small.answers, skip_special_tokens=True)
    rewards = traits.score(PARAMS.traits, [""] * len(texts), texts)
    names = [f"reward_{trait}" for trait in PARAMS.trait_names]
    drawn = tables.read_rewards(PARAMS.trait_names).join(asked, on="prompt_id")
    exact = (np.exp(small.base) @ rewards).mean(0)
    assert drawn.select(names).mean().row(0) == pytest.approx(exact, abs=0.05)
