"""What portfolio.json and plan.json must look like before any number of theirs is worth comparing.

Numbers are real and finite, neither texts nor truths; null stands only where a number may be
infinite or unknown.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from palette.errors import PaletteError

Weights = dict[str, float]
"""by trait"""
Count = Annotated[int, Field(ge=1)]


class Part(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class Member(Part):
    id: str
    weights: Weights
    values: Weights
    cost: float
    kl: float
    share: float | None


class Base(Part):
    values: Weights
    cost: float


class Cell(Part):
    member: str
    vertices: Annotated[list[Weights], Field(min_length=1)]


class Certificate(Part):
    epsilon_point: float | None
    epsilon_upper: float | None
    confidence: Annotated[float, Field(gt=0, le=1)]
    draws: Count
    seed: Annotated[int, Field(ge=0)]
    looks: Count
    prompts: Count
    topics: Count


class Worst(Part):
    weights: Weights
    member: str
    additive: float | None
    multiplicative: float | None
    upper: float | None


class Mend(Part):
    weights: list[Weights]
    expected: float | None
    advice: str


class Adapters(Part):
    share_min: float | None
    share_mean: float | None


class Gap(Part):
    base: float | None
    single: float | None


class Portfolio(Part):
    epsilon: Annotated[float, Field(ge=0, lt=1)]
    delta: Annotated[float, Field(ge=0)]
    beta: Annotated[float, Field(gt=0)]
    confidence: Annotated[float, Field(gt=0, lt=1)]
    traits: Annotated[list[str], Field(min_length=1)]
    region: Weights
    passed: bool
    certificate: Certificate
    worst: Worst
    mend: Mend
    base: Base
    members: list[Member]
    cells: Annotated[list[Cell], Field(min_length=1)]
    adapters: Adapters
    gap: Gap
    thin: float
    conditions: list[str]
    provenance: dict[str, str]
    digest: str | None = None

    @model_validator(mode="after")
    def _whole(self) -> "Portfolio":
        _distinct("a member", ["base", *(member.id for member in self.members)])
        _complete(self.traits, "region", self.region)
        _complete(self.traits, "worst.weights", self.worst.weights)
        for place, weights in enumerate(self.mend.weights):
            _complete(self.traits, f"mend.weights.{place}", weights)
        for place, cell in enumerate(self.cells):
            for row, corner in enumerate(cell.vertices):
                _complete(self.traits, f"cells.{place}.vertices.{row}", corner)
        return self


class Planned(Part):
    id: str
    weights: Weights


class Plan(Part):
    beta: float
    traits: list[str]
    floor: Weights
    looks: Count
    members: list[Planned]

    @model_validator(mode="after")
    def _whole(self) -> "Plan":
        _distinct("a member", ["base", *(member.id for member in self.members)])
        _complete(self.traits, "floor", self.floor)
        for member in self.members:
            _complete(self.traits, f"members.{member.id}", member.weights)
        return self


def look_at(shape: type[Part], content: Any, file: Path) -> None:
    """Raises PaletteError where the content of a file has not the shape; it names the first place."""
    try:
        shape.model_validate(content)
    except ValidationError as error:
        wrong = error.errors()[0]
        where = ".".join(map(str, wrong["loc"]))
        what = wrong["msg"].removeprefix("Value error, ")
        raise PaletteError(
            f"{file} is not what `dvc repro` writes ({where}{': ' if where else ''}{what}); run it "
            "to make the file anew"
        ) from None


def _distinct(what: str, names: list[str]) -> None:
    if len(set(names)) < len(names):
        raise ValueError(f"{what} is listed twice")


def _complete(traits: list[str], where: str, weights: Weights) -> None:
    _distinct("a trait", traits)
    if weights.keys() != set(traits):
        raise ValueError(f"{where} has not one number for each of {', '.join(traits)}")
