"""`palette export hub`: for every member a folder to publish, an adapter with its model card.

    MEMBER/README.md     what it prefers, what is certified of it, what it was made of, its limits
    MEMBER/adapter_config.json, MEMBER/adapter_model.safetensors

Nothing in it tells of a user: no id, no history, no count.
"""

from pathlib import Path
from typing import Any

from palette.exporting import certified, pages
from palette.exporting.finished import Finished
from palette.exporting.folder import mark


def write(run: Finished, folder: Path) -> dict[str, Any]:
    """Fill a new folder; returns the content of export.json."""
    hashes = run.write_adapters(folder)
    for member in run.members:
        pages.card(run, member).save(folder / member.id / "README.md")
    manifest = {
        "kind": "hub",
        "base": {"model": run.base.hub_id, "revision": run.base.revision},
        "members": hashes,
        "passed": run.portfolio["passed"],
        "certificate": certified.verdict(run.portfolio),
    }
    mark(folder, manifest)
    return manifest
