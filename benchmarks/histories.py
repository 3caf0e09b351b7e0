"""How much is lost after how many rows of history, and do the intervals of weights hold?

    .venv/bin/python benchmarks/histories.py            # three seeds, some minutes
    .venv/bin/python benchmarks/histories.py --quick    # one seed, fewer users: a look

Users of the sandbox's tastes write histories of up to 20 rows; the base's answers are the world's own,
so that no model is needed. A group of users teaches how they choose and what they value; others are met
with their first rows alone. Regret is f*(w) − J_w(π*_ŵ), exact up to the rollouts: what the best policy
for the estimated weights loses at the true ones. A share of rows is by another user. Beside answers
that users chose: answers of the base that they rated, by thumbs or by lenient stars; tastes that
drift from one to another over the 20 rows, where the last is the truth; and prompts that lean, so that all
their answers are alike in one thing, with the base asked about them (`insights.users`) and not.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from palette.core.choices import Choices, Chooser, recency
from palette.core.ideal import Ideal
from palette.core.preference import COARSE, draw_particles, fit_chooser, fit_prior, posterior
from palette.core.said import learn_said
from palette.params_file import load
from palette.progress import progress
from palette.sandbox import people, world
from palette.traits import score

RESULTS = Path(__file__).parent / "results" / "histories.csv"
ROWS, CONTRASTS, LEVEL = people.LONGEST, 2, 0.9
SHOWN = (0, 1, 2, 5, 10, 20)
PROMPTS, SAMPLES = 24, 512
PARAMS = load(Path(__file__).parents[1] / "params.yaml")
NAMES = PARAMS.trait_names

Lean = dict[str, int]
"""what all answers to a prompt have in common: part of a style"""
Writes = Callable[[np.ndarray, world.Topic, np.random.Generator, Lean], tuple[str, float]]
"""weights → an answer, and how it was liked, from -1 to 1"""


@dataclass(frozen=True)
class Logs:
    """Histories of ROWS rows of some users."""

    weights: np.ndarray
    """(users, d) at the last row"""
    said: np.ndarray
    """(users, ROWS, d) rewards"""
    liking: np.ndarray
    """(users, ROWS)"""
    base: np.ndarray
    """(users, ROWS, CONTRASTS, d) rewards of the base's answers"""

    def choices(self, lengths: np.ndarray, teaching: int, case: "Case") -> Choices:
        """Of users with so many rows, of whom the first `teaching` take part in estimates.

        Rows are a day apart; the latest of a user's are left.
        """
        age = np.arange(ROWS - 1.0, -1.0, -1.0)
        user, row = np.nonzero(age < lengths[:, None])
        answers = self.base[user, row]
        number = np.arange(len(user)).repeat(CONTRASTS)
        teaches = user[number] < teaching
        asked = teaches | case.asked
        answers, number = answers.reshape(len(number), -1)[asked], number[asked]
        base = learn_said(answers, number, teaches[asked])
        mean = base.expected(answers, number, len(user))
        return Choices(
            user, self.said[user, row] - mean, self.liking[user, row],
            recency(age[row], case.half_life), np.zeros(len(user), bool), base.base,
        )  # fmt: skip


def chosen(
    weights: np.ndarray, topic: world.Topic, rng: np.random.Generator, lean: Lean
) -> tuple[str, float]:
    answers = [plain(topic, rng, lean) for _ in range(people.CANDIDATES)]
    return people.choose(answers, weights, rng), 1.0


def thumbs(
    weights: np.ndarray, topic: world.Topic, rng: np.random.Generator, lean: Lean
) -> tuple[str, float]:
    """An answer of the base, up or down: the likelier up, the better it is than most."""
    text = plain(topic, rng, lean)
    better = people.SHARPNESS * (world.worth([text])[0] - TYPICAL) @ weights
    return text, 1.0 if rng.random() < 1 / (1 + np.exp(-better)) else -1.0


