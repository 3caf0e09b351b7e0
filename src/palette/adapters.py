"""Stage `adapters`: a LoRA adapter for every member of the plan; stored ones are not trained again.

python -m palette.adapters
"""

import shutil

import numpy as np
import polars as pl

from palette import family, members, stage, tables
from palette.params import Params

ADAPTERS = tables.DATA / "adapters"


def main(params: Params) -> None:
    plan = tables.read_json(tables.DATA / "plan" / "plan.json")
    wanted = {member["id"]: member["weights"] for member in plan["members"]}
    logs = [tables.empty("training")]
    shutil.rmtree(ADAPTERS, ignore_errors=True)
    if params.adapters.kind == "family":
        vectors = np.array(
            [[own[trait] for trait in params.trait_names] for own in wanted.values()]
        )
        for name, files in zip(wanted, family.points(params, vectors), strict=True):
            members.write(files, ADAPTERS / name)
    else:
        for name, files in members.train(params, wanted, "training adapters").items():
            log = members.write(files, ADAPTERS / name)
            logs.append(log.with_columns(member=pl.lit(name)))
    tables.write("training", pl.concat(logs, how="diagonal"))


if __name__ == "__main__":
    stage.run(main)
