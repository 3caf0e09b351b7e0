"""What the page computes with when a reader moves a taste: planes, f* and answers.

A taste is routed by the planes of select, as users are, and judged on certify, which took part in no
choice. f* is the plug-in estimate from the base's rollouts: the verdict's own, which errs upward and
knows the members' answers too, would take as much of the page for every member.
"""

import base64
from typing import Any

import numpy as np
import polars as pl

from palette.core.envelope import Planes
from palette.core.ideal import Ideal
from palette.reporting import colors, maps
from palette.reporting.members import numbers, shades
from palette.reporting.run import Run

LEVELS = 65_535
"""A reward is kept as a whole number of so many parts. As weights add up to 1, f* moves with it by
half a part at most: by less than 0.00001."""
LARGEST = 2_000_000
"""Characters that f* may take of the page; beyond it the page shows members without their regret."""

HAIR = 1e-4
"""Of the way from a cell's corner to its middle."""

Shown = dict[str, Any]


def shown(run: Run) -> Shown:
    """All of it, as JSON has it; members with the base first, in the order of the planes."""
    traits = run.params.trait_names
    return {
        "traits": [
            {"name": name, "color": color}
            for name, color in zip(traits, colors.of_traits(len(traits)), strict=True)
        ],
        "floor": list(run.region.floor),
        "beta": run.params.objective.beta,
        "ideal": packed(run.ideal),
        "members": members(run),
        "questions": run.answers.filter(member="base")["prompt"].to_list(),
        "map": maps.corners() if len(traits) == 3 else None,
    }


def presets(run: Run) -> list[tuple[str, list[float]]]:
    """Tastes to begin with: the middle, the corners, and where the verdict's loss is largest."""
    most = "Mostly" if any(run.region.floor) else "Only"
    corners = zip(run.params.trait_names, run.region.vertices().tolist(), strict=True)
    return [
        ("All alike", run.region.middle().tolist()),
        *((f"{most} {name}", corner) for name, corner in corners),
        ("Where most is lost", worst(run).tolist()),
    ]


def middles(run: Run) -> dict[str, list[float]]:
    """Member → the middle of the cell that it serves; without those that serve none."""
    return {
        run.planes.names[cell.member]: cell.vertices.mean(axis=0).tolist()
        for cell in run.losses.cells
    }


def worst(run: Run) -> np.ndarray:
    """(d,): where most is lost, a hair within the cell: at its corner other members are worth as much."""
    told = run.portfolio["worst"]
    corner = np.array([told["weights"][name] for name in run.params.trait_names])
    member = run.planes.names.index(told["member"])
    cell = next(cell for cell in run.losses.cells if cell.member == member)
    return corner + HAIR * (cell.vertices.mean(axis=0) - corner)


def members(run: Run) -> list[Shown]:
    """Each with its planes, and its answer to every question with the rewards of it.

    `routing` and `judged` are the values of a plane, and its cost at the end.
    """
    number, color, traits = numbers(run), shades(run), run.params.trait_names
    weights = {member["id"]: member["weights"] for member in run.portfolio["members"]}
    rewards = [f"reward_{name}" for name in traits]
    found = []
    for place, name in enumerate(run.planes.names):
        said = run.answers.filter(member=name)
        found.append({
            "id": name,
            "number": number[name],
            "color": color[name],
            "weights": [weights[name][trait] for trait in traits] if name in weights else None,
            "routing": plane(run.planes, place),
            "judged": plane(run.losses.judged, place),
            "answers": said["response"].to_list(),
            "rewards": said.select(pl.col(rewards).round(4)).rows(),
        })  # fmt: skip
    return found


def plane(planes: Planes, place: int) -> list[float]:
    return [*planes.values[place].tolist(), float(planes.costs[place])]


def packed(ideal: Ideal) -> Shown | None:
    """Each prompt's distinct rewards and how many samples have them; None where that is too much.

    `sizes` has how many of them each prompt has; `rewards`, d whole numbers for each, and `counts`
    are little-endian bytes in base64.
    """
    sizes, rewards, counts = [], [], []
    for own, real in zip(ideal.rewards, _there(ideal), strict=True):
        parts = np.rint(own[real] * LEVELS).astype("<u2")
        distinct, count = np.unique(parts, axis=0, return_counts=True)
        sizes.append(len(distinct))
        rewards.append(distinct)
        counts.append(count.astype("<u4"))
    texts = {"rewards": _text(rewards), "counts": _text(counts)}
    if sum(map(len, texts.values())) > LARGEST:
        return None
    return texts | {"sizes": sizes, "levels": LEVELS}


def _there(ideal: Ideal) -> np.ndarray:
    """(prompts, samples) bool: where there is a sample, each of the same weight."""
    if ideal.log_weights is None:
        return np.ones(ideal.rewards.shape[:2], bool)
    return np.isfinite(ideal.log_weights)


def _text(parts: list[np.ndarray]) -> str:
    return base64.b64encode(np.concatenate(parts).tobytes()).decode("ascii")
