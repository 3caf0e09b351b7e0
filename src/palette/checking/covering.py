"""Whether the file's cells are the envelope of the select planes, with nothing of W left out."""

from math import factorial

import numpy as np

SLACK = 1e-7  # of weights and worths: corners are stored as computed


def stray_corners(
    cells: dict[str, tuple[str, np.ndarray]],
    floor: np.ndarray,
    planes: dict[str, tuple[np.ndarray, float]],
) -> list[tuple[str, str]]:
    """Corners (place in the file, what is wrong) outside W, or where another member is better.

    Args:
        cells: key of the file → (member, corners (V, d)).
        planes: policy → (mean rewards (d,), cost) on select.
    """
    values = np.array([value for value, _ in planes.values()])
    costs = np.array([cost for _, cost in planes.values()])
    names = list(planes)
    found = []
    for key, (member, corners) in cells.items():
        worths = corners @ values.T - costs
        best = worths.max(axis=1)
        for row, corner in enumerate(corners):
            where = f"{key}.vertices.{row}"
            if abs(corner.sum() - 1) > SLACK or (corner < floor - SLACK).any():
                found.append((where, "lies outside W"))
            elif worths[row, names.index(member)] < best[row] - SLACK:
                found.append((where, f"{names[worths[row].argmax()]} is better here"))
    return found


def covered(cells: list[np.ndarray], floor: np.ndarray) -> float:
    """The share of W's volume that the cells (V, d) hold together, their interiors being apart."""
    from scipy.spatial import ConvexHull, QhullError

    d = len(floor)
    if d == 1:
        return float(len(cells))
    total = 0.0
    for corners in cells:
        free = (corners - floor)[:, :-1] / (1 - floor.sum())
        if d == 2:
            total += np.ptp(free)
            continue
        try:
            total += ConvexHull(free).volume
        except (QhullError, ValueError):  # too few corners, or all in one plane: no volume
            continue
    return float(total * factorial(d - 1))
