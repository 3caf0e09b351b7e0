"""Sampling: a row's answer depends on its own prompt and numbers alone, and follows the model."""

import ast
from pathlib import Path
from threading import Barrier, Thread

import numpy as np
import pytest
import torch
from tiny_models import ARCHITECTURES, CONTEXT, FAMILIES, HIDDEN, LAYERS, tiny
from worlds import world

from palette.core.editing import Edit, Edits
from palette.errors import PaletteError
from palette.lm import generation
from palette.lm.generation import ROWS, Answers, _draw, generate, row_uniforms

NEW = 12
TEXTS = ["hi", "What is the best way to mend a lamp?", "a", "hi", "Tell me how.", "hello there"]


def encoded(lm, texts=TEXTS) -> list[list[int]]:
    return [lm.tokenizer(text)["input_ids"] for text in texts]


def numbers(rows: int, *key) -> np.ndarray:
    return row_uniforms(rows, NEW, "test", *key)


def alone(lm, prompts, uniforms, rows) -> Answers:
    parts = [generate(lm, [prompts[r]], NEW, uniforms[r : r + 1]) for r in rows]
    texts = [part.texts[0] for part in parts]
    logprobs = np.concatenate([part.logprobs for part in parts])
    return Answers([part.tokens[0] for part in parts], texts, logprobs)


def stepwise(lm, prompt: list[int], tokens: list[int]) -> tuple[float, list[int]]:
    """Log-probability of the tokens, unpadded and uncached, and the model's first choices."""
    ids = torch.tensor([prompt + tokens])
    with torch.no_grad():
        logits = lm.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].double()
    chosen = logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None])
    return float(chosen.sum()), logits.argmax(-1).tolist()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_answer_does_not_depend_on_its_batch(architecture):
    lm = tiny(architecture)
    prompts = encoded(lm)
    uniforms = numbers(len(prompts))
    together = generate(lm, prompts, NEW, uniforms)
    apart = alone(lm, prompts, uniforms, range(len(prompts)))
    assert together.tokens == apart.tokens
    assert together.texts == apart.texts
    np.testing.assert_allclose(together.logprobs, apart.logprobs, atol=1e-4)
    order = [4, 0, 5, 2, 3, 1]
    shuffled = generate(lm, [prompts[r] for r in order], NEW, uniforms[order])
    assert shuffled.tokens == [together.tokens[r] for r in order]
    assert together.tokens[0] != together.tokens[3]  # one prompt, but each row's own numbers


