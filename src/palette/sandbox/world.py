"""The world: everyday how-to questions, and answers whose length, jokes and warnings vary.

A topic is a task on a thing ("clean a kettle"). Verbs and things occur in every split; their
combinations, the topics, occur in one split only.
"""

import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product

import numpy as np

VERBS: dict[str, list[str]] = {
    "clean": ["wipe the {o} with a {t}", "rinse it with warm water", "rub off the dirt", "let it dry"],
    "fix": ["look for the broken part of the {o}", "turn the screws with a {t}", "change the part",
            "try it again"],
    "store": ["empty the {o}", "put it in a dry {p}", "cover it with a {t}", "write a label"],
    "paint": ["rub the {o} with a {t}", "put on a thin coat", "wait until it is dry",
              "put on one more coat"],
    "move": ["clear the way to the {p}", "lift the {o} with a friend", "take small steps",
             "set it down slowly"],
    "test": ["look at the {o} from all sides", "use it for a minute", "listen for odd sounds",
             "write down what you find"],
    "dry": ["shake the water off the {o}", "rub it with a {t}", "set it in the {p}", "turn it over once"],
    "wrap": ["lay the {o} on a {t}", "fold the paper over it", "tape the ends", "tie a ribbon"],
    "polish": ["dust the {o} with a {t}", "put on some wax", "rub in small circles", "wipe off the rest"],
    "check": ["set the {o} in the {p}", "look for cracks", "feel it for loose parts", "read the manual"],
    "mark": ["clean a spot on the {o}", "rub it with a {t}", "let the ink dry", "look at it in the {p}"],
    "sell": ["take a picture of the {o} in the {p}", "think of a fair price", "write a short text",
             "meet the buyer"],
}  # fmt: skip
THINGS = [
    "kettle", "lamp", "chair", "door", "window", "oven", "fridge", "bike", "boot", "tent", "clock",
    "radio", "sofa", "table", "mirror", "rug", "fan", "pump", "ladder", "drill", "toaster", "heater",
    "shelf", "sink",
]  # fmt: skip
TOOLS = ["cloth", "brush", "sponge", "towel", "rag", "blanket"]
PLACES = ["garage", "kitchen", "garden", "cellar", "hall", "attic"]
ASKED = ["How do I {v} a {o}?", "How can I {v} my {o}?", "What is the best way to {v} a {o}?",
         "Tell me how to {v} the {o}."]  # fmt: skip
JOKES = ["The {o} will not laugh at you", "Tell the {o} a joke while you work", "Your {o} may giggle a bit",
         "A funny hat helps too", "Haha, the {o} had it coming", "Give the {o} a wink for luck",
         "Even the {o} would grin", "Do not tickle the {o}"]  # fmt: skip
WARNINGS = ["Be careful with the {o}", "Wear gloves for this", "Unplug all wires first",
            "Never do this alone", "Caution, the {o} may fall", "Put on goggles to be safe",
            "Keep kids out of danger", "Warning, wet hands slip"]  # fmt: skip
STEPS_P, JOKES_P, WARNINGS_P = (0.4, 0.35, 0.25), (0.35, 0.4, 0.25), (0.35, 0.4, 0.25)
TRAITS = ("brevity", "humor", "safety")
WORTH = np.array([0.0, 0.6, 1.0])
"""Of no, one and two jokes, or warnings."""
SPLIT_TOPICS = {"select": 40, "certify": 96, "test": 32}


@dataclass(frozen=True)
class Topic:
    verb: str
    thing: str

    @property
    def name(self) -> str:
        return f"{self.verb} {self.thing}"

    def ask(self, rng: np.random.Generator) -> str:
        return ASKED[rng.integers(len(ASKED))].format(v=self.verb, o=self.thing)


@dataclass(frozen=True)
class Style:
    """What varies in an answer: 1 to 3 steps, 0 to 2 jokes, 0 to 2 warnings."""

    steps: int
    jokes: int
    warnings: int


@dataclass(frozen=True)
class Manner:
    """What an insight can ask for; None where it says nothing."""

    short: bool
    funny: bool
    careful: bool

    @property
    def insight(self) -> str:
        return (
            f"This user likes {'short' if self.short else 'long'} answers "
            f"{'with' if self.funny else 'without'} jokes and "
            f"{'with' if self.careful else 'without'} warnings."
        )

    def style(self, rng: np.random.Generator) -> Style:
        """A style that does what the insight asks."""
        return Style(
            1 if self.short else int(rng.integers(2, 4)),
            int(rng.integers(1, 3)) if self.funny else 0,
            int(rng.integers(1, 3)) if self.careful else 0,
        )


