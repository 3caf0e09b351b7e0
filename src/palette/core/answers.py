"""What makes a text no answer at all: it says nothing, only repeats the prompt, or goes in circles.

An answer that was cut off at the limit is broken too, but only its tokens show that.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
"""Thai, Lao, Burmese, Khmer, kana and Han are written without spaces: each letter is a word."""
WORD = re.compile(rf"(?=[^\W_])[{UNSPACED}]|[^\W_{UNSPACED}]+")
SENTENCE = re.compile(r"[.!?…。！？।\n]+")
REPEATED = 0.8
"""Share of an answer's words that are the prompt's, in its order, from which the answer is an echo:
a rewording may lend a fifth of its words, a reply that reuses the question's words adds more."""
COPIED = 0.5
"""Share of the prompt's words that an echo holds. "Blue" answers "red or blue?", and a quotation
answers a long document: both hold little of what they were asked."""
ROUNDS = 3
"""Times that something is said in a loop: a refrain comes twice in many a good answer."""
RUN = 3
"""Words of the shortest run that counts, in an echo of the prompt's opening and in a loop."""


def complaint(prompt: str, answer: str) -> str | None:
    """Why an answer is broken, or None.

    Args:
        prompt: the question alone, without any insight or history around it.
        answer: text without control tokens.

    Returns:
        "empty": no letter and no digit. "echo": what it says beyond the prompt's own words is at
        most a fifth of it. "loop": one sentence three times, or a run of at least three words
        three times on end, over more than half of the answer; a sentence of one or two words
        must make up more than half of it as well.
    """
    said = words(answer)
    if not said:
        return "empty"
    if _echoes(words(prompt), said):
        return "echo"
    if _repeats_a_sentence(answer, len(said)) or _circles(said):
        return "loop"
    return None


def words(text: str) -> list[str]:
    """Letters and digits in runs, compatible forms and cases made alike; no punctuation."""
    return WORD.findall(
        unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    )


def _echoes(prompt: list[str], said: list[str]) -> bool:
    known = set(prompt)
    # Most answers end here: their own words are too many for any alignment.
    if sum(word in known for word in said) < REPEATED * len(said):
        return False
    rest = _without(prompt, said)
    common = in_common(prompt, rest)
    if len(rest) - common > (1 - REPEATED) * len(said) + 1e-9:
        return False
    opening = len(said) >= RUN and prompt[: len(said)] == said
    return len(rest) < len(said) or opening or common >= COPIED * len(prompt)


def _without(prompt: list[str], said: list[str]) -> list[str]:
    """What is said beside whole copies of the prompt."""
    rest, place = [], 0
    while place < len(said):
        if said[place : place + len(prompt)] == prompt:
            place += len(prompt)
        else:
            rest.append(said[place])
            place += 1
    return rest


def in_common(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence of words.

    Bits of one number stand for the places of `one` (Hyyrö 2004, "Bit-parallel LCS-length").
    """
    places: dict[str, int] = {}
    for place, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << place
    full = (1 << len(one)) - 1
    free = full
    for word in other:
        met = free & places.get(word, 0)
        free = ((free + met) | (free - met)) & full
    return len(one) - free.bit_count()


def _repeats_a_sentence(answer: str, total: int) -> bool:
    counted = Counter(tuple(words(sentence)) for sentence in SENTENCE.split(answer))
    return any(
        times >= ROUNDS and sentence and (len(sentence) >= RUN or 2 * times * len(sentence) > total)
        for sentence, times in counted.items()
    )


def _circles(said: list[str]) -> bool:
    """Whether a run is said ROUNDS times on end, over more than half of all words.

    A run of one or two words is a longer one too, once it was said often enough.
    """
    for length in range(RUN, len(said) // ROUNDS + 1):
        stretch = length
        for place in range(length, len(said)):
            stretch = stretch + 1 if said[place] == said[place - length] else length
            if stretch >= ROUNDS * length and 2 * stretch > len(said):
                return True
    return False
