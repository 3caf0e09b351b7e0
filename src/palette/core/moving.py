"""Moving planned members off the lattice, to lower the worst regret of a portfolio of ideal ones.

A sequence of linear programs: at every vertex of the exact cells the regret is linearised in the
members' training weights, and the largest of them is minimised within a step's reach.
"""

from dataclasses import dataclass

import numpy as np

from palette.core.covering import Shortfall, shortfall
from palette.core.envelope import Planes
from palette.core.ideal import Ideal
from palette.core.region import Region

STEPS = 25
FIRST_REACH, LAST_REACH = 0.05, 0.002
ROUNDINGS = 4  # steps in hundredths at most
NODES = 100  # of branch and bound in one of them
TIE = 1e-7


@dataclass(frozen=True)
class Setting:
    """What a plan is made for: f* from samples, over a region."""

    ideal: Ideal
    region: Region

    def value(self, weights: np.ndarray) -> np.ndarray:
        """(P,): f* at the weights (P, d), by the plug-in estimate, averaged over prompts."""
        return self.ideal.value(weights).mean(axis=1)

    def base(self) -> Planes:
        """The base alone: it costs nothing and is always there."""
        return Planes(("base",), self.ideal.base().mean(axis=0)[None], np.zeros(1))

    def planes(self, weights: np.ndarray) -> Planes:
        """The base, then the ideal policies trained for the weights (K, d)."""
        names = tuple(str(number) for number in range(len(weights)))
        return self.base() + self.ideal.tangents(np.reshape(weights, (-1, self.region.d)), names)

    def shortfall(self, weights: np.ndarray) -> Shortfall:
        """How far the base with the ideal policies for these weights stays below f*."""
        return shortfall(self.planes(weights), self.region, self.value)


def hundredths(weights: np.ndarray) -> np.ndarray:
    """(K, d) weights rounded to two decimals that still add up to 1 (largest remainders)."""
    scaled = np.asarray(weights, dtype=float) * 100
    whole = np.floor(scaled + 1e-9)
    for row, exact in zip(whole, scaled, strict=True):
        left = round(100 - row.sum())
        row[np.argsort(row - exact, kind="stable")[:left]] += 1
    return whole / 100


def move(
    setting: Setting, weights: np.ndarray, fixed: np.ndarray, epsilon: float
) -> tuple[np.ndarray, bool]:
    """Move the members that are not fixed so that the worst regret falls.

    Args:
        weights: (K, d), where the members start.
        fixed: (K,) bool, members that must stay (pinned).
        epsilon: stops as soon as the rounded members hold this.

    Returns:
        Weights in hundredths (fixed ones untouched), and whether they hold ε on all of W.
    """
    reach = FIRST_REACH
    planes, short = _look(setting, weights)
    for _ in range(STEPS):
        worst = short.epsilon().max()
        if worst <= epsilon:
            rounded = np.where(fixed[:, None], weights, hundredths(weights))
            if not setting.shortfall(rounded).violated(epsilon, 0.0).any():
                return rounded, True
        if fixed.all() or reach < LAST_REACH:
            break
        slopes = _slopes(setting, weights, planes, short)
        moved = _step(setting.region, weights, fixed, short.epsilon(), slopes, reach)
        new_planes, new_short = _look(setting, moved)
        if new_short.epsilon().max() < worst - 1e-6:
            weights, planes, short, reach = moved, new_planes, new_short, reach * 1.5
        else:
            reach /= 3
    return _rounded(setting, weights, fixed, epsilon)


def _rounded(
    setting: Setting, weights: np.ndarray, fixed: np.ndarray, epsilon: float
) -> tuple[np.ndarray, bool]:
    """In hundredths with a low worst regret, and whether that holds ε.

    Rounding each member by itself can cost several per cent of ε; together they make up for each
    other. So the last steps are integer programs over the same slopes, from the nearest hundredths
    on.
    """
    best, least = weights, np.inf
    for _ in range(ROUNDINGS):
        planes, short = _look(setting, weights)
        slopes = _slopes(setting, weights, planes, short)
        tried = [_whole_step(setting.region, weights, fixed, short.epsilon(), slopes)]
        if not np.isfinite(least):
            tried.append(np.where(fixed[:, None], weights, hundredths(weights)))
        worst = [setting.shortfall(trial).epsilon().max() for trial in tried]
        if min(worst) >= least - 1e-9:
            break
        least = min(worst)
        best = weights = tried[int(np.argmin(worst))]
        if not setting.shortfall(best).violated(epsilon, 0.0).any():
            return best, True
    return best, False


