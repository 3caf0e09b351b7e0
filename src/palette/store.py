"""The store: finished work by the hash of what made it. Safe to delete; a team's may be a bucket."""

import hashlib
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import fsspec

from palette.errors import PaletteError

FORMAT = 1
"""Raised when what a key stands for changes."""


def key(*parts: Any) -> str:
    """sha256 of the JSON of the parts: what made a thing, and nothing else."""
    text = json.dumps([FORMAT, *parts], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Store:
    """Named bundles of files under an fsspec URL.

    A bundle is one file (a length-prefixed JSON index, then the contents), moved into place when it
    is whole: a half-written one is never found.

    Raises:
        PaletteError: no file system serves the URL, or it cannot be read or written to.
    """

    def __init__(self, url: str):
        self.url = url
        try:
            self.filesystem, self.root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise PaletteError(f"runtime.store '{url}' cannot be used: {error}") from None

    def has(self, name: str) -> bool:
        with self._reaching("read"):
            return self.filesystem.exists(self._path(name))

    def save(self, name: str, files: dict[str, bytes]) -> None:
        path = self._path(name)
        index = json.dumps({file: len(content) for file, content in files.items()}).encode()
        # A name of its own: two writers of one bundle must not write into one file.
        temporary = f"{path}.{uuid.uuid4().hex}.part"
        with self._reaching("written to"):
            self.filesystem.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            with self.filesystem.open(temporary, "wb") as out:
                out.write(len(index).to_bytes(8, "big") + index + b"".join(files.values()))
            self.filesystem.mv(temporary, path)

    def load(self, name: str) -> dict[str, bytes] | None:
        """The files of a bundle, or None where there is none."""
        with self._reaching("read"):
            try:
                with self.filesystem.open(self._path(name), "rb") as source:
                    content = source.read()
            except FileNotFoundError:
                return None
        start = 8 + int.from_bytes(content[:8], "big")
        files = {}
        for file, length in json.loads(content[8:start]).items():
            files[file] = content[start : start + length]
            start += length
        return files

    def delete(self, name: str) -> None:
        """Forget a bundle; one that is not there is forgotten already."""
        with self._reaching("written to"), suppress(FileNotFoundError):
            self.filesystem.rm_file(self._path(name))

    @contextmanager
    def _reaching(self, done: str) -> Iterator[None]:
        """Every kind of file system fails with errors of its own: all of them become one sentence."""
        try:
            yield
        except Exception as error:
            said = " ".join(str(error).split()) or type(error).__name__
            raise PaletteError(f"runtime.store '{self.url}' cannot be {done}: {said}") from error

    def _path(self, name: str) -> str:
        return f"{self.root}/{name[:2]}/{name}"
