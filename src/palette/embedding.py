"""What the rows of a history are compared by: the base's own embeddings, or a sentence encoder's."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from palette.errors import PaletteError
from palette.lm.activations import embed as embed_by_base
from palette.lm.models import LanguageModel, digest

BASE = "base"
LAYOUT = "modules.json"
"""What every folder of a sentence-transformers model holds."""
COMMIT = re.compile("[0-9a-f]{40}")
UNSAFE = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack", ".ot", ".onnx")
"""Weights that are no safetensors: never read, never downloaded."""


@dataclass(frozen=True)
class Embedder:
    """The base where there is no folder, else a sentence-transformers model."""

    folder: str | None
    digest: str
    """sha256 over the folder's files"""


def find(name: str) -> Embedder:
    """What `insights.embedder` names: base, a local directory, or owner/name@commit of a hub.

    What a hub has is fetched to this machine's cache, where it is not there yet, and its files
    decide what is stale from then on as a directory's do. A branch or a tag can come to mean other
    files: only a commit is taken.

    Raises:
        PaletteError: there is no such model, it is not pinned, or its weights are not safetensors.
    """
    if name == BASE:
        return Embedder(None, "")
    folder = Path(name)
    if not folder.is_dir():
        hub, _, commit = name.partition("@")
        if hub.count("/") != 1 or hub.startswith((".", "/", "~")):
            raise PaletteError(
                f"insights.embedder '{name}' is not a directory; name one, a hub's "
                "owner/name@commit, or base"
            )
        if not COMMIT.fullmatch(commit):
            raise PaletteError(
                f"insights.embedder '{name}' is a hub id: pin it to a commit, as "
                f"{hub}@ and the 40 digits of its hash"
            )
        folder = _fetch(hub, commit)
    if not (folder / LAYOUT).is_file() or not list(folder.rglob("*.safetensors")):
        raise PaletteError(
            f"insights.embedder '{name}' must hold {LAYOUT} and *.safetensors; save it with "
            "sentence-transformers' save_pretrained"
        )
    for file in sorted(folder.rglob("*")):
        if file.suffix in UNSAFE and not list(file.parent.glob("*.safetensors")):
            raise PaletteError(
                f"insights.embedder '{name}' keeps weights in {file.relative_to(folder)}, which "
                "may run code when read; save them as safetensors"
            )
    return Embedder(str(folder), digest(folder))


def embed(embedder: Embedder, lm: LanguageModel, texts: Sequence[str]) -> np.ndarray:
    """(texts, hidden) float32, one embedding per text.

    Raises:
        PaletteError: the folder's model cannot be loaded.
    """
    if embedder.folder is None:
        return embed_by_base(lm, texts).numpy()
    model = _load(embedder, str(lm.device))
    return model.encode(list(texts), show_progress_bar=False, convert_to_numpy=True)


def _fetch(hub: str, commit: str) -> Path:
    from huggingface_hub import snapshot_download

    unread = [f"*{suffix}" for suffix in UNSAFE]
    try:
        return Path(snapshot_download(
            hub, revision=commit, ignore_patterns=[*unread, "onnx/*", "openvino/*"],
        ))  # fmt: skip
    except Exception as error:  # no such model, no network, no right to it: each has its own kind
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise PaletteError(
            f"insights.embedder '{hub}@{commit}' is no directory here and cannot be fetched as a hub id "
            f"({said}); name a directory, or base"
        ) from None


@lru_cache(maxsize=1)
def _load(embedder: Embedder, device: str) -> Any:
    """Loaded once in each worker process; again where the folder has become another model."""
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(
            embedder.folder, device=device, trust_remote_code=False, local_files_only=True,
            model_kwargs={"use_safetensors": True},
        )  # fmt: skip
    except Exception as error:  # of whatever kind the libraries raise on a file that is damaged
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise PaletteError(
            f"insights.embedder cannot be loaded from {embedder.folder}: {said}; name another"
        ) from None
