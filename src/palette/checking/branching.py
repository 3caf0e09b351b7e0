"""The worst regret over all of W, by branch and bound over simplices: no cells, no vertices, no grid.

A simplex of weights is cut in two across its longest edge until it provably holds nothing worse than
what was found at some corner, plus a tolerance. Inside a simplex f* lies below the interpolation of
its corners, since it is convex; policies' worths are linear; and a policy counts only where it is
routed, which is where it is best on select.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from palette.errors import PaletteError

TIE = 1e-9  # of worth: closer policies are both candidates
BATCH = 2048  # simplices bounded at once
HELD = 1_000_000  # numbers in each of the arrays by which these are bounded: some 8 MB
ROUNDS = 12  # of relaxation before a simplex is cut instead
LIMIT = 3_000_000  # simplices: a tolerance that takes more is out of reach

Ideal = Callable[[int, np.ndarray], np.ndarray]
"""policy, weights (P, d) → f* (P,), convex in the weights"""


@dataclass(frozen=True)
class Worst:
    low: float
    """the largest least-ε found at any weights"""
    high: float
    """no weights of W have a larger one; infinite where even ε = 1 does not hold"""
    weights: np.ndarray
    """(d,): where `low` was found"""
    simplices: int
    """how many were looked at"""


def worst_regret(
    corners: np.ndarray,
    select: np.ndarray,
    certify: np.ndarray,
    ideal: Ideal,
    delta: float,
    tolerance: float,
    tell: Callable[[int, int, float], None] = lambda *_: None,
) -> Worst:
    """The largest over W of the least ε with `worth >= (1 − ε) f* − δ` for the policy routed there.

    Args:
        corners: (d, d), of W.
        select: (K, d), worths at the corners of W, by which policies are routed.
        certify: (K, d), worths at the corners of W, by which they are judged.
        tolerance: `high` is at most `low` plus this.
        tell: called with simplices done, simplices waiting, and `low`.

    Raises:
        PaletteError: the tolerance is out of reach.
    """
    search = _Search(corners, select, certify, ideal, delta)
    waiting, done = [np.arange(len(corners))[None]], 0
    while waiting and search.low < 1:
        block = waiting.pop()
        if len(block) > BATCH:
            waiting.append(block[BATCH:])
            block = block[:BATCH]
        done += len(block)
        if done > LIMIT:
            raise PaletteError(
                f"{LIMIT} simplices did not prove the worst regret to {tolerance:g}; "
                "raise --tolerance"
            )
        if len(hard := search.unproven(block, tolerance)):
            waiting.append(search.cut(hard))
        tell(done, sum(map(len, waiting)), search.low)
    high = search.low + tolerance if search.low < 1 else np.inf
    return Worst(search.low, high, search.where, done)


def contenders(select: np.ndarray) -> np.ndarray:
    """Policies (rows of worths at the corners) that are strictly best somewhere; of equals the first.

    By one linear program each: the largest lead over all others that any weights give.
    """
    from scipy.optimize import linprog

    first = [
        k
        for k, own in enumerate(select)
        if not any(np.abs(other - own).max() <= TIE for other in select[:k])
    ]
    kept = []
    for k in first:
        others = select[[j for j in first if j != k]]
        if not len(others):
            return np.array(first)
        d = select.shape[1]
        found = linprog(
            np.append(np.zeros(d), -1.0),
            A_ub=np.hstack([others - select[k], np.ones((len(others), 1))]),
            b_ub=np.zeros(len(others)),
            A_eq=np.append(np.ones(d), 0.0)[None],
            b_eq=[1.0],
            bounds=[(0, None)] * d + [(None, None)],
        )
        if -found.fun > TIE:
            kept.append(k)
    return np.array(kept)


class _Search:
    """Corners seen so far, f* and worths there, and the worst of them."""

    def __init__(
        self,
        corners: np.ndarray,
        select: np.ndarray,
        certify: np.ndarray,
        ideal: Ideal,
        delta: float,
    ) -> None:
        self.policies = contenders(select)
        self.corners, self.ideal_of, self.delta = corners, ideal, delta
        self.select_at, self.certify_at = select[self.policies].T, certify[self.policies].T
        self.shares = np.eye(len(corners))  # (n, d): of W's corners
        self.ideal = np.full((len(corners), len(self.policies)), np.nan)  # as far as it was needed
        self.middles: dict[tuple[int, int], int] = {}
        self.low, self.where = -np.inf, corners[0]

    def unproven(self, block: np.ndarray, tolerance: float) -> np.ndarray:
        """Those of the simplices (S, d) that may hold more than `low` plus the tolerance."""
        routed = self.shares[block] @ self.select_at  # (S, d, K)
        simplex, policy = np.nonzero(_may_win(routed))
        corner = block[simplex]  # (P, d)
        self._evaluate(corner.ravel(), np.repeat(policy, corner.shape[1]))
        hard = np.zeros(len(block), dtype=bool)
        step = max(1, HELD // (corner.shape[1] * max(corner.shape[1], len(self.policies))))
        for start in range(0, len(corner), step):
            part = slice(start, start + step)
            proven = self._proven(routed, simplex[part], policy[part], corner[part], tolerance)
            hard[simplex[part][~proven]] = True
        return block[hard]

    def _proven(
        self,
        routed: np.ndarray,
        simplex: np.ndarray,
        policy: np.ndarray,
        corner: np.ndarray,
        tolerance: float,
    ) -> np.ndarray:
        """(P,) bool: whether a policy, where it is routed in a simplex, stays below the tolerance."""
        ideal = self.ideal[corner, policy[:, None]]  # (P, d)
        worth = (self.shares[corner] * self.certify_at.T[policy][:, None]).sum(axis=2)
        excess = (1 - self.low - tolerance) * ideal - worth - self.delta
        lead = routed[simplex, :, policy][:, :, None] - routed[simplex]  # (P, d, K)
        return _nowhere_positive(excess, lead)

    def cut(self, block: np.ndarray) -> np.ndarray:
        """Both halves of each simplex (S, d), cut at the middle of its longest edge."""
        edges = np.array(list(combinations(range(block.shape[1]), 2)))
        ends = self.shares[block[:, edges]]  # (S, edges, 2, d)
        length = ((ends[:, :, 0] - ends[:, :, 1]) ** 2).sum(axis=2)
        longest = edges[length.argmax(axis=1)]
        row = np.arange(len(block))
        pairs = np.sort(np.stack([block[row, longest[:, 0]], block[row, longest[:, 1]]], 1), axis=1)
        new: list[tuple[int, int]] = []
        for pair in map(tuple, pairs.tolist()):
            if pair not in self.middles:
                self.middles[pair] = len(self.shares) + len(new)
                new.append(pair)
        if new:
            self.shares = np.concatenate([self.shares, self.shares[np.array(new)].mean(axis=1)])
            unknown = np.full((len(new), len(self.policies)), np.nan)
            self.ideal = np.concatenate([self.ideal, unknown])
        middle = np.array([self.middles[pair] for pair in map(tuple, pairs.tolist())])
        halves = np.stack([block, block], axis=1)
        halves[row, 0, longest[:, 0]] = middle
        halves[row, 1, longest[:, 1]] = middle
        return halves.reshape(-1, block.shape[1])

    def _evaluate(self, corner: np.ndarray, policy: np.ndarray) -> None:
        """f* at corners by policies' own samples, where it is not known; `low` learns of it."""
        unknown = np.isnan(self.ideal[corner, policy])
        corner, policy = corner[unknown], policy[unknown]
        for k in np.unique(policy):
            own = np.unique(corner[policy == k])
            shares = self.shares[own]
            weights = shares @ self.corners
            ideal = self.ideal_of(int(self.policies[k]), weights)
            self.ideal[own, k] = ideal
            short = ideal - shares @ self.certify_at[:, k] - self.delta
            least = least_epsilon(short, ideal)
            worths = shares @ self.select_at
            least[worths[:, k] < worths.max(axis=1) - TIE] = -np.inf  # not routed here
            if least.max() > self.low:
                self.low, self.where = float(least.max()), weights[least.argmax()]


