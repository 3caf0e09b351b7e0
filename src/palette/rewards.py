"""Stage `rewards@TRAIT`: the base's rollouts, scored by one trait.

python -m palette.rewards humor
"""

import sys

import numpy as np

from palette import stage, tables, traits
from palette.errors import PaletteError
from palette.params import Params


def main(params: Params) -> None:
    name = _asked(params)
    prompts = tables.read("prompts").select("prompt_id", "prompt")
    rollouts = tables.read("rollouts").select("prompt_id", "sample", "response")
    rows = rollouts.join(prompts, on="prompt_id", how="left", maintain_order="left")
    reward = traits.score_one(
        name, params.traits[name], rows["prompt"].to_list(), rows["response"].to_list()
    )
    if np.ptp(reward) == 0:
        raise PaletteError(
            f"traits.{name} gives {reward[0]:g} to every rollout of the base, so that no policy can "
            "gain on it; mend the reward or remove the trait"
        )
    tables.write(
        "rewards", rollouts.select("prompt_id", "sample").with_columns(reward=reward), name
    )


def _asked(params: Params) -> str:
    known = ", ".join(params.trait_names)
    if len(sys.argv) != 2 or sys.argv[1] not in params.traits:
        raise PaletteError(
            f"name one trait: python -m palette.rewards TRAIT, with TRAIT in {known}"
        )
    return sys.argv[1]


if __name__ == "__main__":
    stage.run(main)
