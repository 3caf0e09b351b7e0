"""Broken answers are found in any script, and answers that are merely short or alike are not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palette.core.answers import complaint, in_common, words

PROMPT = "How do I fix a lamp?"
text = st.text(max_size=60)
COMMON = ["how", "do", "i", "fix", "a", "lamp", "look", "for", "cracks"]
plain = st.lists(st.sampled_from(COMMON), max_size=9)
unhurried = settings(deadline=None)


@pytest.mark.parametrize(
    "answer", ["", "  \n", "...", "?!", "—·…", "・・・", "👍", "_ _", "\u0301"]
)
def test_an_answer_without_letters_or_digits_is_empty(answer):
    assert complaint(PROMPT, answer) == "empty"


@pytest.mark.parametrize(
    "answer",
    [
        PROMPT, "how do i FIX a lamp", "How do I fix", "“How do I fix a lamp?”", "ＦＩＸ a lamp?",
        "Q: How do I fix a lamp? A: How do I fix a lamp?", "How do I fix a broken lamp?",
        "How do I fix a lamp? How do I fix a lamp? How do I fix a lamp?",
    ],
)  # fmt: skip
def test_an_answer_that_only_repeats_the_prompt_is_an_echo(answer):
    assert complaint(PROMPT, answer) == "echo"


@pytest.mark.parametrize(
    "prompt, answer",
    [
        (PROMPT, "To fix a lamp, look for the broken part of the lamp."),
        (PROMPT, "How do I fix a lamp? Unplug it, and change the bulb."),
        (PROMPT, "42"),
        ("Should I paint it red or blue?", "Blue."),
        ("Is it safe, yes or no?", "No"),
        ("Which tag fits: comedy, drama or crime? A man loses his hat.", "comedy"),
        ("Read this. " + "One of many facts stands here. " * 9 + "Ann fell. Who?", "Ann fell"),
        ("", "Hello."),
    ],
)
def test_an_answer_that_chooses_quotes_or_adds_is_no_echo(prompt, answer):
    assert complaint(prompt, answer) is None


@pytest.mark.parametrize(
    "answer",
    [
        "Wear gloves for this. Wear gloves for this. Wear gloves for this. Wipe it.",
        "Stop. Stop. Stop.",
        "the the the the the the the the the",
        "Look at it, then turn it, then turn it, then turn it, then turn it, then turn",
        "先に電源を切る。先に電源を切る。先に電源を切る。",
        "哈哈哈哈哈哈哈哈哈哈",
        "Вымой. Вымой. Вымой. Вымой.",
    ],
)
def test_an_answer_that_goes_in_circles_is_a_loop(answer):
    assert complaint(PROMPT, answer) == "loop"


@pytest.mark.parametrize(
    "answer",
    [
        "Wear gloves for this. Wipe it. Wear gloves for this.",
        "You can use a hammer. You can use a saw. You can use a drill.",
        "No, no, no: unplug it first, wait until it is cool, and only then open the case.",
        "1. Unplug it. 2. Open it. 3. Change the bulb.",
        "It is 3.5 or 3.5 or 3.6 wide.",
    ],
)
def test_refrains_and_lists_are_no_loops(answer):
    assert complaint(PROMPT, answer) is None


def test_texts_of_thousands_of_words_are_judged_alike():
    long = "one two three four five six seven " * 800
    assert complaint(long, long) == "echo"
    assert complaint(PROMPT, long) == "loop"
    assert in_common(words(long), words(long)[1:]) == 5599


@unhurried
@given(text, text)
def test_any_text_is_judged_without_a_failure_and_by_a_known_word(prompt, answer):
    assert complaint(prompt, answer) in {None, "empty", "echo", "loop"}


@unhurried
@given(text)
def test_a_prompt_given_back_is_an_echo_or_empty(prompt):
    for copy in (prompt, f" “{prompt}” ", f"{prompt}\n{prompt}"):
        found = complaint(prompt, copy)
        assert found == ("echo" if words(copy) else "empty")


@unhurried
@given(text, text)
def test_spaces_case_and_marks_around_an_answer_change_nothing(prompt, answer):
    assert complaint(prompt, f"  {answer} \n") == complaint(prompt, answer)
    assert complaint(prompt, f"({answer}!") == complaint(prompt, answer)


@unhurried
@given(st.text(alphabet="abcdefgh ", min_size=1), st.integers(9, 15))
def test_anything_said_often_enough_is_broken(said, times):
    assert complaint("zz zz", f"{said}. " * times) in ("loop", "empty")
    assert complaint("zz zz", f"{said} , " * times) in ("loop", "empty")


@unhurried
@given(plain, plain)
def test_the_longest_common_subsequence_is_that_of_the_textbook(one, other):
    best = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            best[i + 1][j + 1] = best[i][j] + 1 if a == b else max(best[i][j + 1], best[i + 1][j])
    assert in_common(one, other) == best[-1][-1] == in_common(other, one)