def stars(
    weights: np.ndarray, topic: world.Topic, rng: np.random.Generator, lean: Lean
) -> tuple[str, float]:
    """An answer of the base, and one to five stars, more often four or five than one or two."""
    text = plain(topic, rng, lean)
    felt = 5 * (world.worth([text])[0] - TYPICAL) @ weights + rng.normal(0.5, 0.7)
    return text, float(np.digitize(felt, [-1.5, -0.5, 0.5, 1.5]) / 2 - 1)


def plain(topic: world.Topic, rng: np.random.Generator, lean: Lean | None = None) -> str:
    return world.answer(topic, replace(world.draw_style(rng), **(lean or {})), rng)


def draw_lean(rng: np.random.Generator) -> Lean:
    """One thing that answers to a prompt have in common."""
    style = world.draw_style(rng)
    name = str(rng.choice(["steps", "jokes", "warnings"]))
    return {name: getattr(style, name)}


TOPICS = world.topics(0)["train"]
_rng = np.random.default_rng(0)
TYPICAL = world.worth([plain(TOPICS[i % len(TOPICS)], _rng) for i in range(2000)]).mean(0)


@dataclass(frozen=True)
class Case:
    name: str
    writes: Writes = chosen
    by_others: float = 0.0
    """share of rows"""
    assumed: float | None = None
    """preferences.strangers"""
    drifts: bool = False
    half_life: float | None = None
    leaning: float = 0.0
    """share of prompts"""
    asked: bool = True
    """the base, to the prompts of users who teach nothing"""
    every_length: bool = False


def draw_logs(users: int, case: Case, rng: np.random.Generator) -> Logs:
    truth, texts, liking = [], [], []
    for _ in range(users):
        first, last = people.draw_taste(rng)[1], people.draw_taste(rng)[1]
        for row in range(ROWS):
            part = row / (ROWS - 1) if case.drifts else 1.0
            weights = (1 - part) * first + part * last
            if rng.random() < case.by_others:
                weights = people.draw_taste(rng)[1]
            topic = TOPICS[rng.integers(len(TOPICS))]
            lean = draw_lean(rng) if case.leaning and rng.random() < case.leaning else {}
            text, liked = case.writes(weights, topic, rng, lean)
            texts += [text, *(plain(topic, rng, lean) for _ in range(CONTRASTS))]
            liking.append(liked)
        truth.append(last)
    rewards = score(PARAMS.traits, [""] * len(texts), texts)
    rewards = rewards.reshape(users, ROWS, 1 + CONTRASTS, len(NAMES))
    return Logs(
        np.array(truth), rewards[:, :, 0], np.reshape(liking, (users, ROWS)), rewards[:, :, 1:]
    )


def base_rollouts(rng: np.random.Generator) -> Ideal:
    texts = [
        plain(topic, rng) for topic in world.topics(0)["test"][:PROMPTS] for _ in range(SAMPLES)
    ]
    rewards = score(PARAMS.traits, [""] * len(texts), texts)
    return Ideal(rewards.reshape(PROMPTS, SAMPLES, -1), PARAMS.objective.beta).condensed()


