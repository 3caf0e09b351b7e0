"""What every taste loses: as planned, before anything was trained, and with the trained members."""

from dataclasses import dataclass

import numpy as np

from palette.core.covering import least_epsilon
from palette.core.envelope import Cell, Planes, cells, pairs
from palette.core.ideal import Ideal
from palette.core.region import Region


@dataclass(frozen=True)
class Losses:
    """Planes judged on certify as the verdict does it: routes are fixed, f* errs upward."""

    routing: Planes
    """they decide who is routed where"""
    judged: Planes
    """the same policies on certify"""
    ideals: tuple[Ideal, ...]
    """what says f* where each policy is routed"""
    cells: list[Cell]
    """of the routing planes: on the corners of these is the largest loss"""
    delta: float

    def at(self, weights: np.ndarray) -> np.ndarray:
        """(P,): the least ε that holds at the weights (P, d); infinite where none does."""
        return self.of(weights, self.routing.best(weights))

    def of(self, weights: np.ndarray, members: np.ndarray) -> np.ndarray:
        """(P,): the same with these members (P,) routed there."""
        worth = self.judged.worth(weights)[np.arange(len(weights)), members]
        return least_epsilon(self.ideal(weights, members), worth, self.delta)

    def ideal(self, weights: np.ndarray, members: np.ndarray) -> np.ndarray:
        """(P,): f* at the weights (P, d), from what the members (P,) routed there are judged by."""
        value = np.empty(len(weights))
        for member in np.unique(members):
            there = members == member
            value[there] = self.ideals[member].upward(weights[there]).mean(axis=1)
        return value

    def worst(self) -> tuple[np.ndarray, float]:
        """Where in W most is lost, (d,), and how much."""
        weights, members = pairs(self.cells)
        found = self.of(weights, members)
        return weights[found.argmax()], float(found.max())

    def by_member(self) -> dict[str, float]:
        """Member → the most that is lost where it serves; without those that serve nowhere."""
        found: dict[str, float] = {}
        for cell in self.cells:
            name = self.routing.names[cell.member]
            own = self.of(cell.vertices, np.full(len(cell.vertices), cell.member)).max()
            found[name] = max(float(own), found.get(name, 0.0))
        return found


def as_planned(
    names: tuple[str, ...], weights: np.ndarray, ideal: Ideal, region: Region, delta: float
) -> Losses:
    """The base beside the ideal policies of the plan's weights (K, d), all from certify's rollouts.

    What is lost here, finer training can not win back: it takes other weights, or more of them.
    """
    base = Planes(("base",), ideal.base().mean(axis=0)[None], np.zeros(1))
    planes = base + ideal.tangents(weights, names) if len(names) else base
    return Losses(planes, planes, (ideal,) * len(planes), cells(planes, region), delta)
