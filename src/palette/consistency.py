"""What must fit together in params.yaml, beyond what each key may be by itself."""

from math import gcd, isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from palette.errors import nearest

if TYPE_CHECKING:
    from palette.params import Params


def complaint(params: "Params") -> str | None:
    """The first thing that does not fit, as a sentence with the cure; None if all does."""
    if params.plan.epsilon > params.portfolio.epsilon:
        return (
            f"plan.epsilon is {params.plan.epsilon}, but must be at most portfolio.epsilon "
            f"({params.portfolio.epsilon}), since trained adapters fall short of ideal ones"
        )
    if params.insights.pairs > params.insights.candidates:
        return (
            f"insights.pairs is {params.insights.pairs}, but must be at most insights.candidates "
            f"({params.insights.candidates}), among which they are chosen"
        )
    if params.subspaces.samples > params.rollouts.samples.train:
        return (
            f"subspaces.samples is {params.subspaces.samples}, but must be at most "
            f"rollouts.samples.train ({params.rollouts.samples.train}), of which it is a part"
        )
    if said := _of_traits(params):
        return said
    total = sum(params.weights.floor.values())
    if total >= 1:
        return f"weights.floor adds up to {total:g} and leaves no weights; it must stay below 1"
    for name, least in params.weights.floor.items():
        if abs(100 * least - round(100 * least)) > 1e-9:
            return (
                f"weights.floor.{name} is {least}, but must be hundredths, as planned weights are"
            )
    rollouts, answers = params.rollouts.samples.certify, params.values.samples.certify
    if gcd(rollouts, answers) < 2:
        return (
            f"rollouts.samples.certify ({rollouts}) and values.samples.certify ({answers}) have "
            "no common divisor above 1, but f* is estimated from blocks of both; change one"
        )
    if params.adapters.steps + params.adapters.rloo_steps == 0:
        return "adapters.steps and adapters.rloo_steps are both 0; at least one must be positive"
    if params.adapters.rloo_steps and params.adapters.rloo_batch % params.adapters.generations:
        return (
            f"adapters.rloo_batch is {params.adapters.rloo_batch}, but must be a multiple of "
            f"adapters.generations ({params.adapters.generations}) for adapters.rloo_steps"
        )
    for key, file in _inputs(params).items():
        inside = file and Path(file).is_relative_to(Path("inputs") / key.split(".")[0])
        if file and (not inside or ".." in Path(file).parts):
            return (
                f"{key} is '{file}', but must lie in inputs/{key.split('.')[0]}/, where DVC sees "
                "that it changes"
            )
    return None


def _of_traits(params: "Params") -> str | None:
    for name, trait in params.traits.items():
        if trait.kind not in trait_kinds():
            return (
                f"traits.{name}.kind is '{trait.kind}', which is no module of palette.traits; "
                f"{nearest(trait.kind, trait_kinds())}"
            )
        if trait.range and trait.calibrate:
            return f"traits.{name} has a range and is to be calibrated; remove one of the two"
        if trait.range and not (isfinite(width := trait.range[1] - trait.range[0]) and width):
            return (
                f"traits.{name}.range is {list(trait.range)}, but must be two different numbers: "
                "the scores that mean 0 and 1"
            )
    if not params.trained:
        return "every trait is a judge, so nothing is left to train for; let one have no role"
    for name in params.weights.floor:
        if name in params.judges:
            return f"weights.floor names '{name}', a judge, which has no weight; remove it there"
        if name not in params.traits:
            return (
                f"weights.floor names '{name}', which is no trait; {nearest(name, params.trained)}"
            )
    return None


def _inputs(params: "Params") -> dict[str, str | None]:
    return {
        "prompts.file": params.prompts.file,
        "users.file": params.users.file,
        "plan.pinned": params.plan.pinned,
        "routes.previous": params.routes.previous,
    }


def trait_kinds() -> list[str]:
    """Names of the modules of palette.traits that hold a reward."""
    folder = Path(__file__).parent / "traits"
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
