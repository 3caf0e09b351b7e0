"""Stage check: params.yaml, whole → leave to run anything; every other stage comes after it.

    python -m palette.check

DVC removes a stage's outputs before it runs, so a bad value must be found before that. What this
writes never changes, so that a changed but valid params.yaml makes nothing else stale.
"""

from palette import stage, tables
from palette.params import Params

CHECKED = tables.DATA / "check" / "params.json"


def main(_: Params) -> None:
    tables.write_json(CHECKED, {"params.yaml": "valid"})


if __name__ == "__main__":
    stage.run(main)
