"""Everything that the report tells of, read once. Of single users only public ones are in it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from palette import arrays, shown, tables
from palette.core.envelope import Cell, Planes
from palette.core.ideal import Ideal
from palette.core.reaching import REACHED
from palette.core.region import Region
from palette.params import Params
from palette.reporting import people
from palette.reporting.losses import Losses, as_planned
from palette.reporting.people import Person
from palette.routes import estimates, read_planes


@dataclass(frozen=True)
class Run:
    params: Params
    portfolio: dict[str, Any]
    plan: dict[str, Any]
    planes: Planes
    """the base and the members on select: they decide who is routed where"""
    losses: Losses
    """of the trained members, on certify"""
    planned: Losses
    """of the plan's ideal members"""
    users: pl.DataFrame
    """the table users"""
    routes: pl.DataFrame
    """the table routes"""
    tastes: np.ndarray
    """(U, d): estimated weights of the users who may be shown"""
    people: list[Person]
    """those of them whom the page shows one by one"""
    evaluation: pl.DataFrame
    """the table evaluation"""
    utilities: pl.DataFrame
    """the table utilities"""
    answers: pl.DataFrame
    """prompt_id, prompt, member, response, reward_TRAIT: one answer of every policy, base first"""
    sizes: dict[str, tuple[float, float]]
    """member → size of its files, and of its weights when loaded, 10^6 bytes"""
    skills: dict[str, float]
    """of the sandbox's model, 0 to 1; empty for any other base"""
    method: str | None
    """how the directions of the edits were found: subspaces.method of the run"""
    clusters: dict[str, int]
    """cluster → how many users it has; largest first"""
    trials: pl.DataFrame
    """the table trials"""
    member_trials: pl.DataFrame
    """the table member_trials"""
    revealed: pl.DataFrame
    """the table revealed"""
    judged: pl.DataFrame
    """the table judged"""
    pairs: int | None
    """how many self-generated pairs were kept"""
    dropped: dict[str, int]
    """reason → how many were not"""
    steps: dict[str, int]
    """training → steps that it took; a family is one"""
    reached: frozenset[str]
    """trainings that ended because they had reached adapters.share"""

    @property
    def region(self) -> Region:
        return Region(tuple(self.params.floor))

    @property
    def ideal(self) -> Ideal:
        """What says f* on certify by the base's rollouts alone."""
        return self.planned.ideals[0]

    @cached_property
    def largest_loss(self) -> float:
        """Where the scale of losses ends: beyond all finite ones, and beyond the ε asked."""
        worst = [losses.worst()[1] for losses in (self.planned, self.losses)]
        return max(
            [1.5 * self.portfolio["epsilon"], *(loss for loss in worst if np.isfinite(loss))]
        )


def read(params: Params) -> Run:
    """Read a finished run.

    Raises:
        PaletteError: an artifact is missing or does not fit its schema.
    """
    portfolio = tables.read_json(tables.DATA / "portfolio" / "portfolio.json")
    plan = tables.read_json(tables.DATA / "plan" / "plan.json")
    members = [member["id"] for member in portfolio["members"]]
    users = tables.read("users")
    losses, planned = read_losses(params, portfolio, plan)
    logs = read_logs()
    return Run(
        params=params,
        portfolio=portfolio,
        plan=plan,
        planes=losses.routing,
        losses=losses,
        planned=planned,
        users=users,
        routes=tables.read("routes"),
        tastes=read_tastes(params, users),
        people=people.read(params),
        evaluation=tables.read("evaluation"),
        utilities=tables.read("utilities"),
        answers=shown.of_members(params, members),
        sizes={name: sizes(tables.DATA / "adapters" / name) for name in members},
        skills=read_skills(params),
        method=read_method(),
        clusters=counts(read_if_there("groups")["cluster"]),
        trials=read_if_there("trials"),
        member_trials=read_if_there("member_trials"),
        revealed=read_if_there("revealed"),
        judged=read_if_there("judged"),
        pairs=len(tables.read("pairs")) if tables.path("pairs").exists() else None,
        dropped=counts(read_if_there("dropped")["reason"]),
        steps=counts(logs.filter(pl.col("phase") != REACHED)["member"]),
        reached=frozenset(logs.filter(phase=REACHED)["member"]),
    )


def read_losses(params: Params, portfolio: dict, plan: dict) -> tuple[Losses, Losses]:
    """Of the trained members, and of the plan's ideal ones."""
    traits, routing = params.trait_names, read_planes(portfolio, params)
    certify = arrays.scored(params, ["certify"])
    judged = arrays.worths(params, certify, routing.names[1:]).planes
    ideals = arrays.mixtures(params, certify, routing.names[1:]) or (certify.ideal,) * len(routing)
    fixed = [
        Cell(routing.names.index(cell["member"]), vertices(cell, traits))
        for cell in portfolio["cells"]
    ]
    weights = [[member["weights"][trait] for trait in traits] for member in plan["members"]]
    names = tuple(member["id"] for member in plan["members"])
    region, delta = Region(tuple(params.floor)), portfolio["delta"]
    return (
        Losses(routing, judged, ideals, fixed, delta),
        as_planned(names, np.array(weights), certify.ideal, region, delta),
    )


def vertices(cell: dict, traits: list[str]) -> np.ndarray:
    """(V, d): the corners of a cell of portfolio.json."""
    return np.array([[vertex[trait] for trait in traits] for vertex in cell["vertices"]])


def read_tastes(params: Params, users: pl.DataFrame) -> np.ndarray:
    """(U, d): estimated weights of public users alone."""
    public = set(users.filter(pl.col("public"))["user_id"])
    names, (weights, _, _) = estimates(params.trait_names)
    return weights[[name in public for name in names]]


def read_skills(params: Params) -> dict[str, float]:
    if params.base.model != "sandbox":
        return {}
    return tables.read_json(tables.DATA / "sandbox" / "skills.json")


def read_if_there(name: str) -> pl.DataFrame:
    """A table that not every run has, nor those of older days; empty where it is not there."""
    return tables.read(name) if tables.path(name).exists() else tables.empty(name)


def read_logs() -> pl.DataFrame:
    """The logs of all trainings, by `member`; a family is one."""
    family = read_if_there("family_training").with_columns(member=pl.lit("the family"))
    return pl.concat([family, read_if_there("training")], how="diagonal")


def read_method() -> str | None:
    """None for a run that made no edits."""
    file = tables.DATA / "subspaces" / "layers.json"
    return tables.read_json(file)["method"] if file.exists() else None


def counts(values: pl.Series) -> dict[str, int]:
    """Value → how often it is there: the most frequent first, then by name."""
    name = values.name
    return dict(values.value_counts().sort("count", name, descending=[True, False]).rows())


def sizes(folder: Path) -> tuple[float, float]:
    """Of an adapter's files, and of its weights (parameters × their width), 10^6 bytes."""
    from safetensors import deserialize

    stored = sum(file.stat().st_size for file in folder.iterdir())
    tensors = deserialize((folder / "adapter_model.safetensors").read_bytes())
    return stored / 1e6, sum(len(tensor["data"]) for _, tensor in tensors) / 1e6