def test_more_rows_than_a_batch_holds_are_all_answered_in_order():
    lm, told = world().lm, []
    prompts = [[2], [3, 2]] * (ROWS // 2 + 7)
    uniforms = row_uniforms(len(prompts), 3, "many")
    answers = generate(lm, prompts, 3, uniforms, progress=told.append)
    assert sum(told) == len(answers.tokens) == len(prompts)
    assert len(told) > 1
    for row in (0, 1, ROWS - 1, ROWS, len(prompts) - 1):
        assert (
            generate(lm, [prompts[row]], 3, uniforms[row : row + 1]).tokens[0]
            == (answers.tokens[row])
        )


@pytest.mark.parametrize("architecture", FAMILIES)
def test_logprobs_are_the_models_own(architecture):
    lm = tiny(architecture)
    prompts = encoded(lm)
    answers = generate(lm, prompts, NEW, numbers(len(prompts), 1))
    own = [stepwise(lm, p, t)[0] for p, t in zip(prompts, answers.tokens, strict=True)]
    np.testing.assert_allclose(answers.logprobs, own, atol=2e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_takes_the_likeliest_token_as_hugging_face_does(architecture):
    lm = tiny(architecture)
    prompts = encoded(lm)
    answers = generate(lm, prompts, NEW)
    for prompt, tokens in zip(prompts, answers.tokens, strict=True):
        assert stepwise(lm, prompt, tokens)[1] == tokens
        theirs = lm.model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=NEW, do_sample=False, pad_token_id=lm.pad,
        )  # fmt: skip
        assert theirs[0, len(prompt) :].tolist() == tokens


def test_frequencies_are_the_exact_distribution():
    small, rows = world(), 6000
    for place, prompt in enumerate(small.prompts):
        exact = np.exp(small.base[place])
        drawn = generate(small.lm, [prompt] * rows, 3, row_uniforms(rows, 3, "chi", place)).tokens
        index = {tuple(answer): i for i, answer in enumerate(small.answers)}
        seen = np.bincount([index[tuple(tokens)] for tokens in drawn], minlength=len(exact))
        assert exact.sum() == pytest.approx(1)
        common = exact * rows >= 5
        observed = [*seen[common], seen[~common].sum()]
        expected = np.array([*exact[common], exact[~common].sum()]) * rows
        statistic = ((observed - expected) ** 2 / expected).sum()
        freedom = len(expected) - 1
        assert freedom > 20
        assert statistic < freedom + 4 * np.sqrt(2 * freedom)  # four standard deviations


def test_only_an_answer_that_ended_holds_an_end():
    lm = world().lm
    eos = lm.tokenizer.eos_token_id
    answers = generate(lm, [[2]] * 200, 3, row_uniforms(200, 3, "ends")).tokens
    ended = [tokens for tokens in answers if eos in tokens]
    truncated = [tokens for tokens in answers if eos not in tokens]
    assert ended
    assert truncated
    assert all(tokens.index(eos) == len(tokens) - 1 for tokens in ended)
    assert all(len(tokens) == 3 for tokens in truncated)


def test_special_tokens_are_in_no_text():
    lm = world().lm
    answers = generate(lm, [[2]] * 50, 3, row_uniforms(50, 3, "texts"))
    for tokens, text in zip(answers.tokens, answers.texts, strict=True):
        words = [t for t in tokens if t not in (lm.tokenizer.eos_token_id, lm.pad)]
        assert text.split() == lm.tokenizer.convert_ids_to_tokens(words)


@pytest.mark.parametrize("extreme", [0.0, float(np.float32(1) - np.float32(2) ** -24)])
def test_the_ends_of_the_unit_interval_give_tokens_that_can_be(extreme):
    lm = tiny()
    uniforms = np.full((2, NEW), extreme, np.float32)
    answers = generate(lm, encoded(lm, ["hi", "hello"]), NEW, uniforms)
    assert np.isfinite(answers.logprobs).all()


def test_a_token_that_cannot_be_is_never_drawn():
    logits = torch.tensor([[-200.0, 0.0, -200.0, 0.0, -200.0]]).expand(3, -1)
    token, logprob = _draw(logits, torch.tensor([0.0, 0.5, 1 - 2**-24]))
    assert token.tolist() == [1, 3, 3]
    torch.testing.assert_close(logprob.exp(), torch.full((3,), 0.5))


def test_uniforms_are_of_their_key_alone_and_in_range():
    first = row_uniforms(3, 4, "rollouts", 0, "id")
    assert np.array_equal(first, row_uniforms(3, 4, "rollouts", 0, "id"))
    assert np.array_equal(first, row_uniforms(5, 4, "rollouts", 0, "id")[:3])  # more samples extend
    for other in (("rollouts", 1, "id"), ("rollouts", 0, "di"), ("values", 0, "id")):
        assert not np.isclose(first, row_uniforms(3, 4, *other)).any()
    many = row_uniforms(1000, 100, "range")
    assert many.min() >= 0
    assert many.max() < 1
    assert abs(many.mean() - 0.5) < 0.005


def edits_for(groups: list[int]) -> Edits:
    directions = torch.randn(2, 2, LAYERS, 1, HIDDEN, generator=torch.Generator().manual_seed(1))
    kinds = [(Edit.project(p).then(-Edit.project(n))) * 4.0 for p, n in directions]
    return Edits([None if group < 0 else kinds[group] for group in groups])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_edit_stays_with_its_row_when_others_have_finished(architecture):
    lm = tiny(architecture)
    texts = [text for text in TEXTS for _ in range(6)]
    prompts, groups = encoded(lm, texts), [0, 0, 1, -1, 1, -1] * len(TEXTS)
    steps = 40
    uniforms = row_uniforms(len(prompts), steps, "edits")
    # Rows whose second number is near 0 draw token 0, the end of an answer, early on.
    uniforms[::4, 1] = 0.0
    together = generate(lm, prompts, steps, uniforms, edits_for(groups))
    plain = generate(lm, prompts, steps, uniforms)
    lengths = {len(tokens) for tokens in together.tokens}
    assert min(lengths) == 2 < max(lengths)
    for row, (prompt, group) in enumerate(zip(prompts, groups, strict=True)):
        apart = generate(lm, [prompt], steps, uniforms[row : row + 1], edits_for([group]))
        assert apart.tokens[0] == together.tokens[row], row
        if group == -1:
            assert plain.tokens[row] == together.tokens[row]
    edited = [row for row, group in enumerate(groups) if group >= 0]
    assert sum(plain.tokens[row] != together.tokens[row] for row in edited) > len(edited) / 2


def test_threads_that_share_a_model_do_not_share_their_edits():
    lm = tiny()
    prompts = encoded(lm) * 3
    uniforms = numbers(len(prompts), "threads")
    chosen = {name: [group] * len(prompts) for name, group in {"a": 0, "b": 1, "c": -1}.items()}
    apart = {n: generate(lm, prompts, NEW, uniforms, edits_for(g)) for n, g in chosen.items()}
    ready, together = Barrier(len(chosen)), {}

    def work(name):
        ready.wait()
        for _ in range(3):
            together[name] = generate(lm, prompts, NEW, uniforms, edits_for(chosen[name]))

    threads = [Thread(target=work, args=[name]) for name in chosen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {n: a.tokens for n, a in together.items()} == {n: a.tokens for n, a in apart.items()}


def test_no_prompts_no_answers():
    answers = generate(tiny(), [], NEW)
    assert (answers.tokens, answers.texts, answers.logprobs.shape) == ([], [], (0,))


def test_a_prompt_that_the_context_cannot_hold_is_refused_in_a_sentence():
    lm = tiny("gpt2")
    fits = [5] * (CONTEXT - NEW)
    assert len(generate(lm, [fits], NEW).tokens[0]) <= NEW
    with pytest.raises(PaletteError, match=rf"context of {CONTEXT}; shorten the prompt") as error:
        generate(lm, [[5], [*fits, 5]], NEW)
    assert "\n" not in str(error.value)


def test_every_answer_goes_through_this_one_function():
    """An engine stands behind it alone: no part of palette lets a model generate by itself."""
    source = Path(generation.__file__).parents[1]
    for file in {*source.rglob("*.py")} - {source / "lm" / "backends.py"}:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            assert not (called and node.func.attr == "generate"), f"{file}:{node.lineno}"
