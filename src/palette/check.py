"""Stage check: params.yaml, whole → leave to run anything; every other stage comes after it.

    python -m palette.check

DVC removes a stage's outputs before it runs, so a bad value must be found before that. What this
writes of params.yaml never changes, so that a changed but valid one makes nothing else stale. Beside
it stand the digests of what traits are made of under inputs/traits/ and elsewhere: whoever changes a
trait's files makes that trait's rewards stale, and no other's.
"""

from palette import stage, tables, traits
from palette.lm import hub
from palette.params import Params

CHECKED = tables.DATA / "check" / "params.json"
TRAITS = tables.DATA / "traits"


def main(params: Params) -> None:
    if params.base.model != "sandbox":
        hub.is_base_local(params.base.model, params.base.revision)
    for name, trait in params.traits.items():
        traits.bound(name, trait)
    found = {name: traits.files(name, trait) for name, trait in params.traits.items()}
    for file in TRAITS.glob("*.json"):
        if file.stem not in found:
            file.unlink()
    for name, files in found.items():
        tables.write_json(TRAITS / f"{name}.json", files)
    tables.write_json(CHECKED, {"params.yaml": "valid"})


if __name__ == "__main__":
    stage.run(main)
