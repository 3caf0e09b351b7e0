"""Tuning an edit on select prompts: who stands for a group of users, and which trial they keep.

A trial is a strength and a set of layers. The identity is always among them, and wins unless a
trial shows that it is better.
"""

import numpy as np

BREAKAGE = 0.02
"""How much the share of broken answers may grow: more, and a trial is out whatever it gains."""

DOUBT = 0.05
"""Chance, at most, of keeping a trial where none is better than the identity."""
TOLERANCE = 1e-9
"""Of J: an edit that changes nothing gains the noise of floats."""


LAYER_SETS = ("all", "upper", "last")


def layer_set(name: str, depth: int) -> list[int]:
    """The layers, of a model with `depth` of them, that `all`, `upper` or `last` names.

    `upper` is the upper half, with the middle layer where there is one.
    """
    first = {"all": 0, "upper": depth // 2, "last": depth - 1}[name]
    return list(range(first, depth))


def representatives(weights: np.ndarray, count: int) -> list[int]:
    """Rows that stand for all: the medoid, then ever again the one farthest from those chosen.

    The medoid speaks for most, the others for the edges (farthest-first traversal, Gonzalez 1985:
    at most twice the radius of the best cover). Ties go to the first row; equal rows are taken
    once.

    Args:
        weights: (users, traits).
        count: how many at most, from 1.
    """
    apart = np.linalg.norm(weights[:, None] - weights[None], axis=2)
    if not len(apart):
        return []
    chosen = [int(apart.sum(axis=1).argmin())]
    nearest = apart[chosen[0]]
    while len(chosen) < count and nearest.max() > 0:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, apart[chosen[-1]])
    return chosen


def choose(objective: np.ndarray, broken: np.ndarray) -> int:
    """The trial of the best mean gain among those that are better than the identity; or 0, the identity.

    A trial must be better at 95 % confidence, however many were tried (Student's t over prompts with
    Bonferroni's correction), and break at most BREAKAGE more answers. Of 8 trials that are all worth
    nothing the best seems to gain 1.4 standard errors, so one of them would be kept more often than
    not if a standard error were enough. What a trial gained here decides, and is never reported
    as the worth of an edit; that is measured on prompts that chose nothing.

    Args:
        objective: (trials, prompts) of J, paired: every trial met the same prompts and random
            numbers; the identity first.
        broken: (trials,) shares of broken answers.
    """
    from scipy.stats import t as student  # its import takes a second

    gains = objective[1:] - objective[0]  # (trials - 1, prompts)
    prompts = objective.shape[1]
    if not len(gains) or prompts < 2:
        return 0
    mean, error = gains.mean(axis=1), gains.std(axis=1, ddof=1) / np.sqrt(prompts)
    needed = student.ppf(1 - DOUBT / len(gains), prompts - 1) * error + TOLERANCE
    kept = (mean > needed) & (broken[1:] <= broken[0] + BREAKAGE)
    return int(np.where(kept, mean, -np.inf).argmax()) + 1 if kept.any() else 0
