"""Policies that already exist: where a few of them fall short of all, exactly, over all of W.

Every policy is a plane over W, and W is a simplex with d corners; so a policy is its d heights
there, costs and floors included, and weights are shares of the corners. Some members P hold (ε, δ)
when at all shares s

    max_P s·H_j  >=  (1 − ε) max_all s·H_k − δ.

Where one member leads, the difference is convex, so it is worst at a corner of the members' exact
cells (qhull; few objectives). With many objectives the corners are too many, and one linear
program per policy finds its worst shares (HiGHS). Its multipliers, a mixture of the members that
is worth enough whatever the weights, are the proof that there is nothing worse.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from palette.core.covering import least_epsilon
from palette.core.envelope import Planes, cells, pairs
from palette.core.region import Region

TOLERANCE = 1e-9  # of the largest height: less is no shortfall
CORNERS_UP_TO = 5  # objectives: with more, qhull's corners outnumber the linear programs
ROWS = 2000  # of one linear program that holds those of several policies side by side


@dataclass(frozen=True)
class Contest:
    """All policies over a region, in units of the largest height."""

    planes: Planes
    region: Region

    @cached_property
    def unit(self) -> float:
        """The largest height, in the units of the values."""
        return float(np.abs(self.planes.worth(self.region.vertices())).max()) or 1.0

    @cached_property
    def heights(self) -> np.ndarray:
        """(n, d): what each policy is worth at each corner of W."""
        return self.planes.worth(self.region.vertices()).T / self.unit

    @cached_property
    def front(self) -> np.ndarray:
        """(m,): policies that none beats or equals at every corner; of equals the first."""
        kept: list[int] = []
        # whatever beats a policy everywhere has a larger sum, so it comes first
        for k in np.argsort(-self.heights.sum(axis=1), kind="stable"):
            if not (self.heights[kept] >= self.heights[k]).all(axis=1).any():
                kept.append(int(k))
        return np.array(sorted(kept))

    @cached_property
    def starts(self) -> np.ndarray:
        """(d + 1, d): shares to begin with, the corners of W and its middle."""
        d = self.region.d
        return np.vstack([np.eye(d), np.full((1, d), 1 / d)])

    def ideal(self, shares: np.ndarray) -> np.ndarray:
        """(S,): what the best of all policies is worth at the shares (S, d)."""
        return (shares @ self.heights[self.front].T).max(axis=1)

    def worth(self, shares: np.ndarray, members: np.ndarray) -> np.ndarray:
        """(S,): what the best of the members is worth there."""
        return (shares @ self.heights[members].T).max(axis=1)

    def gap(
        self, shares: np.ndarray, members: np.ndarray, epsilon: float, delta: float
    ) -> np.ndarray:
        """(S,): `(1 − ε) ideal − δ − worth`, above 0 where the members fall short."""
        return (1 - epsilon) * self.ideal(shares) - delta - self.worth(shares, members)

    def violated(self, members: np.ndarray, epsilon: float, delta: float) -> np.ndarray:
        """(V, d): shares at which the members fall short of (ε, δ), the worst of all among them.

        Empty only when they hold on all of W: what qhull does not see, the linear programs confirm.
        """
        if self.region.d <= CORNERS_UP_TO:
            corners = self._corners(members)
            short = corners[self.gap(corners, members, epsilon, delta) > TOLERANCE]
            if len(short):
                return short
        heights = self.heights[members]
        targets = (1 - epsilon) * self.heights[self.front]
        least = targets - delta
        unmet = ~(heights[:, None] >= least[None]).all(axis=2).any(axis=0)
        shares, _ = worst_shares(targets[unmet], heights)
        shares = np.unique(shares, axis=0)
        return shares[self.gap(shares, members, epsilon, delta) > TOLERANCE]

    def worst(self, members: np.ndarray, delta: float) -> tuple[float, np.ndarray]:
        """The least ε that the members hold at δ, infinite if none up to 1, and where: shares (d,).

        Newton's steps: the worst shares of one ε give the next, until none falls short.
        """
        epsilon, where = 0.0, self.starts[-1]
        looked = self.starts[self.gap(self.starts, members, epsilon, delta) > TOLERANCE]
        if not len(looked):
            looked = self.violated(members, epsilon, delta)
        while len(looked):
            least = least_epsilon(self.ideal(looked), self.worth(looked, members), delta)
            if least.max() <= epsilon:  # nothing is left but rounding
                break
            where, epsilon = looked[least.argmax()], float(least.max())
            if epsilon > 1:
                return float("inf"), where
            looked = self.violated(members, epsilon, delta)
        return epsilon, where

    def shortfall(self, members: np.ndarray, epsilon: float) -> tuple[float, np.ndarray]:
        """The least δ >= 0 that the members hold at ε, and where: shares (d,)."""
        delta, where = 0.0, self.starts[-1]
        while len(looked := self.violated(members, epsilon, delta)):
            gap = self.gap(looked, members, epsilon, 0.0)
            delta, where = float(gap.max()), looked[gap.argmax()]
        return delta, where

    def holds(self, members: np.ndarray, epsilon: float, delta: float) -> bool:
        """Whether the members hold (ε, δ) on all of W, but for rounding."""
        return not len(self.violated(members, epsilon, delta))

    @cached_property
    def relative(self) -> bool:
        """Whether a share of the best means anything: it is worth at least 0 on all of W."""
        shares, _ = worst_shares(np.zeros((1, self.region.d)), self.heights[self.front])
        return bool(self.ideal(shares)[0] >= -TOLERANCE)

    def _corners(self, members: np.ndarray) -> np.ndarray:
        """(V, d): the corners of the members' cells; only those of W where qhull gives up."""
        from scipy.spatial import QhullError

        d = self.region.d
        own = Planes(tuple(map(str, members)), self.heights[members], np.zeros(len(members)))
        try:
            return np.unique(pairs(cells(own, Region((0.0,) * d)))[0], axis=0)
        except QhullError:
            return np.eye(d)


