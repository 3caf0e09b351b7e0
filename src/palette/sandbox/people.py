"""The users: a hidden weight vector each, and a history of answers chosen under it, with noise."""

import json

import numpy as np
import polars as pl

from palette.params import Sandbox
from palette.sandbox import world

TASTES = {
    "brief": (0.4, (0.80, 0.10, 0.10)),
    "playful": (0.25, (0.15, 0.75, 0.10)),
    "cautious": (0.2, (0.15, 0.10, 0.75)),
    "balanced": (0.15, (0.34, 0.33, 0.33)),
}
"""taste → (share of users, mean of its Dirichlet)"""
CONCENTRATION = 12.0
CANDIDATES = 4
SHARPNESS = 12.0
NO_HISTORY = 0.1
LONGEST = 20
BROKEN = 0.01


def histories(sandbox: Sandbox) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows as a log would hold them, all strings and some broken; and the true weights.

    A user without history is a row with neither prompt nor response.
    """
    rng = np.random.default_rng([sandbox.seed, 2])
    topics = world.topics(sandbox.seed)["train"]
    rows: list[dict[str, str | None]] = []
    hidden: list[dict[str, str | float]] = []
    for number in range(sandbox.users):
        user = f"u{number:04d}"
        taste, weights = draw_taste(rng)
        true = {f"w_{trait}": w for trait, w in zip(world.TRAITS, weights, strict=True)}
        hidden.append({"user_id": user, "taste": taste, **true})
        if rng.random() < NO_HISTORY:
            rows.append({"user_id": user, "public": "true"})
            continue
        for position in range(int(rng.integers(1, LONGEST + 1))):
            rows.append(_ask(user, position, weights, topics, rng))
            if rng.random() < BROKEN:
                rows.append(_break(rows[-1], rng))
    columns = ["user_id", "prompt", "response", "rating", "timestamp", "public"]
    return pl.DataFrame(rows, schema={name: pl.String for name in columns}), pl.DataFrame(hidden)


def draw_taste(rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """A name in TASTES, and weights."""
    shares = np.array([share for share, _ in TASTES.values()])
    taste = list(TASTES)[rng.choice(len(TASTES), p=shares)]
    return taste, rng.dirichlet(CONCENTRATION * np.array(TASTES[taste][1]))


def choose(answers: list[str], weights: np.ndarray, rng: np.random.Generator) -> str:
    """One answer, by a softmax of what each is worth to these weights."""
    p = SHARPNESS * (world.worth(answers) @ weights)
    p = np.exp(p - p.max())
    return answers[rng.choice(len(answers), p=p / p.sum())]


def _ask(user, position, weights, topics, rng) -> dict[str, str | None]:
    """A question, and the answer that the user chose among a few."""
    topic = topics[rng.integers(len(topics))]
    prompt = topic.ask(rng)
    answers = [world.answer(topic, world.draw_style(rng), rng) for _ in range(CANDIDATES)]
    chosen = choose(answers, weights, rng)
    day = f"2026-{1 + position // 28:02d}-{1 + position % 28:02d}T12:00:00"
    return {
        "user_id": user, "prompt": prompt, "response": chosen,
        "rating": None, "timestamp": day, "public": "true",
    }  # fmt: skip


def _break(row: dict[str, str | None], rng: np.random.Generator) -> dict[str, str | None]:
    """The row as a faulty log would hold it."""
    faults = [{"response": ""}, {"user_id": None}, {"rating": "five stars"}, {"prompt": None},
              {"timestamp": "yesterday"}, {}]  # fmt: skip
    return json.loads(json.dumps(row)) | faults[rng.integers(len(faults))]