MANNERS = [Manner(*flags) for flags in product([True, False], repeat=3)]
NEUTRAL_INSIGHT = "A generic answer has two plain steps."
NEUTRAL_STYLE = Style(2, 0, 0)


def topics(seed: int) -> dict[str, list[Topic]]:
    """Split → its topics; every topic is in one split. Train holds the rest."""
    everything = [Topic(verb, thing) for verb in VERBS for thing in THINGS]
    order = np.random.default_rng([seed, 1]).permutation(len(everything))
    splits, start = {}, 0
    for split, count in SPLIT_TOPICS.items():
        splits[split] = [everything[i] for i in order[start : start + count]]
        start += count
    return {"train": [everything[i] for i in order[start:]], **splits}


def draw_style(rng: np.random.Generator) -> Style:
    """A style as the base should vary it when nobody asks for one."""
    steps, jokes, warnings = (pick(p, rng) for p in (STEPS_P, JOKES_P, WARNINGS_P))
    return Style(steps + 1, jokes, warnings)


def pick(shares: tuple[float, ...], rng: np.random.Generator) -> int:
    """What `rng.choice(len(shares), p=shares)` gives, from the same draw, in a fraction of the time."""
    return bisect_right(_summed(shares), rng.random())


@cache
def _summed(shares: tuple[float, ...]) -> list[float]:
    sums = np.cumsum(shares)
    return (sums / sums[-1]).tolist()


def answer(topic: Topic, style: Style, rng: np.random.Generator) -> str:
    """An answer in a style: warnings first or last, steps in order, jokes anywhere after the first."""
    fill = {"o": topic.thing, "t": _one(TOOLS, rng), "p": _one(PLACES, rng)}
    steps = _some(VERBS[topic.verb], style.steps, rng)
    linked = [steps[0]] + [f"then {step}" for step in steps[1:]]
    sentences = [text[0].upper() + text[1:] for text in linked]
    # In the order of their lists: a small model learns order more easily than not to repeat itself.
    jokes, warnings = _some(JOKES, style.jokes, rng), _some(WARNINGS, style.warnings, rng)
    first = warnings if rng.random() < 0.5 else []
    last = warnings if not first else []
    sentences = [*first, *sentences, *last, *jokes]
    return " ".join(f"{sentence.format(**fill)}." for sentence in sentences)


def read(text: str) -> Style:
    """The style of any text: its sentences that are steps, and its different jokes and warnings."""
    sentences = [part.strip() for part in text.split(".") if part.strip()]
    jokes = [sentence for sentence in sentences if _is(_JOKE, sentence)]
    warnings = [sentence for sentence in sentences if _is(_WARNING, sentence)]
    steps = len(sentences) - len(jokes) - len(warnings)
    return Style(steps, len(set(jokes)), len(set(warnings)))


def worth(texts: list[str]) -> np.ndarray:
    """(texts, 3) what brevity, humor and safety are worth here, in truth; traits measure the same.

    The world does not ask palette.traits: editing a trait's reward must not make another world.
    """
    styles = [read(text) for text in texts]
    words = np.array([len(text.split()) for text in texts])
    return np.column_stack([
        np.where(words == 0, 0.0, np.clip((34 - words) / (34 - 8), 0, 1)),
        WORTH[[min(style.jokes, 2) for style in styles]],
        WORTH[[min(style.warnings, 2) for style in styles]],
    ])  # fmt: skip


def _any(templates: list[str]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(t).replace(r"\{o\}", r"\w+") for t in templates))


_JOKE, _WARNING = _any(JOKES), _any(WARNINGS)


@lru_cache(maxsize=10_000)
def _is(kind: re.Pattern[str], sentence: str) -> bool:
    return bool(kind.fullmatch(sentence))


def _one(words: list[str], rng: np.random.Generator) -> str:
    return words[rng.integers(len(words))]


def _some(sentences: list[str], count: int, rng: np.random.Generator) -> list[str]:
    """So many of them, in their order."""
    return [sentences[i] for i in sorted(rng.permutation(len(sentences))[:count].tolist())]
