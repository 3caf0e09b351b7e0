"""What is wrong with traits, seen from their rewards alone."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np

END = 0.95
"""Share of answers at 0, or at 1, from which on a reward hardly tells answers apart."""
ALIKE = 0.95
"""Correlation from which on two traits are one."""
BARS = "▁▂▃▄▅▆▇█"


def histogram(rewards: np.ndarray, bins: int) -> str:
    """How rewards (rows,) lie between 0 and 1: a bar for each bin, a space where there are none."""
    counts, _ = np.histogram(rewards, bins, (0.0, 1.0))
    heights = np.ceil(counts / max(counts.max(), 1) * len(BARS)).astype(int)
    return "".join((" " + BARS)[height] for height in heights)


def correlations(rewards: Mapping[str, np.ndarray]) -> dict[tuple[str, str], float]:
    """Of every two traits; without those that are the same for all answers."""
    vary = {name: own for name, own in rewards.items() if len(own) and np.ptp(own) > 0}
    return {
        (one, other): float(np.corrcoef(vary[one], vary[other])[0, 1])
        for one, other in combinations(vary, 2)
    }


def complaints(rewards: Mapping[str, np.ndarray]) -> list[str]:
    """What is wrong, and the cure, in a sentence each.

    Args:
        rewards: trait → (rows,) of the same answers, at least one.
    """
    found = []
    for name, own in rewards.items():
        if np.ptp(own) == 0:
            found.append(
                f"traits.{name} gives {own[0]:g} to every answer, so that no policy can gain on it; "
                "mend the reward or remove the trait"
            )
            continue
        for end in (0, 1):
            if (share := float((own == end).mean())) > END:
                found.append(
                    f"traits.{name} gives {end} to {share:.1%} of the answers and hardly tells them "
                    "apart; soften the reward, widen its range, or remove the trait"
                )
    found += [
        f"{one} and {other} are nearly one trait (correlation {value:.2f}); remove one of them"
        for (one, other), value in correlations(rewards).items()
        if value > ALIKE
    ]
    return found