def regret(ideal: Ideal, truth: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """(users,) f*(w) − J_w of the policy that is best at the estimate."""
    means, kl = ideal.policy(estimate)
    worth = (truth * means.mean(axis=1)).sum(axis=1) - ideal.beta * kl.mean(axis=1)
    return ideal.value(truth).mean(axis=1) - worth


def measure(
    logs: Logs, group: int, lengths: np.ndarray, ideal: Ideal, case: Case
) -> tuple[Chooser, list[dict[str, float]]]:  # fmt: skip
    """One row for each length of the histories of the users beyond the group."""
    floor, users = np.zeros(len(NAMES)), len(logs.weights)
    others = np.arange(group, users)
    truth = logs.weights[others]
    taught = logs.choices(np.r_[lengths, np.zeros(len(others))], group, case).of(np.arange(group))
    chooser = fit_chooser(taught, group, draw_particles(floor, 0, COARSE), None, case.assumed)
    prior = fit_prior(taught, group, draw_particles(floor, 0), chooser)
    found = []
    for rows in range(ROWS + 1) if case.every_length else SHOWN:
        own = logs.choices(np.r_[lengths, np.full(len(others), rows)], group, case).of(others)
        guess = posterior(own, len(others), prior, chooser, LEVEL)
        held = (guess.low - 1e-9 <= truth) & (truth <= guess.high + 1e-9)
        found.append({
            "rows": rows, "regret": regret(ideal, truth, guess.mean).mean(),
            "covered": held.mean(), "width": (guess.high - guess.low).mean(),
        })  # fmt: skip
    return chooser, found


CASES = [
    *(Case("chosen", by_others=share, every_length=True) for share in (0.0, 0.1, 0.3)),
    *(Case("chosen, others not looked for", by_others=share, assumed=0.0) for share in (0.1, 0.3)),
    Case("thumbs", writes=thumbs),
    Case("stars", writes=stars),
    *(Case(f"drifting, half-life {half_life or 'none'}", drifts=True, half_life=half_life)
      for half_life in (None, 10.0, 5.0, 2.5)),
    Case("base not asked", asked=False, every_length=True),
    *(Case(f"prompts lean, base {'' if asked else 'not '}asked", leaning=0.5, asked=asked,
           every_length=True) for asked in (True, False)),
]  # fmt: skip


def run(seeds: int, group: int, users: int) -> list[dict[str, Any]]:
    found: dict[tuple[str, float, int], list[dict[str, float]]] = {}
    with progress("cases", total=seeds * len(CASES)) as advance:
        for seed in range(seeds):
            rng = np.random.default_rng([seed, 1])
            lengths = rng.integers(1, ROWS + 1, group)
            lengths[rng.random(group) < people.NO_HISTORY] = 0
            ideal = base_rollouts(rng)
            for case in CASES:
                # Where only the estimate differs, histories are the same.
                logs = draw_logs(group + users, case, np.random.default_rng([seed, 2]))
                chooser, rows = measure(logs, group, lengths, ideal, case)
                for row in rows:
                    row |= {"scale": chooser.scale, "strangers": chooser.strangers}
                    key = case.name, case.by_others, int(row["rows"])
                    found.setdefault(key, []).append(row)
                advance(1)
    table: list[dict[str, Any]] = []
    for (name, share, length), rows in found.items():
        mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
        none, most = (np.mean([r["regret"] for r in found[name, share, n]]) for n in (0, ROWS))
        recovered = float((none - mean["regret"]) / (none - most))
        table.append(
            {"histories": name, "by others": share, **mean, "rows": length, "recovered": recovered}
        )
    return table


def show(table: list[dict[str, Any]]) -> None:
    shown = Table(*("histories", "by others", "estimated"), *(f"regret at {n}" for n in SHOWN),
                  "5 recover", "least covered")  # fmt: skip
    for case in dict.fromkeys((row["histories"], row["by others"]) for row in table):
        rows = {row["rows"]: row for row in table if (row["histories"], row["by others"]) == case}
        cells = [f"{rows[n]['regret']:.4f} ({rows[n]['covered']:.2f})" for n in SHOWN]
        shown.add_row(
            case[0], f"{case[1]:g}", f"{rows[0]['strangers']:.2f}", *cells,
            f"{rows[5]['recovered']:.2f}", f"{min(row['covered'] for row in rows.values()):.3f}",
        )  # fmt: skip
    console = Console(width=170)
    console.print(shown)
    console.print(
        f"Regret (share of weights within their {LEVEL:.0%} intervals), by rows of history"
    )


def main(quick: bool = False) -> None:
    table = run(1, 120, 100) if quick else run(3, 230, 400)
    show(table)
    if quick:
        return
    with RESULTS.open("w", newline="") as out:
        writer = csv.DictWriter(out, table[0], lineterminator="\n")
        writer.writeheader()
        for row in table:
            writer.writerow({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()})


if __name__ == "__main__":
    typer.run(main)
