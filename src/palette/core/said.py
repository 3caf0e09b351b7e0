"""What the base says to the prompts of histories: beside it each row of a user's is laid.

The base's answers to a row's prompt are few, so what they are worth leans on all rows' as far as prompts
do not differ (a random effect); and how answers lie about that is alike for all rows.
"""

from dataclasses import dataclass

import numpy as np

ANSWERS = 1024
"""The base's answers that stand for all of them."""


@dataclass(frozen=True)
class Said:
    """What the base says to the prompts of histories, alike for all users."""

    grand: np.ndarray
    """(traits,) mean rewards of its answers"""
    ratio: np.ndarray
    """(traits,) variance between prompts over that of the answers to one"""
    base: np.ndarray
    """(at most ANSWERS, traits) rewards of answers, less what the others to the same prompt let expect"""

    def expected(self, rewards: np.ndarray, row: np.ndarray, rows: int) -> np.ndarray:
        """(rows, traits): what the base's answers to each row's prompt are worth.

        A row's mean is drawn toward the mean of all rows as far as its few answers' scatter explains
        that it differs: the best linear prediction of a random effect, by moments, trait by trait.
        Of a row without answers nothing but the mean of all is known.

        Args:
            rewards: (answers, traits) of the base's own answers.
            row: (answers,) int, the history row that each belongs to, from 0.
        """
        count, total = _sums(rewards, row, rows)
        return _lean(self.grand, self.ratio, total / np.maximum(count, 1), count)


def learn_said(rewards: np.ndarray, row: np.ndarray, teaches: np.ndarray) -> Said:
    """What the base says, by the answers that teach.

    Args:
        rewards: (answers, traits) of the base's own answers.
        row: (answers,) int, the history row that each belongs to, from 0.
        teaches: (answers,) bool: others take no part in any estimate. Where none teaches, all do.
    """
    teaches = teaches if teaches.any() else np.ones(len(row), bool)
    count, total = _sums(rewards, row, int(row.max(initial=-1)) + 1)
    grand = rewards[teaches].mean(0) if len(rewards) else np.zeros(rewards.shape[1])
    ratio = _ratio(rewards[teaches], row[teaches])
    some = np.flatnonzero(teaches)
    some = some[np.linspace(0, len(some) - 1, min(ANSWERS, len(some))).astype(int)]
    others = count[row[some]] - 1
    rest = (total[row[some]] - rewards[some]) / np.maximum(others, 1)
    return Said(grand, ratio, rewards[some] - _lean(grand, ratio, rest, others))


def _lean(
    grand: np.ndarray, ratio: np.ndarray, mean: np.ndarray, answers: np.ndarray
) -> np.ndarray:
    """(rows, traits): the means of so many answers, drawn toward the mean of all."""
    return grand + (mean - grand) * answers * ratio / (answers * ratio + 1)


def _sums(rewards: np.ndarray, row: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows, 1) answers of each row, and (rows, traits) the sum of their rewards."""
    total = np.zeros((rows, rewards.shape[1]))
    np.add.at(total, row, rewards)
    return np.bincount(row, minlength=rows)[:, None], total


def _ratio(rewards: np.ndarray, row: np.ndarray) -> np.ndarray:
    """(traits,) variance between rows over that within, by the analysis of variance; at least 0."""
    _, place, count = np.unique(row, return_inverse=True, return_counts=True)
    answers, rows = len(row), len(count)
    if answers <= rows or rows < 2:
        return np.zeros(rewards.shape[1])
    mean = np.zeros((rows, rewards.shape[1]))
    np.add.at(mean, place, rewards / count[place, None])
    within = ((rewards - mean[place]) ** 2).sum(0) / (answers - rows)
    spread = (count[:, None] * (mean - rewards.mean(0)) ** 2).sum(0) / (rows - 1)
    size = (answers - (count**2).sum() / answers) / (rows - 1)
    between = np.maximum(spread - within, 0) / size
    return between / np.maximum(within, 1e-12)
