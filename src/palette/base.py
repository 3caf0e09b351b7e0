"""Stage `base`: the frozen model that everything starts from.

    python -m palette.base

The sandbox's own model is trained here; any other is referenced by name, revision and hashes.
"""

import hashlib
import shutil
from pathlib import Path

from palette import stage, tables
from palette.errors import PaletteError
from palette.lm.models import BASE, REFERENCE
from palette.params import Params
from palette.progress import progress

SKILLS = tables.DATA / "sandbox" / "skills.json"


def main(params: Params) -> None:
    made = BASE.with_suffix(".part")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    skills = _train(params, made) if params.base.model == "sandbox" else _refer(params, made)
    shutil.rmtree(BASE, ignore_errors=True)
    made.rename(BASE)
    tables.write_json(SKILLS, skills)


def _train(params: Params, folder: Path) -> dict[str, float]:
    import torch

    from palette.lm.models import load_base
    from palette.sandbox import learn, skill

    torch.set_num_threads(params.runtime.workers * params.runtime.threads)
    with progress("training the sandbox's base", total=params.sandbox.steps) as advance:
        learn.train(params.sandbox, folder, advance)
    return skill.measure(load_base("cpu", folder), params.sandbox.seed)


def _refer(params: Params, folder: Path) -> dict[str, float]:
    tables.write_json(folder / REFERENCE, reference(params.base.model, params.base.revision))
    return {}


def reference(model: str, revision: str | None) -> dict:
    """What a base elsewhere is: its name, revision, and for a local directory the hashes of its files.

    Raises:
        PaletteError: a local directory without a config, or with weights that are not safetensors.
    """
    folder = Path(model)
    if not folder.exists():
        if model.count("/") > 1 or model.startswith((".", "/")):
            raise PaletteError(f"base.model '{model}' is not a directory; name one, or a hub id")
        if revision is None:
            raise PaletteError(f"base.model '{model}' is a hub id: pin base.revision to a commit")
        return {"model": model, "revision": revision, "files": {}}
    if not (folder / "config.json").exists() or not list(folder.glob("*.safetensors")):
        raise PaletteError(f"base.model '{model}' must hold config.json and *.safetensors")
    files = [file for file in sorted(folder.iterdir()) if file.is_file()]
    hashes = {file.name: _sha256(file) for file in files}
    return {"model": model, "revision": revision, "files": hashes}


def _sha256(file: Path) -> str:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


if __name__ == "__main__":
    stage.run(main)
