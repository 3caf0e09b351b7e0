"""Stage `family`: one training for every weight vector; its points are the members, whatever the plan.

    python -m palette.family

With `adapters.kind: members` there is none: the stage leaves its folder without one.
"""

import numpy as np
import torch

from palette import members, stage, tables
from palette.errors import PaletteError
from palette.lm import peft_files
from palette.params import Params

FOLDER = tables.DATA / "family"


def main(params: Params) -> None:
    log = tables.empty("family_training")
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / peft_files.FAMILY).unlink(missing_ok=True)
    if params.adapters.kind == "family":
        log = members.write(members.train_family(params), FOLDER)
    tables.write("family_training", log)


def points(params: Params, weights: np.ndarray) -> list[dict[str, bytes]]:
    """An ordinary PEFT adapter of the family at every weight vector.

    Args:
        weights: (points, d).

    Raises:
        PaletteError: there is no family.
    """
    file = FOLDER / peft_files.FAMILY
    if not file.exists():
        raise PaletteError(f"{file} is missing; run `dvc repro family` to train it")
    family = peft_files.read_family({peft_files.FAMILY: file.read_bytes()})
    vectors = torch.from_numpy(weights.astype(np.float32))
    return [peft_files.of_matrices(family.matrices(own)) for own in vectors]


if __name__ == "__main__":
    stage.run(main)
