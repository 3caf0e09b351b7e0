"""How hard the problem is without a portfolio: the file's `gap`, found again."""

from itertools import combinations
from math import comb

import numpy as np

from palette.checking.branching import least_epsilon
from palette.checking.mixtures import Mixture

LATTICE = 500  # single policies at most among which the file's best one was looked for


def hardness(base: Mixture, floor: np.ndarray) -> dict[str, float]:
    """The worst multiplicative regret over W of one policy: the base, or the best of a lattice.

    A single plane under a convex f* is worst at a corner of W. The ideal policy of w' is worth
    `f*(w') + (w − w')·∇f*(w')` at w.

    Args:
        base: the base's rollouts alone, on certify.
        floor: (d,), of W.
    """
    d, spare = len(floor), 1 - floor.sum()
    region = floor + spare * np.eye(d)
    ideal = base.plain(region).mean(axis=1)
    untrained = np.mean([own.rewards.mean(axis=0) for own in base.prompts], axis=0)

    steps = LATTICE
    while steps > 1 and comb(steps + d - 1, d - 1) > LATTICE:
        steps -= 1
    count = comb(steps + d - 1, d - 1)
    bars = np.array(list(combinations(range(steps + d - 1), d - 1))).reshape(count, d - 1)
    edge = np.full((count, 1), -1)
    counts = np.diff(np.hstack([edge, bars, edge + steps + d]).astype(int), axis=1) - 1
    lattice = floor + spare * counts / steps
    slopes = base.slopes(lattice)
    costs = (lattice * slopes).sum(axis=1) - base.plain(lattice).mean(axis=1)
    single = least_epsilon(ideal - slopes @ region.T + costs[:, None], ideal).max(axis=1)
    return {
        "base": float(least_epsilon(ideal - region @ untrained, ideal).max()),
        "single": float(single.min()),
    }
