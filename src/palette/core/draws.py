"""What a training sees, row by row: which rollout of which prompt, toward which weights.

Rows are in the order of steps. Within a step they are sorted by length and split into parts, each of
which passes through the model on its own, to spare padding; where several members train together, a
part holds as many rows of each, one member after another.
"""

from dataclasses import dataclass

import numpy as np

from palette.core.resampling import resample

CHUNK = 4096
"""Rows of which the tilted rollouts are held at once."""


@dataclass(frozen=True)
class Draws:
    """All arrays have one entry per row."""

    prompts: np.ndarray
    """indices of prompts"""
    samples: np.ndarray
    """indices of the prompts' rollouts"""
    members: np.ndarray
    """number of the member that the row trains; 0 where there is one adapter for all w"""
    weights: np.ndarray
    """(rows, d) the w toward which it trains it"""

    def __getitem__(self, rows: np.ndarray) -> "Draws":
        return Draws(self.prompts[rows], self.samples[rows], self.members[rows], self.weights[rows])

    def __len__(self) -> int:
        return len(self.prompts)


def for_members(
    rewards: np.ndarray, beta: float, weights: np.ndarray, steps: int, batch: int, seed: int
) -> Draws:
    """Rollouts resampled toward each member's π*_w; every member has the same random numbers.

    Args:
        rewards: (prompts, samples, d) of the base's rollouts.
        beta: price of one nat of KL.
        weights: (members, d).
        batch: rows per member and step.

    Returns:
        steps × members × batch rows, in a step one member after another.
    """
    total = steps * batch
    each = []
    for member, own in enumerate(weights):
        rng = np.random.default_rng([seed, 0])
        prompts, samples = resample(rewards @ own / beta, -(-total // len(rewards)), rng)
        rows = rng.permutation(len(prompts))[:total]
        ones = np.ones(total, dtype=int)
        each.append(Draws(prompts[rows], samples[rows], member * ones, np.tile(own, (total, 1))))
    # (members, steps, batch) → (steps, members, batch)
    order = np.arange(len(weights) * total).reshape(len(weights), steps, batch).swapaxes(0, 1)
    return _joined(each)[order.ravel()]


def for_all(
    rewards: np.ndarray, beta: float, floor: np.ndarray, concentration: float, rows: int, seed: int
) -> Draws:
    """Rollouts resampled each toward its own random w: Dirichlet above the floor.

    Args:
        rewards, beta: as in `for_members`.
        floor: (d,) the least weight of each trait.
        concentration: of the Dirichlet; below 1 the corners of W are met more often.
    """
    rng = np.random.default_rng([seed, 0])
    weights = random_weights(floor, concentration, rows, rng)
    prompts = shuffled(len(rewards), rows, rng)
    uniforms, samples = rng.random(rows), np.empty(rows, dtype=int)
    for start in range(0, rows, CHUNK):
        part = slice(start, start + CHUNK)
        tilt = np.einsum("nsd,nd->ns", rewards[prompts[part]], weights[part]) / beta
        mass = np.exp(tilt - tilt.max(axis=1, keepdims=True)).cumsum(axis=1)
        below = mass <= uniforms[part, None] * mass[:, -1:]
        samples[part] = np.minimum(below.sum(axis=1), mass.shape[1] - 1)
    return Draws(prompts, samples, np.zeros(rows, dtype=int), weights)


def random_weights(
    floor: np.ndarray, concentration: float, rows: int, rng: np.random.Generator
) -> np.ndarray:
    """(rows, d) weights of W."""
    free = rng.dirichlet([concentration] * len(floor), rows)
    return floor + (1 - floor.sum()) * free


def shuffled(size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` indices below `size`: one random order after another."""
    orders = [rng.permutation(size) for _ in range(-(-count // size))]
    return np.concatenate(orders)[:count]


def by_length(lengths: np.ndarray, members: int, batch: int, parts: int) -> np.ndarray:
    """Row numbers (steps, parts, members · batch / parts): rows of a part are of like length.

    Args:
        lengths: (rows,) tokens; in each step the rows of one member after another.
        batch: rows per member and step; a multiple of `parts`.
    """
    order = lengths.reshape(-1, members, batch).argsort(axis=2, kind="stable")
    order = order + np.arange(len(lengths))[::batch].reshape(-1, members, 1)
    # (steps, members, parts, rows) → (steps, parts, members, rows)
    order = order.reshape(len(order), members, parts, -1).swapaxes(1, 2)
    return order.reshape(len(order), parts, -1)


def _joined(each: list[Draws]) -> Draws:
    fields = ("prompts", "samples", "members", "weights")
    return Draws(*(np.concatenate([getattr(own, name) for own in each]) for name in fields))
