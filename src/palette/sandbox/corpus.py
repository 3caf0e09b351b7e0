"""What the base learns from: the things an instruct model is asked for, in our own templates."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from palette.lm import templates
from palette.sandbox import people, world

SHARES = {"answer": 0.25, "insight": 0.22, "neutral": 0.06, "manner": 0.3, "judge": 0.17}
"""Share of each task among the training batches."""
LIKED = 0.5
SHORT_STEPS = 1.5
FAITHFUL = 0.8
"""Share of answers in a manner that keep to it."""


@dataclass(frozen=True)
class Example:
    task: str
    messages: templates.Messages
    reply: str


def examples(task: str, topics: list[world.Topic], rng: np.random.Generator) -> Iterator[Example]:
    """Endless examples of one task."""
    make = {"answer": _answer, "insight": _insight, "neutral": _neutral, "manner": _manner,
            "judge": _judge}[task]  # fmt: skip
    while True:
        yield Example(task, *make(topics, rng))


def truth(history: list[tuple[str, str]]) -> world.Manner:
    """The insight that a history supports, by counting."""
    styles = [world.read(response) for _, response in history]
    return world.Manner(
        float(np.mean([style.steps for style in styles])) <= SHORT_STEPS,
        float(np.mean([style.jokes > 0 for style in styles])) >= LIKED,
        float(np.mean([style.warnings > 0 for style in styles])) >= LIKED,
    )


def history(topics: list[world.Topic], rng: np.random.Generator) -> list[tuple[str, str]]:
    """Rows of one user: half of the time chosen as the sandbox's users choose, half in one manner.

    Choices under weights alone meet some manners hardly ever ("long, plain"), so that a model would
    do well to guess.
    """
    weights = rng.dirichlet(np.ones(3)) if rng.random() < 0.5 else None
    manner = world.MANNERS[rng.integers(len(world.MANNERS))]
    rows = []
    for _ in range(int(rng.integers(1, 5))):
        topic, prompt = _topic(topics, rng)
        if weights is None:
            style = manner.style(rng) if rng.random() < FAITHFUL else world.draw_style(rng)
            rows.append((prompt, world.answer(topic, style, rng)))
        else:
            styles = [world.draw_style(rng) for _ in range(people.CANDIDATES)]
            answers = [world.answer(topic, style, rng) for style in styles]
            rows.append((prompt, people.choose(answers, weights, rng)))
    return rows


def shows(answer: str, trait: str) -> bool:
    """What the judge should say: is the answer on the liked side of this trait?"""
    return bool(world.worth([answer])[0, world.TRAITS.index(trait)] >= 0.6)


def _topic(topics, rng):
    topic = topics[rng.integers(len(topics))]
    return topic, topic.ask(rng)


def _answer(topics, rng):
    topic, prompt = _topic(topics, rng)
    return templates.question(prompt), world.answer(topic, world.draw_style(rng), rng)


def _insight(topics, rng):
    rows = history(topics, rng)
    return templates.personal_insight(rows), truth(rows).insight


def _neutral(topics, rng):
    return templates.neutral_insight(history(topics, rng)), world.NEUTRAL_INSIGHT


def _manner(topics, rng):
    topic, prompt = _topic(topics, rng)
    if rng.random() < 0.15:
        reply = world.answer(topic, world.NEUTRAL_STYLE, rng)
        return templates.neutral_answer(prompt, world.NEUTRAL_INSIGHT), reply
    manner = world.MANNERS[rng.integers(len(world.MANNERS))]
    return templates.personal_answer(prompt, manner.insight), world.answer(
        topic, manner.style(rng), rng
    )


def _judge(topics, rng):
    topic, prompt = _topic(topics, rng)
    text = world.answer(topic, world.draw_style(rng), rng)
    trait = world.TRAITS[rng.integers(len(world.TRAITS))]
    return templates.judge(prompt, text, trait), "yes" if shows(text, trait) else "no"
