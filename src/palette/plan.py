"""Choose the weights to train for, before anything is trained.

python -m palette.plan        # rewards of train and select → data/plan/plan.json
"""

import sys
from math import isfinite
from pathlib import Path

import numpy as np

from palette import arrays, pinned, stage, tables
from palette.core.moving import Setting
from palette.core.palm import allowance, palm_bound
from palette.core.planning import Plan
from palette.core.region import Region
from palette.core.strategies import Asked, choose
from palette.errors import PaletteError
from palette.params import Params

PLAN = Path("plan/plan.json")
MANY = 200  # trainings above which the plan is warned of


def main(params: Params) -> None:
    rollouts = arrays.scored(params, ["train", "select"])
    setting = Setting(rollouts.ideal.condensed(), Region(tuple(params.floor)))
    weights, rounds = read_pinned(params)
    plan = choose(setting, asked(params, weights))
    bound = palm_bound(
        setting.region.d, *allowance(setting, params.plan.epsilon, params.portfolio.delta)
    )
    warn(len(plan.weights))
    tables.write_json(tables.DATA / PLAN, describe(params, plan, rounds, bound))


def asked(params: Params, weights: np.ndarray) -> Asked:
    """What params ask of the plan, beside the pinned weights (K, d)."""
    plan = params.plan
    return Asked(
        plan.strategy,
        plan.epsilon,
        weights,
        max_members=plan.max_members,
        lattice=plan.lattice,
        delta=params.portfolio.delta,
        seed=plan.seed,
    )


def warn(trainings: int) -> None:
    """A plan of an absurd size is still a plan, but not one to be trained unawares."""
    if trainings > MANY:
        print(
            f"palette: the plan needs {trainings} trainings; plan.strategy minimal needs the "
            "fewest, and plan.max_members sets a budget",
            file=sys.stderr,
        )


def describe(params: Params, plan: Plan, rounds: np.ndarray, bound: float) -> dict:
    """The content of plan.json.

    Args:
        rounds: (pinned,) which repair asked for each of the pinned weights; others belong to the
            last one.
        bound: PALM's on the number of trainings.
    """
    traits = params.trait_names
    last = int(rounds.max(initial=0))
    rounds = np.r_[rounds, np.full(len(plan.weights) - len(rounds), last)]
    members = [
        {
            "id": member_id(traits, weights),
            "weights": dict(zip(traits, map(float, weights), strict=True)),
            "pinned": bool(fixed),
            "round": int(repair),
        }
        for weights, fixed, repair in zip(plan.weights, plan.pinned, rounds, strict=True)
    ]
    return {
        "epsilon": params.plan.epsilon,
        "strategy": params.plan.strategy,
        "max_members": params.plan.max_members,
        "beta": params.objective.beta,
        "traits": traits,
        "floor": dict(zip(traits, params.floor, strict=True)),
        "looks": 1 + last,
        "trainings": len(members),
        "lower_bound": plan.lower_bound,
        "palm_bound": bound if isfinite(bound) else None,
        "reached": plan.reached if isfinite(plan.reached) else None,
        "members": members,
    }


def member_id(traits: list[str], weights: np.ndarray) -> str:
    """A stable, readable name: the nonzero weights in percent, such as brevity70-humor30."""
    percents = [round(100 * weight) for weight in weights]
    return "-".join(f"{t}{p}" for t, p in zip(traits, percents, strict=True) if p)


def read_pinned(params: Params) -> tuple[np.ndarray, np.ndarray]:
    """Weights (K, d) and rounds (K,) of the file that plan.pinned names; none if it names none.

    Raises:
        PaletteError: the file is not what it should be, or has weights below weights.floor.
    """
    if params.plan.pinned is None:
        return np.empty((0, len(params.trait_names))), np.empty(0, dtype=int)
    weights, rounds = pinned.read(Path(params.plan.pinned), params.trait_names)
    outside = weights[~Region(tuple(params.floor)).contains(weights)]
    if len(outside):
        raise PaletteError(
            f"{params.plan.pinned} asks for {member_id(params.trait_names, outside[0])}, which is below "
            "weights.floor; remove these weights, or lower the floor"
        )
    return weights, rounds


if __name__ == "__main__":
    stage.run(main)
