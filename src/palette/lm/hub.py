"""Models beside the base: a local directory, or a hub's owner/name@commit; safetensors alone."""

import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from palette.errors import PaletteError

COMMIT = re.compile("[0-9a-f]{40}")
UNSAFE = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack", ".ot", ".onnx")
"""Weights that are no safetensors: never read, never downloaded."""

SMALL = 64_000_000
"""bytes of a file that is read again at every load"""

Stamp = tuple[tuple[str, int, int], ...]
"""name, size and time of change of a folder's files"""


def is_local(key: str, name: str, besides: str = "") -> bool:
    """Whether a parameter names a directory here; what does not must be a hub id with its commit.

    A branch or a tag can come to mean other files: only a commit is taken.

    Args:
        key: the parameter, as messages name it.
        besides: what else it may be, for the message.

    Raises:
        PaletteError: it is neither.
    """
    if Path(name).is_dir():
        return True
    hub, _, commit = name.partition("@")
    if hub.count("/") != 1 or hub.startswith((".", "/", "~")):
        raise PaletteError(
            f"{key} '{name}' is not a directory; name one, or a hub's owner/name@commit{besides}"
        )
    if not COMMIT.fullmatch(commit):
        raise PaletteError(
            f"{key} '{name}' is a hub id: pin it to a commit, as {hub}@ and the 40 digits of its hash"
        )
    return False


def is_base_local(model: str, revision: str | None) -> bool:
    """Whether base.model names a directory here; what does not must be a hub id with its commit.

    Raises:
        PaletteError: it is neither, or a directory with a revision.
    """
    if Path(model).exists():
        if revision is not None:
            raise PaletteError(f"base.model '{model}' is a directory: leave base.revision null")
        return True
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise PaletteError(
            f"base.model '{model}' is not a directory; name one, or a hub id, owner/name"
        )
    if revision is None or not COMMIT.fullmatch(revision):
        raise PaletteError(
            f"base.model '{model}' is a hub id: pin base.revision to a commit, the 40 digits of its "
            "hash, since a branch or a tag can come to mean other files"
        )
    return False


def find(key: str, name: str, besides: str = "") -> Path:
    """The folder of a model. What a hub has is fetched to this machine's cache, if it is not there.

    Args:
        key, besides: as `is_local` has them.

    Raises:
        PaletteError: there is no such model, it is not pinned, or its weights are not safetensors.
    """
    here = is_local(key, name, besides)
    hub, _, commit = name.partition("@")
    folder = Path(name) if here else _fetch(key, hub, commit, besides)
    for file in sorted(folder.rglob("*")):
        if file.suffix in UNSAFE and not list(file.parent.glob("*.safetensors")):
            raise PaletteError(
                f"{key} '{name}' keeps weights in {file.relative_to(folder)}, which may run code when "
                "read; save them as safetensors"
            )
    return folder


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of each file at the top of a folder, by name."""
    files = [file for file in sorted(folder.iterdir()) if file.is_file()]
    return {file.name: _sha256(file) for file in files}


def require_same(name: str, known: Mapping[str, str]) -> None:
    """Make sure that a model's directory still is what stage `base` saw.

    Files up to SMALL bytes are read again: config, tokenizer and templates. Of weights that are
    larger the name is compared, since reading them would take as long as loading them.

    Args:
        known: file → sha256; empty for a hub id, which its commit pins.

    Raises:
        PaletteError: it is gone, or has changed.
    """
    folder = Path(name)
    if not known:
        return
    if not folder.is_dir():
        raise PaletteError(f"base.model '{name}' is no directory any more; put it back")
    found = {file.name: file for file in folder.iterdir() if file.is_file()}
    changed = set(found) ^ set(known)
    changed |= {
        file for file, path in found.items()
        if file in known and path.stat().st_size <= SMALL and _sha256(path) != known[file]
    }  # fmt: skip
    if changed:
        raise PaletteError(
            f"base.model '{name}' has changed since stage base ({min(changed)}); put it back, or run "
            "`dvc repro --force --single-item base`, and all that follows from it with the next run"
        )


def _sha256(file: Path) -> str:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def stamp(folder: Path) -> Stamp:
    """Differs where a file of the folder has changed; cheap, however large the files are."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found = [(file.relative_to(folder).as_posix(), file.stat()) for file in files]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in found)


def digest(folder: Path) -> str:
    """sha256 over the names and contents of a folder's files, read again only where they changed."""
    return _digest(folder.resolve(), stamp(folder))


@lru_cache
def _digest(folder: Path, _: Stamp) -> str:
    from palette.lm import models

    return models.digest(folder)


def _fetch(key: str, hub: str, commit: str, besides: str) -> Path:
    from huggingface_hub import snapshot_download

    unread = [f"*{suffix}" for suffix in UNSAFE]
    try:
        return Path(snapshot_download(
            hub, revision=commit, ignore_patterns=[*unread, "onnx/*", "openvino/*"],
        ))  # fmt: skip
    except Exception as error:  # no such model, no network, no right to it: each has its own kind
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise PaletteError(
            f"{key} '{hub}@{commit}' is no directory here and cannot be fetched as a hub id ({said}); "
            f"name a directory{besides}"
        ) from None
