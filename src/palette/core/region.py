"""The region W: all weights that a user may have, a simplex cut by floors."""

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np


@dataclass(frozen=True)
class Region:
    """W = {w : w >= floor, sum(w) = 1}, itself a simplex with d corners.

    Raises:
        ValueError: a floor is negative, or the floors leave no weights.
    """

    floor: tuple[float, ...]
    """the least weight of each trait"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "floor", tuple(float(least) for least in self.floor))
        if not self.floor or min(self.floor) < 0 or not sum(self.floor) < 1:
            raise ValueError(f"floors {self.floor} must be at least 0 and add up to less than 1")

    @property
    def d(self) -> int:
        return len(self.floor)

    def vertices(self) -> np.ndarray:
        """(d, d): row i gives trait i all the weight that the floors leave."""
        return self.spread(np.eye(self.d))

    def middle(self) -> np.ndarray:
        """(d,): the centre of the region."""
        return self.spread(np.full(self.d, 1 / self.d))

    def lattice(self, steps: int) -> np.ndarray:
        """(C(steps + d − 1, d − 1), d): evenly spaced weights, `steps` steps along an edge."""
        return self.spread(self.counts(steps) / steps)

    def counts(self, steps: int) -> np.ndarray:
        """(P, d): the lattice in whole numbers, how many of the steps go to each corner."""
        bars = combinations(range(steps + self.d - 1), self.d - 1)
        ends = np.array([(-1, *cut, steps + self.d - 1) for cut in bars])
        return np.diff(ends, axis=1) - 1

    def lattice_steps(self, steps: int, points: int) -> int:
        """The largest number of steps, up to `steps`, whose lattice has at most `points` points."""
        while steps > 1 and comb(steps + self.d - 1, self.d - 1) > points:
            steps -= 1
        return steps

    def spread(self, shares: np.ndarray) -> np.ndarray:
        """(..., d) shares of the d corners, adding up to 1 → the weights that they mean."""
        floor = np.array(self.floor)
        return floor + (1 - floor.sum()) * np.asarray(shares, dtype=float)

    def shares(self, weights: np.ndarray) -> np.ndarray:
        """(..., d) weights → the shares of the corners that mean them: `spread` undone."""
        floor = np.array(self.floor)
        return (np.asarray(weights, dtype=float) - floor) / (1 - floor.sum())

    def contains(self, weights: np.ndarray, tolerance: float = 1e-9) -> np.ndarray:
        """(...,) bool: which of the weights (..., d) lie in the region."""
        weights = np.asarray(weights, dtype=float)
        above = (weights >= np.array(self.floor) - tolerance).all(axis=-1)
        return above & (np.abs(weights.sum(axis=-1) - 1) <= tolerance)
