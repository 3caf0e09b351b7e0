"""Choose the weights to train for, before anything is trained.

python -m palette.plan        # rewards of train and select → data/plan/plan.json
"""

from pathlib import Path

import numpy as np
import polars as pl

from palette import arrays, stage, tables
from palette.core import planning
from palette.core.moving import Setting, hundredths
from palette.core.region import Region
from palette.errors import PaletteError
from palette.params import Params

PLAN = Path("plan/plan.json")


def main(params: Params) -> None:
    rollouts = arrays.scored(params, ["train", "select"])
    setting = Setting(rollouts.ideal.condensed(), Region(tuple(params.floor)))
    pinned = read_pinned(params)
    plan = choose(params, setting, pinned)
    tables.write_json(tables.DATA / PLAN, describe(params, plan))


def choose(params: Params, setting: Setting, pinned: np.ndarray) -> planning.Plan:
    """The plan by the strategy that params names."""
    if params.plan.strategy == "lazy":
        return planning.lazy(setting, params.plan.epsilon, pinned)
    return planning.minimal(setting, params.plan.epsilon, pinned, params.plan.lattice)


def describe(params: Params, plan: planning.Plan) -> dict:
    """The content of plan.json."""
    traits = params.trait_names
    members = [
        {
            "id": member_id(traits, weights),
            "weights": dict(zip(traits, map(float, weights), strict=True)),
            "pinned": bool(pinned),
        }
        for weights, pinned in zip(plan.weights, plan.pinned, strict=True)
    ]
    return {
        "epsilon": params.plan.epsilon,
        "strategy": params.plan.strategy,
        "beta": params.objective.beta,
        "traits": traits,
        "floor": dict(zip(traits, params.floor, strict=True)),
        "trainings": len(members),
        "lower_bound": plan.lower_bound,
        "reached": plan.reached,
        "members": members,
    }


def member_id(traits: list[str], weights: np.ndarray) -> str:
    """A stable, readable name: the nonzero weights in percent, such as brevity70-humor30."""
    percents = [round(100 * weight) for weight in weights]
    return "-".join(f"{t}{p}" for t, p in zip(traits, percents, strict=True) if p)


def read_pinned(params: Params) -> np.ndarray:
    """(K, d): the weights of the file that plan.pinned names, each once; (0, d) if it names none.

    Raises:
        PaletteError: the file is missing, is not a table of the traits' weights, or a row's
            weights are not hundredths that add up to 1.
    """
    traits = params.trait_names
    if params.plan.pinned is None:
        return np.empty((0, len(traits)))
    source = Path(params.plan.pinned)
    if not source.exists():
        raise PaletteError(f"plan.pinned names '{source}', which does not exist")
    try:
        frame = pl.read_csv(source)
    except pl.exceptions.PolarsError:
        raise PaletteError(f"{source} is not a CSV with the columns {', '.join(traits)}") from None
    if sorted(frame.columns) != sorted(traits):
        raise PaletteError(
            f"{source} has the columns {', '.join(frame.columns)}, but must have one per trait: "
            f"{', '.join(traits)}"
        )
    frame = frame.select(pl.col(traits).cast(pl.Float64, strict=False))
    weights = frame.fill_null(float("nan")).to_numpy()
    for line, row in enumerate(weights, start=2):
        if not (row >= 0).all() or abs(row.sum() - 1) > 1e-6:
            raise PaletteError(
                f"line {line} of {source} must hold weights of at least 0 that add up to 1"
            )
        if np.abs(row - hundredths(row[None])[0]).max() > 1e-6:
            raise PaletteError(
                f"line {line} of {source} is finer than hundredths; "
                "give weights of two decimals that add up to 1"
            )
    return planning.distinct(np.empty((0, len(traits))), hundredths(weights))


if __name__ == "__main__":
    stage.run(main)
