"""A number of members that every portfolio needs to hold ε, whatever its policies are.

Cells of W stand for all tangents of f* at their points; the fewest cells that could cover a finite
set of weights are no more than the fewest policies that cover all of W.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np

from palette.core.apart import far_apart
from palette.core.covering import NOISE, TOLERANCE, least, prices
from palette.core.envelope import Planes
from palette.core.moving import Setting

CELLS = 12_000  # cells made at most: where f* asks for more, the bound stays lower but valid
START = 256  # cells to begin with
AT_ONCE = 200  # cells whose arrays are held at once
SPLIT = 2000  # cells split at once, those that could cover most first
USEFUL = 0.98  # of one member: what a centre must cover to be worth trying
PRICED = 1e-3  # a cell that could cover points worth this much over one member is split
TRIES = 60  # rounds of splitting
PASSES = 4  # of them by the same prices
ROUNDS = 2  # of points added to cover
STEPS = 100  # at most, of the lattice of points to begin with
POINTS = 160  # of that lattice at most
LARGEST = 3  # traits: in more dimensions small cells are too many


@dataclass(frozen=True)
class Cells:
    """Simplices that together are W, and bounds on the tangents of f* at their points."""

    corners: np.ndarray
    """(C, d, d)"""
    centre: np.ndarray
    """(C, d)"""
    slope: np.ndarray
    """(C, d): gradient of f* at the centre"""
    cost: np.ndarray
    """(C,): the centre's tangent is `x·slope − cost`"""
    curvature: np.ndarray
    """(C, d, d): Hessian of f* at the centre"""
    rest: np.ndarray
    """(C,): κ(A) |Δ|, see `reach`"""

    @classmethod
    def of(cls, setting: Setting, corners: np.ndarray) -> "Cells":
        parts = [
            _expand(setting, corners[start : start + AT_ONCE])
            for start in range(0, len(corners), AT_ONCE)
        ]
        return cls(*map(np.concatenate, zip(*parts, strict=True)))

    def __add__(self, other: "Cells") -> "Cells":
        parts = zip(vars(self).values(), vars(other).values(), strict=True)
        return Cells(*map(np.concatenate, parts))

    def take(self, rows: np.ndarray) -> "Cells":
        return Cells(*(part[rows] for part in vars(self).values()))

    def tangents(self) -> Planes:
        """The planes of the ideal policies for the centres."""
        return Planes(("",) * len(self.centre), self.slope, self.cost)

    def reach(self, points: np.ndarray) -> np.ndarray:
        """(P, C): at least what the tangent of f* at any point of the cell is worth at the points.

        Let p = c + Δ, c the centre, u = x − c and H_t the Hessian at c + tΔ. The tangent's worth at
        x changes along the way by `Δᵀ H_t (u − tΔ) <= Δᵀ H_t u`. With A = max |Δ·(r − E_π*c r)|/β
        over samples, pairs of answers are at most e^{2tA} and at least 2 − e^{2tA} times as likely
        as at c (Jensen, Hoeffding), and Cov(a, b) = ½E(a − a')(b − b'), so by Cauchy–Schwarz
        `|Δᵀ(H_t − H_0)u| <= (e^{2tA} − 1)|Δ||u|` in the norm of H_0. Over t from 0 to 1 that is
        `Δᵀ H_0 u + κ(A)|Δ||u|`, κ(A) = (e^{2A} − 1)/2A − 1: convex in Δ, largest at a corner.
        """
        result = self.tangents().worth(points)
        for start in range(0, len(self.centre), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            away = points[None] - self.centre[part, None]  # (C, P, d)
            pull = away @ self.curvature[part]
            length = np.sqrt(np.maximum((pull * away).sum(axis=2), 0))
            sides = self.corners[part] - self.centre[part, None]
            first = (pull @ sides.transpose(0, 2, 1)).max(axis=2)
            result[:, part] += (first + self.rest[part, None] * length).T
        return result

    def halves(self) -> np.ndarray:
        """(2C, d, d): every cell cut in two across the edge that f* bends most along."""
        left, right = np.triu_indices(self.corners.shape[1], k=1)
        edges = self.corners[:, left] - self.corners[:, right]
        # A little of the plain length, so that cells where f* is flat do not become needles.
        metric = self.curvature + 1e-3 * np.eye(edges.shape[2])
        longest = np.einsum("cei,cij,cej->ce", edges, metric, edges).argmax(axis=1)
        row, left, right = np.arange(len(edges)), left[longest], right[longest]
        first, second = self.corners.copy(), self.corners.copy()
        first[row, left] = second[row, right] = (first[row, left] + first[row, right]) / 2
        return np.concatenate([first, second])


@dataclass(frozen=True)
class Relaxation:
    """What covering a finite set of weights needs, and where policies would do it."""

    bound: int
    """no fewer members cover these points, beside the base"""
    candidates: np.ndarray
    """(K, d): training weights that are worth trying"""
    planes: Planes
    """of the ideal policies for them, in their order"""
    points: np.ndarray
    """(P, d): the weights to cover, those that the base covers left out"""


def relaxations(
    setting: Setting, epsilon: float, candidates: np.ndarray, rounds: int = ROUNDS
) -> Iterator[Relaxation]:
    """Ever more points to cover, the worst vertices of each answer added to the next question.

    Any plane under f* lies, on all of W, under a tangent of f* (raise it until it touches), so a
    policy covers no more points than some cell could. The program's dual bound is what counts, so
    a search that ends early leaves it valid. Splits the cells that the dual prices of the cover by
    centres ask for: once no cell could cover points worth more than 1, the relaxation by cells is
    as good as the one by points (column generation with exact pricing). With more than LARGEST
    traits the candidates are all there is, and the bound says nothing.

    Args:
        candidates: (K, d) training weights to begin with.
    """
    region = setting.region
    points = region.lattice(region.lattice_steps(STEPS, POINTS))
    cells = _first(setting) if region.d <= LARGEST else None
    planes = setting.planes(candidates).take(range(1, len(candidates) + 1))
    fresh = points
    bound = 0
    for _ in range(rounds):
        base = setting.base().worth(points)[:, 0]
        targets = (1 - epsilon) * setting.value(points)
        points, targets = points[base < targets - NOISE], targets[base < targets - NOISE]
        if len(points) == 0:
            yield Relaxation(0, candidates, planes, points)
            return
        candidates = np.concatenate([candidates, fresh])
        planes += setting.planes(fresh).take(range(1, len(fresh) + 1))
        if cells is not None:
            cells, useful = _priced(setting, cells, planes, points, targets)
            candidates = np.concatenate([candidates, useful.centre])
            planes += useful.tangents()
            could = cells.reach(points) >= targets[:, None] - TOLERANCE
            bound = max(bound, least(could)[1])
        yield Relaxation(bound, candidates, planes, points)
        does = planes.worth(points) >= targets[:, None] - NOISE
        short = setting.shortfall(candidates[list(least(does)[0])])
        fresh = short.weights[short.violated(epsilon, 0.0)]
        if len(fresh) == 0:
            return
        points = np.concatenate([points, fresh])


def lower_bound(setting: Setting, epsilon: float) -> int:
    """A number of members that every portfolio needs to hold ε for these samples' f*.

    It holds for any policies whatever, ideal or not, beside a free base. The larger of what
    `relaxations` and `far_apart` say; with more than LARGEST traits the latter alone.
    """
    found = [far_apart(setting, epsilon)]
    if setting.region.d <= LARGEST:
        found += [
            relaxed.bound for relaxed in relaxations(setting, epsilon, setting.region.vertices())
        ]
    return max(found)


def _first(setting: Setting) -> Cells:
    cells = Cells.of(setting, setting.region.vertices()[None])
    while setting.region.d > 1 and len(cells.centre) < START:
        cells = Cells.of(setting, cells.halves())
    return cells


def _priced(
    setting: Setting, cells: Cells, planes: Planes, points: np.ndarray, targets: np.ndarray
) -> tuple[Cells, Cells]:
    """Split cells until none could cover points worth more than one member.

    Returns:
        The cells that W is cut into, and those made on the way whose centres are worth trying.
    """
    does = planes.worth(points) >= targets[:, None] - NOISE
    found = cells.take(np.arange(0))
    could = cells.reach(points) >= targets[:, None] - TOLERANCE
    price = prices(does)
    fresh = True
    for trial in range(1, TRIES):
        worth = price @ could
        dear = np.flatnonzero(worth > 1 + PRICED)
        # No plane covers points worth more than the dearest cell's, so members number at least:
        proven = ceil(price.sum() / max(worth.max(), 1.0) - 1e-6)
        if len(cells.centre) > CELLS or (fresh and proven == ceil(price.sum() - 1e-6)):
            break
        # Prices cost more than cells: the same ones steer a few rounds of splitting.
        fresh = len(dear) == 0 or trial % PASSES == 0
        if fresh:
            price = prices(does)
            continue
        dear = dear[np.argsort(-worth[dear], kind="stable")][:SPLIT]
        halves = Cells.of(setting, cells.take(dear).halves())
        cells = cells.take(np.delete(np.arange(len(cells.centre)), dear)) + halves
        reached = halves.reach(points) >= targets[:, None] - TOLERANCE
        could = np.hstack([np.delete(could, dear, axis=1), reached])
        own = halves.tangents().worth(points) >= targets[:, None] - NOISE
        useful = price @ own > USEFUL
        does = np.hstack([does, own[:, useful]])
        found += halves.take(np.flatnonzero(useful))
    return cells, found


def _expand(setting: Setting, corners: np.ndarray) -> tuple[np.ndarray, ...]:
    """The fields of Cells for some cells (C, d, d)."""
    ideal = setting.ideal
    centre = corners.mean(axis=1)
    means, kl = ideal.policy(centre)
    curvature = ideal.curvature(centre)
    sides = corners - centre[:, None]
    bends = np.einsum("cei,cij,cej->ce", sides, curvature, sides, optimize=True)
    tilt = np.zeros(len(corners))  # A
    for prompt, rewards in enumerate(ideal.rewards):
        if ideal.log_weights is not None:
            rewards = rewards[np.isfinite(ideal.log_weights[prompt])]
        away = sides @ rewards.T - (sides @ means[:, prompt, :, None])
        tilt = np.maximum(tilt, np.abs(away).max(axis=(1, 2)) / ideal.beta)
    twice = np.maximum(2 * tilt, 1e-9)
    rest = (np.expm1(twice) / twice - 1) * np.sqrt(np.maximum(bends, 0).max(axis=1))
    slope = means.mean(axis=1)
    return corners, centre, slope, ideal.beta * kl.mean(axis=1), curvature, rest
