"""A folder that is written whole or not at all, and replaces nothing but an earlier export."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from palette import tables
from palette.errors import PaletteError

MANIFEST = "export.json"
"""What was exported, for programs; it marks the folder as ours."""


@contextmanager
def whole(target: Path, force: bool) -> Iterator[Path]:
    """A new folder to fill, which becomes `target` when the block ends; after an error it is gone.

    Args:
        force: an earlier export in the target's place is replaced.

    Raises:
        PaletteError: something else is there.
    """
    target = target.resolve()
    _spare(target, force)
    part, old = (target.with_name(f".{target.name}.{end}") for end in ("part", "old"))
    for left in (part, old):  # of an export that was killed
        shutil.rmtree(left, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        if target.exists():
            target.rename(old)
        part.rename(target)
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)


def mark(folder: Path, manifest: dict[str, Any]) -> None:
    """Say in a file what the folder holds."""
    tables.write_json(folder / MANIFEST, manifest)


def _spare(target: Path, force: bool) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise PaletteError(f"{target} is a file; name a folder to write")
    if not any(target.iterdir()):
        return
    if not force:
        raise PaletteError(f"{target} is not empty; name another folder, or replace it by --force")
    if not (target / MANIFEST).is_file():
        raise PaletteError(
            f"{target} holds something else than an earlier export, which --force does not "
            "replace; name another folder"
        )
