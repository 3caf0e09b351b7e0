"""Does the verdict's upper bound cover the true gap, and how far above it does it lie?

    .venv/bin/python benchmarks/coverage.py                # 300 draws of each world, some minutes
    .venv/bin/python benchmarks/coverage.py --draws 20     # a look

Worlds whose answers can be counted, so that f*, every policy's worth and the gap are exact sums over
a population of prompts. Cells are fixed before; one member falls short, such that the gap is 5 % and
one pair alone decides it, which is the hardest case for a bound that takes the largest of many. Each
draw takes fresh prompts, rollouts and answers for certify and judges them by three estimates of f*:
the plug-in, the upward-erring one from the base's rollouts, and the upward-erring one from the mixture
with the members' answers. Covered: the bound is at least the true gap. Also in worlds with a good mode
that the base rarely shows, which the members have learned, or have not.
"""

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from palette.core.certificate import Evidence, verdict
from palette.core.covering import least_epsilon
from palette.core.envelope import Cell, Planes, cells, pairs
from palette.core.ideal import Ideal
from palette.core.mixture import mixture
from palette.core.pruning import Bench
from palette.core.region import Region

BETA, GAP, CONFIDENCE = 0.1, 0.05, 0.95
TRAITS, ANSWERS = 2, 24
MIDDLE = np.full((1, TRAITS), 1 / TRAITS)
POPULATION, TOPICS, EACH = 200, 32, 2  # topics there are, topics in a split, prompts of a topic
ROLLOUTS, OWN = 64, 16  # samples a prompt: of the base, of each member
TILT = 0.12  # of exp(w·r/β) on average, what a rare mode adds to all other answers together
BOOTSTRAP = 1000
RESULTS = Path(__file__).parent / "results" / "coverage.csv"
WORLDS = {
    "no rare mode": (None, True),
    "mode 1/100, learned": (0.01, True),
    "mode 1/100, not learned": (0.01, False),
    "mode 1/1000, learned": (0.001, True),
    "mode 1/1000, not learned": (0.001, False),
}


@dataclass(frozen=True)
class World:
    """A population of prompts: N = POPULATION · EACH of them, topic by topic."""

    rewards: np.ndarray
    """(N, answers, d)"""
    policies: np.ndarray
    """(K, N, answers): chances of the answers, the base first"""

    @property
    def kl(self) -> np.ndarray:
        """(K, N)"""
        return (self.policies * np.log(self.policies / self.policies[0])).sum(axis=2)

    def ideal(self, weights: np.ndarray) -> np.ndarray:
        """(W,): f*, exactly."""
        scores = np.exp(np.einsum("wd,nad->wna", weights, self.rewards) / BETA)
        return BETA * np.log((scores * self.policies[0]).sum(axis=2)).mean(axis=1)

    def planes(self) -> Planes:
        values = np.einsum("kna,nad->kd", self.policies, self.rewards) / len(self.rewards)
        return Planes(names(len(self.policies)), values, BETA * self.kl.mean(axis=1))

    def cells(self) -> list[Cell]:
        """As a select split of the whole population fixes them, before certify is seen."""
        return cells(self.planes(), Region((0.0,) * TRAITS))

    def gap(self) -> float:
        """The true worst regret over W of the portfolio routed by its cells."""
        weights, members = pairs(self.cells())
        worth = self.planes().worth(weights)[np.arange(len(members)), members]
        return float(least_epsilon(self.ideal(weights), worth, 0.0).max())


def names(count: int) -> tuple[str, ...]:
    return ("base", *(f"m{k}" for k in range(1, count)))


def build(mass: float | None, learned: bool) -> World:
    """A world, one of whose members is mixed with the base until the gap is GAP."""
    rng, region = np.random.default_rng(0), Region((0.0,) * TRAITS)
    prompts = POPULATION * EACH
    taste = rng.beta(2, 2, size=(POPULATION, 1, TRAITS)).repeat(EACH, axis=0)
    rewards = 0.5 * (0.5 * rng.uniform(size=(prompts, ANSWERS, TRAITS)) + 0.5 * taste)
    rewards += 0.25 * (rng.uniform(size=rewards.shape) < 0.3)
    chances = rng.dirichlet(np.ones(ANSWERS), size=prompts).clip(1e-4)
    chances /= chances.sum(axis=1, keepdims=True)
    if mass is not None:
        middle = np.exp(rewards.mean(axis=2) / BETA)
        height = BETA * np.log(TILT * (middle * chances).sum(axis=1) / mass)
        mode = np.repeat(height[:, None, None], TRAITS, axis=2)
        rewards = np.concatenate([rewards, mode], axis=1)
        chances = np.concatenate([(1 - mass) * chances, np.full((prompts, 1), mass)], axis=1)
    aims = region.spread(np.vstack([np.eye(TRAITS), MIDDLE]))
    tilted = chances * np.exp(np.einsum("wd,nad->wna", aims, rewards) / BETA)
    if mass is not None and not learned:
        tilted[:, :, -1] = chances[:, -1] * tilted[:, :, :-1].sum(axis=2)
    tilted /= tilted.sum(axis=2, keepdims=True)

    def mixed(share: float) -> World:
        # One member alone falls short: then one pair decides, and no other helps the bound to cover.
        shares = np.array([share] + [1.0] * (len(aims) - 1))[:, None, None]
        members = shares * tilted + (1 - shares) * chances
        return World(rewards, np.concatenate([chances[None], members]))

    low, high = 0.0, 1.0  # the share of the ideal policy: the more, the smaller the gap
    for _ in range(40):
        share = (low + high) / 2
        low, high = (share, high) if mixed(share).gap() > GAP else (low, share)
    return mixed(high)


