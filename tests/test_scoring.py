"""Teacher-forced scores: the KL is the exact one, is never negative, and is 0 for itself."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import ARCHITECTURES, tiny
from worlds import world

from palette.lm import scoring
from palette.lm.generation import generate, row_uniforms
from palette.lm.scoring import score

NEW = 10
TEXTS = ["hi", "What is the best way to mend a lamp?", "a", "Tell me how.", "hello there"] * 2


def asked(lm, texts=TEXTS) -> list[list[int]]:
    return [lm.tokenizer(text)["input_ids"] for text in texts]


def changed(lm, seed: int = 0, scale: float = 0.05):
    """The same model with its weights disturbed."""
    generator = torch.Generator().manual_seed(seed)
    model = copy.deepcopy(lm.model)
    with torch.no_grad():
        for weights in model.parameters():
            weights += scale * torch.randn(weights.shape, generator=generator)
    return replace(lm, model=model)


@torch.no_grad()
def logprobs(lm, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """(answer, vocabulary) in float64, from one unpadded row."""
    out = lm.model(input_ids=torch.tensor([prompt + answer]), use_cache=False).logits[0]
    return out[len(prompt) - 1 : len(prompt) + len(answer) - 1].double().log_softmax(-1)


def brute(p: torch.Tensor, q: torch.Tensor, answer: list[int]) -> tuple[float, float, float]:
    place = torch.arange(len(answer)), torch.tensor(answer)
    return float((p.exp() * (p - q)).sum()), float(p[place].sum()), float(q[place].sum())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_are_those_of_a_sum_by_hand(architecture):
    base = tiny(architecture)
    policy, prompts = changed(base), asked(base)
    answers = generate(policy, prompts, NEW, row_uniforms(len(prompts), NEW, "score"))
    found = score(policy, prompts, answers.tokens, base)
    rows = zip(prompts, answers.tokens, strict=True)
    exact = np.array([brute(logprobs(policy, p, a), logprobs(base, p, a), a) for p, a in rows])
    np.testing.assert_allclose(found.kl, exact[:, 0], atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(found.logprob, exact[:, 1], atol=1e-4, rtol=1e-5)
    np.testing.assert_allclose(found.logprob_reference, exact[:, 2], atol=1e-4, rtol=1e-5)
    np.testing.assert_allclose(found.logprob, answers.logprobs, atol=1e-3)
    assert (found.kl > 1e-3).all()
    assert scoring.logprobs(policy, prompts, answers.tokens).tolist() == found.logprob.tolist()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_policy_is_at_no_distance_from_itself(architecture):
    base = tiny(architecture)
    prompts = asked(base)
    answers = generate(base, prompts, NEW, row_uniforms(len(prompts), NEW, "itself")).tokens
    found = score(base, prompts, answers, base)
    assert (found.kl == 0).all()
    assert np.array_equal(found.logprob, found.logprob_reference)


def test_the_kl_is_never_negative_however_close_the_policies_are():
    base = tiny()
    prompts = asked(base)
    answers = generate(base, prompts, NEW, row_uniforms(len(prompts), NEW, "close")).tokens
    for scale in (1e-7, 1e-5, 1e-3):
        assert (score(changed(base, scale=scale), prompts, answers, base).kl >= 0).all()


def test_the_reference_is_asked_its_own_prompts():
    """As for a policy that has an insight in front of the question: lengths of prompts differ."""
    base = tiny()
    plain = asked(base)
    longer = asked(base, [f"This user likes jokes. {text}" for text in TEXTS])
    answers = generate(base, longer, NEW, row_uniforms(len(plain), NEW, "insight")).tokens
    found = score(base, longer, answers, base, reference_prompts=plain)
    rows = zip(longer, plain, answers, strict=True)
    exact = np.array([brute(logprobs(base, p, a), logprobs(base, q, a), a) for p, q, a in rows])
    np.testing.assert_allclose(found.kl, exact[:, 0], atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(found.logprob_reference, exact[:, 2], atol=1e-4, rtol=1e-5)
    assert (found.kl > 1e-3).all()


def test_batches_and_order_change_nothing(monkeypatch):
    base, told = tiny(), []
    policy, prompts = changed(base), asked(base)
    answers = generate(policy, prompts, NEW, row_uniforms(len(prompts), NEW, "score")).tokens
    answers[3] = answers[3][:2]
    once = score(policy, prompts, answers, base)
    monkeypatch.setattr(scoring, "CELLS", 1)  # a row at a time
    order = [7, 2, 9, 0, 1, 8, 3, 6, 4, 5]
    again = score(
        policy, [prompts[r] for r in order], [answers[r] for r in order], base, progress=told.append
    )
    np.testing.assert_allclose(again.kl, once.kl[order], atol=1e-4)
    np.testing.assert_allclose(again.logprob, once.logprob[order], atol=1e-4)
    assert told == [1] * len(order)


def test_the_mean_over_samples_is_the_kl_of_the_answers():
    """Summed over tokens and averaged over samples of the policy, it is KL(π ‖ π_ref), exactly."""
    small = world()
    policy = changed(small.lm, scale=0.15)
    exact = small.logprobs(policy.model)
    truth = (np.exp(exact) * (exact - small.base)).sum(1)
    for prompt, kl in zip(small.prompts, truth, strict=True):
        uniforms = row_uniforms(3000, 3, "mean", len(prompt))
        answers = generate(policy, [prompt] * 3000, 3, uniforms).tokens
        found = score(policy, [prompt] * 3000, answers, small.lm)
        ratios = found.logprob - found.logprob_reference
        assert kl > 0.05
        assert abs(found.kl.mean() - kl) < 4 * found.kl.std() / np.sqrt(3000)
        assert abs(ratios.mean() - kl) < 4 * ratios.std() / np.sqrt(3000)
        assert found.kl.std() < ratios.std()  # why it is the full-vocabulary KL that is used


def test_nothing_to_score():
    found = score(tiny(), [], [], tiny())
    assert found.kl.shape == found.logprob.shape == (0,)
