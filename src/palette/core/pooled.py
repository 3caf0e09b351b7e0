"""Directions of groups of users, from their texts pooled; a single user's drawn toward the group's.

A side is (layers, texts, hidden) activations; a pair of sides is what points toward a group's taste
and what points away from it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from palette.core.directions import (
    choose_layers,
    neutral_direction,
    personal_subspace,
    shrink,
)

Sides = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Projections:
    """CHAMELEON's directions of some groups, and the layers that their probes choose."""

    groups: list[str]
    personal: Tensor
    """(groups, layers, rank, hidden)"""
    neutral: Tensor
    """(groups, layers, 1, hidden)"""
    loss: Tensor
    """(groups, layers) of the probe"""
    layers: dict[str, list[int]]
    """group → layers; none where there are no texts"""


def projections(
    pools: Mapping[str, Sides], rank: int, restarts: int, epochs: int, seed: int
) -> Projections:
    """Directions of every group; groups of one size are searched together, and none sees another.

    Args:
        pools: group → its personal and its neutral texts; there is at least one group.
        rank, restarts, epochs, seed: of `personal_subspace` and `neutral_direction`.
    """
    names = list(pools)
    depth, _, hidden = pools[names[0]][0].shape
    personal = torch.zeros(len(names), depth, rank, hidden)
    neutral, loss = torch.zeros(len(names), depth, 1, hidden), torch.zeros(len(names), depth)
    sizes = [sides[0].shape[1] for sides in pools.values()]
    for size in sorted(set(sizes)):
        places = [place for place, own in enumerate(sizes) if own == size]
        p, n = (torch.stack([pools[names[place]][side] for place in places]) for side in (0, 1))
        personal[places] = personal_subspace(p, rank)
        neutral[places, :, 0], loss[places] = neutral_direction(p, n, restarts, epochs, seed)
    layers = {
        name: list(choose_layers(own)) if size else []
        for name, own, size in zip(names, loss, sizes, strict=True)
    }
    return Projections(names, personal, neutral, loss, layers)


def shifts(
    pools: Mapping[str, Sides],
    estimate: Callable[[Tensor, Tensor], Tensor],
    own: Mapping[str, tuple[Sides, str, float]],
    weight: float,
) -> dict[str, Tensor]:
    """Group or user → shift (layers, hidden).

    Args:
        pools: group → its sides, the group of everyone first: whose shift those without texts have.
        estimate: of a shift, from two sides.
        own: user → sides, the group toward whose shift the user's is drawn, and rows of history.
        weight: rows at which the user's own shift weighs as much as the group's.
    """
    found: dict[str, Tensor] = {}
    everyone = next(iter(pools))
    for name, sides in pools.items():
        some = name == everyone or sides[0].shape[1]
        found[name] = estimate(*sides) if some else found[everyone]
    for user, (sides, group, rows) in own.items():
        found[user] = shrink(estimate(*sides), found[group], rows, weight)
    return found
