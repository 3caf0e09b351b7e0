"""`palette export vllm`: a folder from which vLLM serves the members, and what its reader must know.

    serve.sh             starts the server: the base as `base`, every member by its own name
    adapters/MEMBER/     PEFT adapters
    routes.csv           user_id, model: the one to ask for each user
    portfolio.json       the members' planes and cells, and the certificate, as the run wrote them
    chat_template.jinja  only where the base has none of its own, or one that changes with the date
    README.md, export.json

The certificate speaks of one sampler: temperature 1, nothing cut off, one limit of new tokens. vLLM
takes other defaults from the base's own generation config unless it is told not to.
"""

import json
import shlex
from itertools import chain
from pathlib import Path
from typing import Any

from palette import tables
from palette.errors import PaletteError
from palette.exporting import certified, pages, sameness
from palette.exporting.finished import Finished
from palette.exporting.folder import mark
from palette.lm.models import LanguageModel
from palette.lm.templates import for_servers

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM takes as --max-lora-rank."""
REVISIONS = ("--revision", "--tokenizer-revision")
ADAPTERS, TEMPLATE, SERVE = "adapters", "chat_template.jinja", "serve.sh"


def write(run: Finished, lm: LanguageModel, folder: Path) -> dict[str, Any]:
    """Fill a new folder.

    Args:
        lm: a base that nothing was done to.

    Returns:
        The content of export.json.

    Raises:
        PaletteError: vLLM takes no adapter of such a rank, or PEFT finds other policies in the
            exported files than those that were certified.
    """
    template = for_servers(lm.tokenizer)
    command = serve(run, template is None)
    hashes = run.write_adapters(folder / ADAPTERS)
    same = sameness.check(lm, {name: folder / ADAPTERS / name for name in hashes})
    if template is not None:
        (folder / TEMPLATE).write_text(template, encoding="utf-8")
    run.routes.select("user_id", model="member").sort("user_id").write_csv(folder / "routes.csv")
    tables.write_json(folder / "portfolio.json", run.portfolio)
    (folder / SERVE).write_text(script(command), encoding="utf-8")
    (folder / SERVE).chmod(0o755)
    manifest = {
        "kind": "vllm",
        "base": {"model": run.base.name, "revision": run.base.revision, "digest": lm.digest},
        "command": list(chain.from_iterable(command)),
        "members": hashes,
        "passed": run.portfolio["passed"],
        "certificate": certified.verdict(run.portfolio),
        "edits": certified.unserved(run.routes, run.evaluation),
        "checked": same,
    }
    page = pages.serving(run, manifest, shown(command), lm.model)
    (folder / "README.md").write_text(page, encoding="utf-8")
    mark(folder, manifest)
    return manifest


def serve(run: Finished, templated: bool) -> list[list[str]]:
    """The command, to run in the folder: an option with its values each."""
    base, limit = run.base, {"max_new_tokens": run.params.rollouts.max_new_tokens}
    return [
        ["vllm", "serve", base.name],
        *([option, base.revision] for option in REVISIONS if base.revision),
        ["--served-model-name", "base"],
        *([] if templated else [["--chat-template", TEMPLATE]]),
        ["--generation-config", "vllm"],
        ["--override-generation-config", json.dumps(limit)],
        ["--enable-lora"],
        ["--max-lora-rank", str(max_lora_rank(run))],
        ["--max-loras", str(len(run.members))],
        ["--lora-modules", *(f"{member.id}={ADAPTERS}/{member.id}" for member in run.members)],
    ]


def max_lora_rank(run: Finished) -> int:
    """The least that vLLM takes and no adapter exceeds.

    Raises:
        PaletteError: an adapter has a higher rank than vLLM serves.
    """
    rank = max(member.rank for member in run.members)
    if rank > RANKS[-1]:
        raise PaletteError(
            f"vLLM serves adapters of rank {RANKS[-1]} at most, and these have {rank}; "
            "lower adapters.rank and run `dvc repro`"
        )
    return next(taken for taken in RANKS if taken >= rank)


def shown(command: list[list[str]]) -> str:
    """As a person types it: an option a line, and every adapter on one of its own."""
    *options, (option, *modules) = command
    lines = [shlex.join(words) for words in options] + [option]
    return " \\\n  ".join(lines + [f"  {shlex.quote(module)}" for module in modules])


def script(command: list[list[str]]) -> str:
    """As a shell script that runs from anywhere; its own arguments are further options of vLLM."""
    return f'#!/bin/sh\ncd "$(dirname "$0")" || exit\nexec {shown(command)} \\\n  "$@"\n'
