"""How well the base does the four things that it was trained for, on fresh text of unseen topics."""

from collections import Counter

import numpy as np

from palette.lm import templates
from palette.lm.generation import generate, row_uniforms
from palette.lm.models import LanguageModel
from palette.sandbox import corpus, world

ROWS = 200


def measure(lm: LanguageModel, seed: int) -> dict[str, float]:
    """Skill → share of right replies, on select topics, which the base was not trained on.

    `guess` is what always giving the commonest reply would reach.
    """
    rng = np.random.default_rng([seed, 4])
    topics = world.topics(seed)["select"]
    skills = {}
    for task in ("insight", "neutral", "judge"):
        examples = _draw(task, topics, rng)
        right = [text == e.reply for text, e in zip(_ask(lm, examples), examples, strict=True)]
        skills[f"{task}.exact"] = float(np.mean(right))
        replies = Counter(example.reply for example in examples)
        skills[f"{task}.guess"] = max(replies.values()) / ROWS
    skills["answer.on_topic"] = _on_topic(lm, topics, rng)
    return skills | _manner(lm, topics, rng)


def _manner(lm, topics, rng) -> dict[str, float]:
    """How often an answer is in the manner asked: per trait, and in all traits at once."""
    manners = [world.MANNERS[i % len(world.MANNERS)] for i in range(ROWS)]
    prompts = [topics[rng.integers(len(topics))].ask(rng) for _ in manners]
    asked = [templates.personal_answer(p, m.insight) for p, m in zip(prompts, manners, strict=True)]
    texts = _sample(lm, asked, "manner")
    right = np.array([
        [(style.steps == 1) == m.short, (style.jokes > 0) == m.funny, (style.warnings > 0) == m.careful]
        for style, m in zip(map(world.read, texts), manners, strict=True)
    ])  # fmt: skip
    skills = {f"manner.{trait}": float(right[:, i].mean()) for i, trait in enumerate(world.TRAITS)}
    return skills | {"manner.exact": float(right.all(1).mean())}


def _on_topic(lm, topics, rng) -> float:
    """Share of plain answers whose first step is one of the verb's, and names no other thing."""
    drawn = [topics[rng.integers(len(topics))] for _ in range(ROWS)]
    texts = _sample(lm, [templates.question(t.ask(rng)) for t in drawn], "answer")
    right = []
    for topic, text in zip(drawn, texts, strict=True):
        words = set(text.lower().replace(".", " ").split())
        others = set(world.THINGS) - {topic.thing}
        right.append(_knows(topic, text) and not words & others)
    return float(np.mean(right))


def _knows(topic: world.Topic, text: str) -> bool:
    filled = [
        step.format(o=topic.thing, t=tool, p=place)
        for step in world.VERBS[topic.verb] for tool in world.TOOLS for place in world.PLACES
    ]  # fmt: skip
    return any(step in text.lower() for step in filled)


def _draw(task, topics, rng) -> list[corpus.Example]:
    return [e for _, e in zip(range(ROWS), corpus.examples(task, topics, rng), strict=False)]


def _ask(lm: LanguageModel, examples: list[corpus.Example]) -> list[str]:
    prompts = [templates.encode(lm.tokenizer, example.messages) for example in examples]
    return generate(lm, prompts, 24).texts


def _sample(lm: LanguageModel, messages: list[templates.Messages], key: str) -> list[str]:
    prompts = [templates.encode(lm.tokenizer, m) for m in messages]
    return generate(lm, prompts, 64, row_uniforms(len(prompts), 64, "skill", key)).texts