def _whole_step(
    region: Region, weights: np.ndarray, fixed: np.ndarray, regrets: np.ndarray, slopes: np.ndarray
) -> np.ndarray:
    """The hundredths near the weights that minimise the largest linearised regret."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    count, d = weights.shape
    near = np.floor(weights * 100 + 1e-6) - 1
    least = np.floor(np.array(region.floor) * 100 + 1e-6)
    low = np.where(fixed[:, None], np.rint(weights * 100), np.maximum(near, least))
    high = np.where(fixed[:, None], low, np.minimum(near + 3, 100))
    flat = slopes.reshape(len(slopes), -1) / 100
    found = milp(
        np.r_[np.zeros(count * d), 1.0],
        integrality=np.r_[np.ones(count * d), 0],
        bounds=Bounds(np.r_[low.ravel(), 0], np.r_[high.ravel(), np.inf]),
        constraints=[
            LinearConstraint(
                np.hstack([flat, -np.ones((len(flat), 1))]),
                ub=flat @ weights.ravel() * 100 - regrets,
            ),
            LinearConstraint(
                np.hstack([np.kron(np.eye(count), np.ones(d)), np.zeros((count, 1))]), 100, 100
            ),
        ],
        options={"node_limit": NODES},
    )
    if found.x is None:
        return np.where(fixed[:, None], weights, hundredths(weights))
    return np.rint(found.x[:-1]).reshape(count, d) / 100


def _look(setting: Setting, weights: np.ndarray) -> tuple[Planes, Shortfall]:
    planes = setting.planes(weights)
    return planes, shortfall(planes, setting.region, setting.value)


def _slopes(setting: Setting, weights: np.ndarray, planes: Planes, short: Shortfall) -> np.ndarray:
    """(P, K, d): derivative of each vertex's regret `1 − h/f*` by each member's weights.

    A vertex x = (w, h) solves M x = b, with a row per plane or side of W that meets there. When
    member k moves by dp, its tangent's row changes by (p_k − w)ᵀ H_k dp, and x moves with it.
    """
    vertices = short.weights
    count, d = vertices.shape
    gradients = setting.ideal.policy(vertices)[0].mean(axis=1)
    curvature = setting.ideal.curvature(weights)
    worth = planes.worth(vertices)
    floor = np.array(setting.region.floor)
    slopes = np.zeros((count, len(weights), d))
    for p in np.flatnonzero(short.ideal > TIE):
        tied = np.flatnonzero(worth[p] >= short.worth[p] - TIE)
        sides = np.eye(d)[vertices[p] <= floor + TIE]
        system = np.vstack([planes.values[tied], sides, np.ones((1, d))])
        heights = np.r_[-np.ones(len(tied)), np.zeros(len(sides) + 1)]
        system = np.hstack([system, heights[:, None]])
        ratio = short.worth[p] / short.ideal[p]
        outer = np.r_[ratio * gradients[p], -1.0] / short.ideal[p]
        pull = np.linalg.pinv(system).T @ outer
        for row, plane in enumerate(tied):
            if plane > 0:  # the base does not move
                k = plane - 1
                slopes[p, k] = pull[row] * (weights[k] - vertices[p]) @ curvature[k]
    return slopes


def _step(
    region: Region,
    weights: np.ndarray,
    fixed: np.ndarray,
    regrets: np.ndarray,
    slopes: np.ndarray,
    reach: float,
) -> np.ndarray:
    """The weights after the step that minimises the largest linearised regret."""
    from scipy.optimize import linprog

    count, d = weights.shape
    floor = np.array(region.floor)
    low = np.where(fixed[:, None], 0, np.maximum(-reach, np.minimum(floor - weights, 0)))
    high = np.where(fixed[:, None], 0, reach) * np.ones((1, d))
    bounds = [*zip(low.ravel(), high.ravel(), strict=True), (None, None)]
    rows = np.hstack([slopes.reshape(len(slopes), -1), -np.ones((len(slopes), 1))])
    whole = np.hstack([np.kron(np.eye(count), np.ones(d)), np.zeros((count, 1))])
    goal = np.r_[np.zeros(count * d), 1.0]
    found = linprog(goal, rows, -regrets, whole, np.zeros(count), bounds, method="highs")
    if found.x is None:
        return weights
    return weights + found.x[:-1].reshape(count, d)
