"""Everything that the report tells of, read once. No history, insight or user name is in it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from palette import arrays, tables
from palette.core.covering import least_epsilon
from palette.core.envelope import Planes
from palette.core.ideal import Ideal
from palette.core.region import Region
from palette.params import Params
from palette.routes import estimates, read_planes

SHOWN = 3  # test prompts whose answers are printed


@dataclass(frozen=True)
class Certify:
    """The certify split, on which losses are judged."""

    ideal: Ideal
    planes: Planes
    """the base and the members, in the order of `Run.planes`"""


@dataclass(frozen=True)
class Run:
    params: Params
    portfolio: dict[str, Any]
    plan: dict[str, Any]
    planes: Planes
    """the base and the members on select: they decide who is routed where"""
    certify: Certify
    users: pl.DataFrame
    """the table users"""
    routes: pl.DataFrame
    """the table routes"""
    tastes: np.ndarray
    """(U, d): estimated weights of the users who may be shown"""
    evaluation: pl.DataFrame
    """the table evaluation"""
    answers: pl.DataFrame
    """prompt_id, prompt, member, response, reward_TRAIT: one answer of every policy, base first"""
    megabytes: dict[str, float]
    """member → size of its files, 10^6 bytes"""
    skills: dict[str, float]
    """of the sandbox's model, 0 to 1; empty for any other base"""

    @property
    def region(self) -> Region:
        return Region(tuple(self.params.floor))

    def losses(self, weights: np.ndarray) -> np.ndarray:
        """(P,): the least ε that holds at the weights (P, d) at the δ asked, as the verdict has it.

        The member is the one that select routes there; f* errs upward, on certify.
        """
        routed = self.planes.best(weights)
        worth = self.certify.planes.worth(weights)[np.arange(len(weights)), routed]
        return self.short_of_ideal(weights, worth)

    def short_of_ideal(self, weights: np.ndarray, worth: np.ndarray) -> np.ndarray:
        """(P,): the least ε with which a worth on certify holds; infinite where none does."""
        ideal = self.certify.ideal.upward(weights).mean(axis=1)
        return least_epsilon(ideal, worth, self.portfolio["delta"])


def read(params: Params) -> Run:
    """Read a finished run.

    Raises:
        PaletteError: an artifact is missing or does not fit its schema.
    """
    portfolio = tables.read_json(tables.DATA / "portfolio" / "portfolio.json")
    members = [member["id"] for member in portfolio["members"]]
    users = tables.read("users")
    return Run(
        params=params,
        portfolio=portfolio,
        plan=tables.read_json(tables.DATA / "plan" / "plan.json"),
        planes=read_planes(portfolio, params),
        certify=read_certify(params, members),
        users=users,
        routes=tables.read("routes"),
        tastes=read_tastes(params, users),
        evaluation=tables.read("evaluation"),
        answers=read_answers(params, members),
        megabytes={name: megabytes(tables.DATA / "adapters" / name) for name in members},
        skills=read_skills(params),
    )


def read_certify(params: Params, members: list[str]) -> Certify:
    certify = arrays.scored(params, ["certify"])
    worths = arrays.worths(params, certify, members)
    planes = Planes(worths.names, worths.values.mean(axis=1), worths.costs.mean(axis=1))
    return Certify(certify.ideal, planes)


def read_tastes(params: Params, users: pl.DataFrame) -> np.ndarray:
    """(U, d): estimated weights of public users alone."""
    public = set(users.filter(pl.col("public"))["user_id"])
    names, (weights, _, _) = estimates(params.trait_names)
    return weights[[name in public for name in names]]


def read_answers(params: Params, members: list[str]) -> pl.DataFrame:
    """The first answer of the base and of every member to the first test prompts."""
    prompts = tables.read("prompts").filter(split="test").sort("prompt_id").head(SHOWN)
    base = tables.read_rewards(params.trait_names).with_columns(member=pl.lit("base"))
    columns = ["member", "prompt_id", "response"]
    columns += [f"reward_{trait}" for trait in params.traits]
    first = [
        frame.filter(pl.col("sample") == 0).select(columns)
        for frame in (base, tables.read("values"))
    ]
    order = pl.DataFrame({"member": ["base", *members]})
    return (
        prompts.select("prompt_id", "prompt")
        .join(order, how="cross", maintain_order="left_right")
        .join(pl.concat(first), on=["prompt_id", "member"], how="left", maintain_order="left")
    )


def read_skills(params: Params) -> dict[str, float]:
    if params.base.model != "sandbox":
        return {}
    return tables.read_json(tables.DATA / "sandbox" / "skills.json")


def megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.iterdir()) / 1e6
