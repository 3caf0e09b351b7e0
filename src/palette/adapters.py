"""Stage `adapters`: a LoRA adapter for every member of the plan; stored ones are not trained again.

python -m palette.adapters
"""

import shutil

import polars as pl

from palette import members, stage, tables
from palette.params import Params

ADAPTERS = tables.DATA / "adapters"


def main(params: Params) -> None:
    plan = tables.read_json(tables.DATA / "plan" / "plan.json")
    wanted = {member["id"]: member["weights"] for member in plan["members"]}
    trained = members.train(params, wanted, "training adapters")
    shutil.rmtree(ADAPTERS, ignore_errors=True)
    logs = [
        members.write(files, ADAPTERS / name).with_columns(member=pl.lit(name))
        for name, files in trained.items()
    ]
    tables.write("training", pl.concat([tables.empty("training"), *logs], how="diagonal"))


if __name__ == "__main__":
    stage.run(main)