def least_epsilon(short: np.ndarray, ideal: np.ndarray) -> np.ndarray:
    """The least ε >= 0 that makes up for f* − J − δ = `short`; infinite where none does."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(short <= 1e-12, 0, np.where(ideal > 0, short / ideal, np.inf))


def _may_win(routed: np.ndarray) -> np.ndarray:
    """(S, K) bool, from worths at the corners (S, d, K): False where others are surely better."""
    simplices, d, count = routed.shape
    beaten = np.zeros((simplices, count), dtype=bool)
    for other in range(count):
        beaten |= (routed[:, :, other, None] > routed + TIE).all(axis=1)
    leaders = routed.argmax(axis=2)  # (S, d)
    rows = np.arange(simplices)
    middling = sum(routed[rows, :, leaders[:, corner]] for corner in range(d)) / d  # (S, d)
    beaten |= (middling[:, :, None] > routed + TIE).all(axis=1)
    return ~beaten


def _nowhere_positive(excess: np.ndarray, lead: np.ndarray) -> np.ndarray:
    """(P,) bool: whether `excess` is at most 0 wherever every lead is at least 0, in each simplex.

    Both are linear in a simplex. It is so if some multipliers m >= 0 make `excess + lead·m` at most
    0 at every corner; they are sought by relaxation (project on the worst corner's half-space).

    Args:
        excess: (P, d), at the corners.
        lead: (P, d, K), over every policy.
    """
    proven = np.zeros(len(excess), dtype=bool)
    multipliers = np.zeros((len(excess), lead.shape[2]))
    ahead = np.arange(len(excess))
    for _ in range(ROUNDS):
        now = excess[ahead] + (lead[ahead] * multipliers[ahead][:, None]).sum(axis=2)
        worst = now.argmax(axis=1)
        value = now[np.arange(len(ahead)), worst]
        proven[ahead[value <= 0]] = True
        slopes = lead[ahead, worst]  # (A, K)
        slopes = np.where((slopes > 0) & (multipliers[ahead] <= 0), 0, slopes)
        length = (slopes**2).sum(axis=1)
        going = (value > 0) & (slopes < 0).any(axis=1)
        ahead, slopes = ahead[going], slopes[going]
        if not len(ahead):
            break
        step = 1.2 * value[going] / length[going]
        multipliers[ahead] = np.maximum(multipliers[ahead] - step[:, None] * slopes, 0)
    return proven
