"""Models beside the base: a local directory, or a hub's owner/name@commit; safetensors alone."""

import re
from functools import lru_cache
from pathlib import Path

from palette.errors import PaletteError

COMMIT = re.compile("[0-9a-f]{40}")
UNSAFE = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack", ".ot", ".onnx")
"""Weights that are no safetensors: never read, never downloaded."""

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
