"""f* where all prompts share their few reward vectors: one exponential serves every prompt.

Rewards are often few numbers (a joke or none, a count of words), and the same for all prompts. Then
`E_{y~π_ref} exp(w·r/β)` of every prompt is a product of one matrix of masses with one vector.
"""

from dataclasses import dataclass

import numpy as np

SPREAD = 300.0
"""Nats of w·r/β that rewards may span: what is left of the smallest exponential is still a float."""
SHARED = 4
"""Distinct vectors in all, over those of a prompt on average, up to which sharing them is faster."""
CHUNK = 2_000_000
"""Numbers of an array at once."""


@dataclass(frozen=True)
class Atoms:
    """Distinct reward vectors, and how much of its mass each prompt's base gives to each."""

    rewards: np.ndarray
    """(D, d)"""
    mass: np.ndarray
    """(prompts, D): adds up to the mean importance weight of the prompt's samples"""
    beta: float
    """price of one nat of KL to the base"""

    def value(self, weights: np.ndarray) -> np.ndarray:
        """(W, prompts): as `Ideal.value`."""
        parts = [self._partition(part) for part in self._chunks(weights)]
        return self.beta * np.concatenate(
            [np.log(partition) + top for _, partition, top in parts] or [np.empty((0, len(self.mass)))]
        )

    def policy(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `Ideal.policy`."""
        d = self.rewards.shape[1]
        means = np.empty((len(weights), len(self.mass), d))
        value = np.empty(means.shape[:2])
        start = 0
        for part in self._chunks(weights):
            rows = slice(start, start + len(part))
            exponentials, partition, top = self._partition(part)
            for trait in range(d):
                summed = (exponentials * self.rewards[:, trait]) @ self.mass.T
                means[rows, :, trait] = summed / partition
            value[rows] = self.beta * (np.log(partition) + top)
            start = rows.stop
        reward = np.einsum("wd,wnd->wn", weights, means)
        return means, np.maximum(reward - value, 0) / self.beta

    def curvature(self, weights: np.ndarray) -> np.ndarray:
        """(W, d, d): as `Ideal.curvature`."""
        d, prompts = self.rewards.shape[1], len(self.mass)
        squares = (self.rewards[:, :, None] * self.rewards[:, None, :]).reshape(-1, d * d)
        found = np.empty((len(weights), d, d))
        start = 0
        for part in self._chunks(weights):
            rows = slice(start, start + len(part))
            exponentials, partition, _ = self._partition(part)
            # Of the mean over prompts, each atom's share.
            shares = exponentials * ((1 / partition) @ self.mass / prompts)
            second = (shares @ squares).reshape(-1, d, d)
            means = np.stack(
                [(exponentials * self.rewards[:, i]) @ self.mass.T / partition for i in range(d)], 2
            )
            found[rows] = second - np.einsum("wni,wnj->wij", means, means) / prompts
            start = rows.stop
        return found / self.beta

    def _partition(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """exp(w·r/β − top) (W, D), Z over e^top (W, prompts), and top (W, 1)."""
        scores = np.asarray(weights, dtype=float) @ self.rewards.T / self.beta
        top = scores.max(axis=1, keepdims=True)
        exponentials = np.exp(scores - top)
        return exponentials, exponentials @ self.mass.T, top

    def _chunks(self, weights: np.ndarray) -> list[np.ndarray]:
        step = max(1, CHUNK // max(self.mass.shape))
        return [weights[start : start + step] for start in range(0, len(weights), step)]


def shared(
    rewards: np.ndarray, log_weights: np.ndarray, counts: np.ndarray, beta: float
) -> Atoms | None:
    """The atoms of samples, where sharing them is faster and safe; else None.

    Args:
        rewards: (prompts, m, d).
        log_weights: (prompts, m): log importance weights; −inf where there is no sample.
        counts: (prompts,): by which sums of weights become means.
    """
    real = np.isfinite(log_weights)
    distinct, which = np.unique(rewards[real], axis=0, return_inverse=True)
    if np.ptp(distinct, axis=0).max() > SPREAD * beta:
        return None
    if len(distinct) > SHARED * real.sum() / len(rewards):
        return None
    mass = np.zeros((len(rewards), len(distinct)))
    prompt = np.broadcast_to(np.arange(len(rewards))[:, None], real.shape)[real]
    np.add.at(mass, (prompt, which.ravel()), np.exp(log_weights[real]))
    return Atoms(distinct, mass / counts[:, None], beta)
