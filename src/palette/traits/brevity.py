"""Brevity: 1 up to `best` words, 0 from `worst` words on, linear between."""

from collections.abc import Sequence

import numpy as np


def reward(prompts: Sequence[str], responses: Sequence[str], best: int, worst: int) -> np.ndarray:
    """(rows,) An empty answer is worth 0: saying nothing is not brief.

    Raises:
        ValueError: `best` is not below `worst`.
    """
    if not best < worst:
        raise ValueError(f"best is {best}, but must be below worst ({worst})")
    words = np.array([len(response.split()) for response in responses])
    return np.where(words == 0, 0.0, np.clip((worst - words) / (worst - best), 0, 1))
