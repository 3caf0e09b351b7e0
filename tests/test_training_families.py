"""Training on other families than the sandbox's: learned positions, activations that drop out."""

import copy
from dataclasses import replace

import foreign
import numpy as np
import pytest
import tiny_chain
import torch
from tiny_models import tiny

from palette.lm.learner import Task, learning
from palette.lm.models import load_base
from palette.lm.preference_training import train
from palette.lm.reinforcement import reinforce
from palette.lm.supervision import supervised

ADAPTERS = tiny_chain.PARAMS.adapters.model_copy(
    update={"rank": 2, "batch": 8, "rloo_batch": 8, "generations": 2, "steps": 2, "rloo_steps": 1}
)
WEIGHTS = np.array([[0.5, 0.5]])


def task(lm) -> Task:
    texts = ["Hi?", "How do I mend a lamp that fell?"]
    prompts = [lm.tokenizer(text)["input_ids"] for text in texts]
    answers = [[[7, 8, 9], [10, 11], [12]], [[7], [9, 9, 9, 9], [11, 12]]]
    rewards = np.linspace(0, 1, 12).reshape(2, 3, 2)
    return Task(
        prompts, texts, answers, rewards, lambda asked, said: np.full((len(said), 2), 0.5), 0.1, 6,
        np.zeros(2),
    )  # fmt: skip


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2"])
def test_reinforce_scores_every_row_as_the_model_alone_does(family, monkeypatch):
    """Rows are padded on the left, and a family that counts positions must not count the padding."""
    from palette.lm.trainers import ReinforceTrainer

    lm, seen = tiny(family), []
    scored = ReinforceTrainer._scored

    def record(self, ids, attention, longest):
        found = scored(self, ids, attention, longest)
        seen.append((ids, attention, longest, found[0].detach()))
        return found

    monkeypatch.setattr(ReinforceTrainer, "_scored", record)
    reinforce(learning(lm, WEIGHTS, ADAPTERS), task(lm), ADAPTERS)
    padded = 0
    for ids, attention, longest, logps in seen:
        for row, mask, own in zip(ids, attention, logps, strict=True):
            padded += not mask[0]
            said = int(mask[-longest:].sum())
            kept = row[mask.bool()][None]
            logits = lm.model(input_ids=kept, use_cache=False).logits[0, -said - 1 : -1]
            alone = logits.log_softmax(-1).gather(1, kept[0, -said:, None]).squeeze(1)
            torch.testing.assert_close(own[:said], alone, atol=1e-4, rtol=1e-4)
    assert padded


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_what_its_makers_dropped_out_is_there_in_training(family, tmp_path):
    """What is sampled and served never drops out, so what is trained must not either."""
    made = []
    for name, share in (("with", 0.5), ("without", 0.0)):
        foreign.save(family, tmp_path / name)
        config = tmp_path / name / "config.json"
        config.write_text(config.read_text().replace("0.5", str(share)))
        lm = load_base("cpu", tmp_path / name)
        assert (
            f'dropout": {share}' in config.read_text() or f'pdrop": {share}' in config.read_text()
        )
        few = task(replace(lm, tokenizer=tiny().tokenizer))
        few = replace(few, prompts=[[2, 6], [3, 3, 6]], answers=[[[4, 5], [6]], [[7], [5, 5]]],
                      rewards=few.rewards[:, :2])  # fmt: skip
        learner = learning(lm, WEIGHTS, ADAPTERS)
        supervised(learner, few, ADAPTERS)
        reinforce(learner, few, ADAPTERS)
        own = learner.rows.matrices(torch.tensor(0))
        pairs = [("how mend", "haha", "it"), ("how wipe", "haha mend", "it it")]
        files = [train(lm, pairs, method, ADAPTERS, 2, 0.1) for method in ("sft", "dpo")]
        made.append((own, files))
    (one, files), (two, others) = made
    assert files == others
    for name in one:
        for a, b in zip(one[name], two[name], strict=True):
            assert torch.equal(a, b), name
    assert any(b.abs().max() > 0 for _, b in one.values())


def test_a_tokenizer_without_pad_and_end_trains_by_what_the_model_names():
    lm = tiny("gpt2")
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.pad_token = tokenizer.eos_token = None
    bare = replace(lm, tokenizer=tokenizer)
    assert bare.eos == lm.eos
    learner = learning(bare, WEIGHTS, ADAPTERS)
    supervised(learner, task(lm), ADAPTERS)
    reinforce(learner, task(lm), ADAPTERS)
    assert tokenizer.pad_token is None and tokenizer.eos_token is None
