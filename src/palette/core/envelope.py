"""Value planes, their upper envelope, and the exact cells of the region that each member wins."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from palette.core.region import Region

TOLERANCE = 1e-9  # relative to the spread of the planes over the region


@dataclass(frozen=True)
class Planes:
    """K policies, each worth `w·v − c`."""

    names: tuple[str, ...]
    values: np.ndarray
    """(K, d): mean rewards v"""
    costs: np.ndarray
    """(K,): c = β·KL to the base, in the units of a reward"""

    def __len__(self) -> int:
        return len(self.names)

    def __add__(self, other: "Planes") -> "Planes":
        return Planes(
            self.names + other.names,
            np.concatenate([self.values, other.values]),
            np.concatenate([self.costs, other.costs]),
        )

    def worth(self, weights: np.ndarray) -> np.ndarray:
        """(..., K): J of every policy at the weights (..., d)."""
        return np.asarray(weights) @ self.values.T - self.costs

    def best(self, weights: np.ndarray) -> np.ndarray:
        """(...,): the index of the policy worth most; of equals the first (put the base first)."""
        return self.worth(weights).argmax(axis=-1)

    def take(self, members: Sequence[int]) -> "Planes":
        """The planes at these indices, in this order."""
        members = list(members)
        names = tuple(self.names[member] for member in members)
        return Planes(names, self.values[members], self.costs[members])


@dataclass(frozen=True)
class Cell:
    """The convex part of the region on which one member is worth most."""

    member: int
    """index into the planes"""
    vertices: np.ndarray
    """(V, d): its corners, as weights"""


def cells(planes: Planes, region: Region) -> list[Cell]:
    """Cut the region into the cells of the planes' upper envelope, exactly.

    The cells are the faces of the polytope {(w, h) : w in W, h >= w·v_k − c_k for all k}, whose
    corners qhull enumerates in d dimensions (d − 1 free weights and the height). A member that
    wins nowhere, or only on a set without volume, has no cell; of equal planes the first has it.
    The cells' interiors do not meet, and together they are the whole region.
    """
    corners = planes.worth(region.vertices()).T  # (K, d)
    contenders = _undominated(corners)
    if region.d == 1 or len(contenders) == 1:
        winner = int(contenders[corners[contenders, 0].argmax()])
        return [Cell(winner, region.vertices())]
    corners = corners[contenders]
    heights = (corners - corners.max()) / np.ptp(corners)
    shares = _corner_shares(heights)  # (V, d)
    reach = shares @ heights.T  # (V, contenders)
    touches = reach >= reach.max(axis=1, keepdims=True) - TOLERANCE
    return [
        Cell(int(member), region.spread(shares[touched]))
        for member, touched in zip(contenders, touches.T, strict=True)
        if _has_volume(shares[touched])
    ]


def pairs(parts: list[Cell]) -> tuple[np.ndarray, np.ndarray]:
    """All (vertex, member routed there): weights (P, d) and indices (P,).

    On a cell `(1 − ε) f* − plane − δ` is convex, so its worst over all of W is at one of these.
    """
    weights = np.concatenate([part.vertices for part in parts])
    members = np.concatenate([np.full(len(part.vertices), part.member) for part in parts])
    return weights, members


def _undominated(corners: np.ndarray) -> np.ndarray:
    """Indices of the planes (K, d) that no other plane beats or equals at every corner of W."""
    slack = TOLERANCE * max(np.ptp(corners), np.finfo(float).tiny)
    kept = []
    for k, own in enumerate(corners):
        covered = (corners >= own - slack).all(axis=1)
        better = covered & ((corners > own + slack).any(axis=1) | (np.arange(len(corners)) < k))
        if not better.any():
            kept.append(k)
    return np.array(kept)


def _corner_shares(heights: np.ndarray) -> np.ndarray:
    """(V, d): the corners of the epigraph over the unit simplex, as shares of W's own corners.

    Args:
        heights: (K, d), each plane's height at the d corners of W, between −1 and 0.
    """
    from scipy.spatial import HalfspaceIntersection

    count, d = heights.shape
    sides = np.hstack([-np.eye(d - 1), np.zeros((d - 1, 2))])
    last_side = np.array([[1.0] * (d - 1) + [0.0, -1.0]])
    ceiling = np.array([[0.0] * (d - 1) + [1.0, -1.0]])  # envelope <= 0 < 1: closes the polytope
    above = np.hstack([heights[:, :-1] - heights[:, -1:], -np.ones((count, 1)), heights[:, -1:]])
    inside = np.array([1 / d] * (d - 1) + [0.5])
    found = HalfspaceIntersection(np.vstack([sides, last_side, ceiling, above]), inside)
    points = found.intersections[np.isfinite(found.intersections).all(axis=1)]
    points = points[points[:, -1] < 0.5, :-1]
    shares = np.hstack([points, 1 - points.sum(axis=1, keepdims=True)])
    shares = np.where(shares < TOLERANCE, 0, shares)
    shares /= shares.sum(axis=1, keepdims=True)
    _, first = np.unique(shares.round(9) + 0.0, axis=0, return_index=True)
    return shares[first]


def _has_volume(shares: np.ndarray) -> bool:
    """Whether the points (V, d) span all d − 1 dimensions of the simplex."""
    d = shares.shape[1]
    if len(shares) < d:
        return False
    return np.linalg.matrix_rank(shares[1:] - shares[0], tol=TOLERANCE) == d - 1
