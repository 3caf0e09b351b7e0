"""Which member of one portfolio is which of another: by nearest weights."""

import numpy as np


def distances(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(M, K): the part of the weight that lies elsewhere, 0 to 1, from weights (M, d) and (K, d)."""
    return 0.5 * np.abs(before[:, None, :] - after[None, :, :]).sum(axis=2)


def matched(before: np.ndarray, after: np.ndarray) -> list[tuple[int, int]]:
    """Rows of weights (M, d) and (K, d) that are each other's nearest, in the order of the first.

    A row whose nearest has a nearer one itself has no counterpart: it was dropped, or added.
    """
    if not (len(before) and len(after)):
        return []
    apart = distances(before, after)
    nearest, back = apart.argmin(axis=1), apart.argmin(axis=0)
    return [(row, int(near)) for row, near in enumerate(nearest) if back[near] == row]
