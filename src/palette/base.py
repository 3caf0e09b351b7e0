"""Stage `base`: the frozen model that everything starts from.

    python -m palette.base

The sandbox's own model is trained here; any other is referenced by name, revision and hashes.
"""

import os
import shutil
from pathlib import Path

from palette import stage, tables
from palette.errors import PaletteError
from palette.lm import hub
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
    os.environ["TOKENIZERS_PARALLELISM"] = "true"  # no other process is at work
    with progress("training the sandbox's base", total=params.sandbox.steps) as advance:
        learn.train(params.sandbox, folder, advance)
    return skill.measure(load_base("cpu", folder), params.sandbox.seed)


def _refer(params: Params, folder: Path) -> dict[str, float]:
    from palette.lm.fitness import require_fit, require_shape
    from palette.lm.models import load_base, shape_of

    told = reference(params.base.model, params.base.revision)
    require_shape(shape_of(told["model"], told["revision"])[0])
    tables.write_json(folder / REFERENCE, told)
    require_fit(load_base(params.runtime.device, folder))
    return {}


def reference(model: str, revision: str | None) -> dict:
    """What a base elsewhere is: its name, revision, and for a local directory the hashes of its files.

    Raises:
        PaletteError: a hub id without its commit; a local directory that is no whole causal model, or
            whose weights are not safetensors.
    """
    folder = Path(model)
    if not hub.is_base_local(model, revision):
        return {"model": model, "revision": revision, "files": {}}
    if (folder / "adapter_config.json").exists():
        raise PaletteError(
            f"base.model '{model}' holds a PEFT adapter; merge it into its model (merge_and_unload), save "
            "that, and name its directory"
        )
    if not list(folder.glob("*.safetensors")):
        for file in sorted(folder.glob("*")):
            if file.suffix in hub.UNSAFE:
                raise PaletteError(
                    f"base.model '{model}' keeps its weights in {file.name}, which may run code when read; "
                    "save them as safetensors (save_pretrained of transformers does)"
                )
    if not (folder / "config.json").exists() or not list(folder.glob("*.safetensors")):
        raise PaletteError(f"base.model '{model}' must hold config.json and *.safetensors")
    return {"model": model, "revision": None, "files": hub.hashes(folder)}


if __name__ == "__main__":
    stage.run(main)
