"""Pairs: the prompts that tell two tastes apart best are kept, and what teaches nothing is counted."""

import numpy as np
import pytest
from tiny_models import tiny

from palette import pairs
from palette.core.selection import select_largest
from palette.lm import templates
from palette.lm.generation import Answers
from palette.lm.scoring import logprobs
from palette.pairs import Candidate, Side
from palette.params import Insights

LIMIT = 8
SETTINGS = Insights(candidates=6, pairs=2)
PROMPTS = [f"How do I mend thing {number}?" for number in range(6)]
ASKED = {"ann": PROMPTS, "bob": PROMPTS[::-1]}
INSIGHTS = {
    "ann": {"personal": "Ann likes jokes.", "neutral": "Answers are plain."},
    "bob": {"personal": "Bob likes short words and care.", "neutral": "Answers are plain."},
}


def candidate(personal: str, neutral: str, prompt: str = "How do I mend it?") -> Candidate:
    sides = (Side([1], [2], text, -1.0) for text in (personal, neutral))
    return Candidate(prompt, *sides)


def test_the_pairs_kept_are_those_that_tell_apart_best_in_the_order_of_the_prompts():
    lm = tiny()
    tried = pairs.answer(lm, ASKED, INSIGHTS, SETTINGS.seed, LIMIT)
    found = pairs.make(lm, ASKED, INSIGHTS, SETTINGS, LIMIT)
    for user, answered in tried.items():
        own = [one for one in answered if pairs.fault(one) is None]
        apart = pairs.tell_apart(lm, own)
        assert len(np.unique(apart.round(6))) == len(own)
        best = [own[place] for place in sorted(np.argsort(-apart)[:2])]
        assert found[user].kept == [
            {"user_id": user, "pair": pair, "prompt": one.prompt,
             "personal": one.personal.text, "neutral": one.neutral.text}
            for pair, one in enumerate(best)
        ]  # fmt: skip
        assert len(own) > 2 and len(own) + len(found[user].dropped) == len(answered)


def test_telling_apart_is_the_log_ratio_of_both_answers_per_token():
    lm = tiny()
    tried = pairs.answer(lm, ASKED, INSIGHTS, SETTINGS.seed, LIMIT)["ann"]

    def ask(wording, kind, prompt):
        return templates.encode(lm.tokenizer, wording(prompt, INSIGHTS["ann"][kind]))

    for one, apart in zip(tried, pairs.tell_apart(lm, tried), strict=True):
        p = ask(templates.personal_answer, "personal", one.prompt)
        n = ask(templates.neutral_answer, "neutral", one.prompt)
        both = [one.personal.tokens, one.neutral.tokens]
        ratio = logprobs(lm, [p, p], both) - logprobs(lm, [n, n], both)
        assert apart == pytest.approx((ratio[0] - ratio[1]) / sum(map(len, both)), abs=1e-4)


def test_answers_under_one_and_the_same_prompt_are_not_apart(monkeypatch):
    lm = tiny()
    monkeypatch.setattr(pairs, "WORDING", dict.fromkeys(pairs.WORDING, templates.personal_answer))
    same = {"ann": dict.fromkeys(pairs.WORDING, "Answers are plain.")}
    tried = pairs.answer(lm, {"ann": PROMPTS}, same, SETTINGS.seed, LIMIT)["ann"]
    assert any(one.personal.text != one.neutral.text for one in tried)
    assert pairs.tell_apart(lm, tried) == pytest.approx(np.zeros(len(tried)), abs=1e-5)


def test_a_users_pairs_do_not_hang_on_who_else_is_asked():
    alone = pairs.make(tiny(), {"bob": ASKED["bob"]}, INSIGHTS, SETTINGS, LIMIT)
    assert alone["bob"] == pairs.make(tiny(), ASKED, INSIGHTS, SETTINGS, LIMIT)["bob"]


@pytest.mark.parametrize(
    "personal, neutral, reason",
    [
        ("Wipe it.", "Wipe it.", "identical"),
        ("", "", "identical"),
        ("Wipe it.", "...", "empty"),
        ("", "How do I mend it?", "empty"),
        ("How do I mend it? How do I mend it?", "Wipe it.", "echo"),
        ("Wipe it.", "How do I mend", "echo"),
        ("Wipe it.", "Stop. Stop. Stop.", None),
        ("Wipe it.", "Dust it.", None),
    ],
)
def test_a_pair_that_teaches_nothing_has_its_reason(personal, neutral, reason):
    assert pairs.fault(candidate(personal, neutral)) == reason


def test_dropped_pairs_are_counted_and_fewer_are_kept_than_asked_for(monkeypatch):
    said = {
        "personal": [*PROMPTS[:2], "", "Wipe it.", "Dust it.", "Dry it."],
        "neutral": ["Wipe it."] * 5 + ["Dust it."],
    }

    def scripted(lm, requests, limit):
        for request in requests:
            texts = said[request.key[-1]]
            yield Answers([[5, 6]] * len(texts), texts, np.zeros(len(texts)))

    monkeypatch.setattr(pairs, "sample", scripted)
    settings = SETTINGS.model_copy(update={"pairs": 5})
    found = pairs.make(tiny(), {"ann": PROMPTS}, INSIGHTS, settings, LIMIT)["ann"]
    assert [(row["prompt"], row["reason"]) for row in found.dropped] == [
        (PROMPTS[0], "echo"), (PROMPTS[1], "echo"), (PROMPTS[2], "empty"),
        (PROMPTS[3], "identical"),
    ]  # fmt: skip
    assert [(row["pair"], row["personal"]) for row in found.kept] == [
        (0, "Dust it."),
        (1, "Dry it."),
    ]


def test_nobody_is_asked_anything():
    assert pairs.make(tiny(), {}, {}, SETTINGS, LIMIT) == {}
    found = pairs.make(tiny(), {"ann": []}, INSIGHTS, SETTINGS, LIMIT)
    assert found == {"ann": pairs.Pairs([], [])}


def test_earlier_rows_win_ties_and_noise_breaks_none():
    assert select_largest(np.array([1.0, 3.0, 2.0, 3.0]), 2).tolist() == [1, 3]
    assert select_largest(np.array([1.0, 1.0 + 1e-9, 1.0]), 2).tolist() == [0, 1]
    assert select_largest(np.array([1.0, 2.0]), 5).tolist() == [0, 1]
    assert select_largest(np.array([]), 3).tolist() == []
