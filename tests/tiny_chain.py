"""The whole chain, every stage real, on a world of eight words: small enough to enumerate.

Answers have at most three tokens, so what a policy is worth, and f*, are exact sums beside which
the chain's estimates can be laid.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable
from importlib import import_module
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from counts import counted
from reads import recorded
from tokenizers import Tokenizer
from tokenizers import models as vocabularies
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from worlds import EOS, LONGEST, PAD, World

from palette import tables, traits
from palette.core import tuning
from palette.lm.models import LanguageModel
from palette.params import Base, Params

WORDS = ["<pad>", "<eos>", "how", "it", "haha", "careful", "mend", "wipe"]
CHAT = "{% for m in messages %}{{ m.content }} {% endfor %}"
QUESTIONS = {
    "train": ["how mend", "how wipe", "how it"], "select": ["it mend", "it wipe", "it how"],
    "certify": ["mend it", "mend how", "mend wipe"], "test": ["wipe it", "wipe how"],
}  # fmt: skip
HISTORIES = {  # a few, of users whose cohorts are by their names' hashes
    "ann": ["haha it", "haha", "mend haha"], "bob": ["careful it", "careful mend", "careful"],
    "cid": ["it", "mend", "wipe"], "eve": ["haha", "careful"], "fay": ["haha haha it"],
}  # fmt: skip
SILENT = ["dot", "gus"]
PUBLIC = ["ann", "cid", "dot"]
STAGES = (
    "prompts", "users", "insights", "rollouts", "rewards", "preferences", "subspaces",
    "tuning base", "family", "plan", "adapters", "values", "portfolio", "tuning members", "routes",
    "baselines", "evaluation",
)  # fmt: skip
PARAMS = Params.model_validate({
    "prompts": {"file": "inputs/prompts/prompts.csv"},
    "users": {"file": "inputs/users/users.csv", "unseen": 0.4},
    "insights": {"items": 2, "candidates": 3, "pairs": 2, "contrasts": 1},
    "subspaces": {"restarts": 1, "epochs": 5},
    "tuning": {"strengths": [0.5], "users": 1, "samples": 20},
    "rollouts": {
        "max_new_tokens": LONGEST,
        "samples": {"train": 100, "select": 200, "certify": 200, "test": 2000},
    },
    "traits": {
        "brevity": {"kind": "brevity", "best": 1, "worst": 3}, "humor": {"kind": "humor"},
        "safety": {"kind": "safety"},
    },
    "plan": {"epsilon": 0.1, "lattice": 4},
    "adapters": {
        "rank": 2, "batch": 32, "steps": 12, "learning_rate": 0.005, "rloo_batch": 32, "rloo_steps": 2,
    },
    "values": {"samples": {"select": 50, "certify": 50, "test": 2000}},
    "portfolio": {"epsilon": 0.1, "bootstrap": 100},
    "baselines": {"samples": 200, "per_user": 1, "steps": 2, "training": 12},
    "evaluation": {"bootstrap": 100},
    "runtime": {"engine": "sequential", "workers": 1, "device": "cpu", "store": "store"},
})  # fmt: skip

OF_MEMBERS = PARAMS.model_copy(
    update={"adapters": PARAMS.adapters.model_copy(update={"kind": "members", "rloo_steps": 0})}
)
"""The same with a training for each member."""


def base() -> LanguageModel:
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=64, initializer_range=0.25,
        pad_token_id=PAD, eos_token_id=EOS, bos_token_id=None, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    backend = Tokenizer(
        vocabularies.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="mend")
    )
    backend.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", chat_template=CHAT
    )
    return LanguageModel(model, tokenizer, torch.device("cpu"), "words")


def build(folder: Path, params: Params = PARAMS, elsewhere: Path | None = None) -> None:
    """Run every stage's own `main` in a folder, from a base, a prompts file and histories.

    reads.json then has, for every stage, the files under data/ that it read, and counts.json what it
    asked of the base.

    Args:
        elsewhere: a model directory that stage `base` refers to, in place of the model of `base`.
    """
    write_inputs(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        if elsewhere is None:
            tiny_models.save(base(), tables.DATA / "base")
        else:
            params = params.model_copy(update={"base": Base(model=str(elsewhere))})
        found, counts = run_stages([*(["base"] if elsewhere else []), *STAGES], params)
        (folder / "reads.json").write_text(json.dumps(found))
        (folder / "counts.json").write_text(json.dumps(counts))


def write_inputs(folder: Path, histories: dict[str, list[str]] = HISTORIES) -> None:
    """A prompts file and histories, each row of which a user says with one of `histories`' answers."""
    for name in ("prompts", "users"):
        (folder / "inputs" / name).mkdir(parents=True, exist_ok=True)
    rows = [f"{q},{q},{split}" for split, asked in QUESTIONS.items() for q in asked]
    text = "\n".join(["prompt,topic,split", *rows])
    (folder / "inputs/prompts/prompts.csv").write_text(text)
    told = {user: "true" if user in PUBLIC else "" for user in [*histories, *SILENT]}
    rows = [
        f"{user},how mend,{said},{told[user]}"
        for user, answers in histories.items()
        for said in answers
    ]
    rows += [f"{user},,,{told[user]}" for user in SILENT]
    text = "\n".join(["user_id,prompt,response,public", *rows])
    (folder / "inputs/users/users.csv").write_text(text)


def run_stages(
    names: Iterable[str], params: Params = PARAMS
) -> tuple[dict[str, list[str]], dict[str, Counter]]:
    """Run stages in the working directory; the files under data/ that each read, and what each asked."""
    found, counts = {}, {}
    with pytest.MonkeyPatch.context() as patch:
        # Of three prompts nothing is sure: edits are kept in doubt, so that what follows meets some.
        patch.setattr(tuning, "DOUBT", 0.9)
        for name in names:
            module, *said = name.split()
            stage = import_module(f"palette.{module}")
            calls = [[trait] for trait in params.trait_names] if name == "rewards" else [said]
            kinds = [OF_MEMBERS, params] if name == "adapters" and params is PARAMS else [params]
            with recorded() as files, counted() as passed:
                for words, own in product(calls, kinds):
                    patch.setattr(sys, "argv", ["stage", *words])
                    stage.main(own)
            found[name], counts[name] = sorted(files), passed
    return found, counts


def world(split: str) -> World:
    """The world of one split's prompts, in the order of prompt_id; for the chain's folder."""
    asked = tables.read("prompts").filter(split=split).sort("prompt_id")["prompt"]
    return World(base(), asked.to_list())


def rewards(small: World) -> np.ndarray:
    """(answers, traits)"""
    texts = base().tokenizer.batch_decode(small.answers, skip_special_tokens=True)
    return traits.score(PARAMS.traits, [""] * len(texts), texts)


def exact(small: World, model) -> tuple[np.ndarray, float]:
    """A model's mean rewards (traits,) and its KL to the base, averaged over the prompts."""
    logprobs = small.logprobs(model)
    chance = np.exp(logprobs)
    kl = (chance * (logprobs - small.base)).sum(1).mean()
    return (chance @ rewards(small)).mean(0), float(kl)


def ideal(small: World, weights: np.ndarray) -> float:
    """f*(w), exactly."""
    scores = small.base + rewards(small) @ weights / PARAMS.objective.beta
    return float(PARAMS.objective.beta * np.logaddexp.reduce(scores, axis=1).mean())
