"""What the rows of a history are compared by: the base's own embeddings, or a sentence encoder's."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from palette.errors import PaletteError
from palette.lm import hub
from palette.lm.activations import embed as embed_by_base
from palette.lm.models import LanguageModel, digest

BASE = "base"
LAYOUT = "modules.json"
"""What every folder of a sentence-transformers model holds."""


@dataclass(frozen=True)
class Embedder:
    """The base where there is no folder, else a sentence-transformers model."""

    folder: str | None
    digest: str
    """sha256 over the folder's files"""


def find(name: str) -> Embedder:
    """What `insights.embedder` names: base, a local directory, or owner/name@commit of a hub.

    The files of either decide what is stale.

    Raises:
        PaletteError: there is no such model, it is not pinned, or its weights are not safetensors.
    """
    if name == BASE:
        return Embedder(None, "")
    folder = hub.find("insights.embedder", name, ", or base")
    if not (folder / LAYOUT).is_file() or not list(folder.rglob("*.safetensors")):
        raise PaletteError(
            f"insights.embedder '{name}' must hold {LAYOUT} and *.safetensors; save it with "
            "sentence-transformers' save_pretrained"
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