def draw(world: World, rng: np.random.Generator) -> Bench:
    """A split of TOPICS topics of the population, with rollouts and answers drawn afresh."""
    topic = rng.integers(POPULATION, size=TOPICS)
    prompt = (topic[:, None] * EACH + np.arange(EACH)).ravel()
    row, rewards = np.arange(len(prompt))[:, None], world.rewards[prompt]
    chance = np.log(world.policies[:, prompt])

    def sample(policy: np.ndarray, count: int) -> np.ndarray:
        """(prompts, count) numbers of answers, by inverse distribution functions."""
        edges = policy[prompt].cumsum(axis=1)[:, None, :-1]
        return (rng.uniform(size=(len(prompt), count, 1)) > edges).sum(axis=2)

    rollouts = sample(world.policies[0], ROLLOUTS)
    ideal = Ideal(rewards[row, rollouts], BETA)
    values, mixtures = [ideal.base()], [ideal]
    for member, policy in enumerate(world.policies[1:], start=1):
        own = sample(policy, OWN)
        values.append(rewards[row, own].mean(axis=1))
        worth, base, mine = (
            (table[row, rollouts], table[row, own])
            for table in (rewards, chance[0], chance[member])
        )
        mixtures.append(mixture(worth, base, mine, BETA))
    costs = BETA * world.kl[:, prompt]
    topics = np.repeat(np.arange(TOPICS), EACH)
    count = len(world.policies)
    return Bench(names(count), ideal, np.array(values), costs, topics, tuple(mixtures))


def judge(
    certify: Bench, weights: np.ndarray, members: np.ndarray
) -> dict[str, tuple[float, float, float, bool]]:
    """By estimate of f*: bound, point, thin share, whether the mixture shows answers unseen."""
    base_alone = replace(certify, mixtures=())
    alone, joined = (bench.evidence(weights, members) for bench in (base_alone, certify))
    plain = Evidence(certify.ideal.value(weights), alone.worth, alone.topics)
    unseen = certify.unseen(weights, joined) > GAP / 4
    told = {}
    for name, evidence, bench in (
        ("plug-in", plain, base_alone),
        ("upward, base", alone, base_alone),
        ("upward, mixture", joined, certify),
    ):
        found = verdict(evidence, GAP, 0.0, CONFIDENCE, BOOTSTRAP, 0)
        thin = float(bench.thin(weights, members).max())
        warned = unseen and bench is certify
        told[name] = (found.epsilon_upper, found.epsilon_point, thin, warned)
    return told


def measure(draws: int) -> list[dict[str, str | float]]:
    """One row for each world and estimate."""
    rows = []
    for name, (mass, learned) in WORLDS.items():
        world, rng = build(mass, learned), np.random.default_rng(1)
        gap, (weights, members) = world.gap(), pairs(world.cells())
        told = [judge(draw(world, rng), weights, members) for _ in range(draws)]
        for estimate in told[0]:
            upper, point, thin, unseen = np.array([one[estimate] for one in told]).T
            rows.append({
                "world": name, "estimate": estimate, "draws": draws,
                "true gap": gap, "covered": (upper >= gap).mean(),
                "median bound": np.median(upper), "median point": np.median(point),
                "thin warned": (thin > 0).mean(), "median thin share": np.median(thin),
                "unseen warned": unseen.mean(),
            })  # fmt: skip
    return rows


def main(draws: int = 300) -> None:
    rows = measure(draws)
    table = Table(
        title=f"Coverage at confidence {CONFIDENCE}, {TOPICS * EACH} prompts × {ROLLOUTS}"
    )
    for column in rows[0]:
        table.add_column(column, justify="left" if column in ("world", "estimate") else "right")
    for row in rows:
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()))
    Console().print(table)
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="") as out:
        writer = csv.DictWriter(out, rows[0], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            rounded = {k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()}
            writer.writerow(rounded)


if __name__ == "__main__":
    typer.run(main)
