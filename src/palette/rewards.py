"""Stage `rewards@TRAIT`: the base's rollouts, scored by one trait.

python -m palette.rewards humor
"""

import sys

import numpy as np
import polars as pl

from palette import scores, stage, tables
from palette.errors import PaletteError
from palette.params import Params


def main(params: Params) -> None:
    name = _asked(params)
    rows = rollouts()
    reward = scores.score_one(params, name, rows["prompt"].to_list(), rows["response"].to_list())
    refuse_constant(name, reward[(rows["split"] == "train").to_numpy()])
    tables.write("rewards", rows.select("prompt_id", "sample").with_columns(reward=reward), name)


def rollouts() -> pl.DataFrame:
    """The base's rollouts with their prompts: prompt_id, sample, response, prompt, split."""
    prompts = tables.read("prompts").select("prompt_id", "prompt", "split")
    rows = tables.read("rollouts").select("prompt_id", "sample", "response")
    return rows.join(prompts, on="prompt_id", how="left", maintain_order="left")


def refuse_constant(name: str, reward: np.ndarray) -> None:
    """
    Args:
        reward: (rows,) of the train rollouts.

    Raises:
        PaletteError: all are the same.
    """
    if len(reward) and np.ptp(reward) == 0:
        raise PaletteError(
            f"traits.{name} gives {reward[0]:g} to every train rollout of the base, so that no policy "
            "can gain on it; mend the reward or remove the trait"
        )


def _asked(params: Params) -> str:
    known = ", ".join(params.traits)
    if len(sys.argv) != 2 or sys.argv[1] not in params.traits:
        raise PaletteError(
            f"name one trait: python -m palette.rewards TRAIT, with TRAIT in {known}"
        )
    return sys.argv[1]


if __name__ == "__main__":
    stage.run(main)