def worst_shares(targets: np.ndarray, heights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each target, the shares at which the heights' envelope is furthest below it.

    Args:
        targets: (T, d), heights at the corners of W.
        heights: (m, d), those of the members.

    Returns:
        Shares (T, d), and mixtures (T, m) of the members: the best answer to each target, for
        `min_mixtures max_corners (target − mixture·heights)` is the same number (duality).
    """
    step = max(1, ROWS // len(heights))
    parts = [
        _side_by_side(targets[start : start + step], heights)
        for start in range(0, len(targets), step)
    ]
    if not parts:
        return np.zeros((0, heights.shape[1])), np.zeros((0, len(heights)))
    shares, mixtures = zip(*parts, strict=True)
    return np.concatenate(shares), np.concatenate(mixtures)


def _side_by_side(targets: np.ndarray, heights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`worst_shares` of a few targets, as the blocks of one linear program over (shares, top)."""
    from scipy.optimize import linprog
    from scipy.sparse import csr_array, kron

    (count, d), members = targets.shape, len(heights)
    below_top = np.hstack([heights, -np.ones((members, 1))])
    whole = np.hstack([np.ones((1, d)), np.zeros((1, 1))])
    found = linprog(
        np.hstack([-targets, np.ones((count, 1))]).ravel(),
        A_ub=kron(csr_array(np.eye(count)), csr_array(below_top), format="csr"),
        b_ub=np.zeros(count * members),
        A_eq=kron(csr_array(np.eye(count)), csr_array(whole), format="csr"),
        b_eq=np.ones(count),
        bounds=np.tile([[0, np.inf]] * d + [[-np.inf, np.inf]], (count, 1)),
        method="highs",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if found.x is None:
        raise ArithmeticError(f"HiGHS found no worst weights: {found.message}")
    shares = np.maximum(found.x.reshape(count, d + 1)[:, :d], 0)
    mixtures = np.maximum(-found.ineqlin.marginals.reshape(count, members), 0)
    return (
        shares / shares.sum(axis=1, keepdims=True),
        mixtures / mixtures.sum(axis=1, keepdims=True),
    )
