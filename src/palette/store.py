"""The store: finished work by the hash of what made it. Safe to delete; a team's may be a bucket.

What was made of one user's data alone lies in that user's own folder, and what was made of several
users' in one that is theirs together (`of`), so that a user can be forgotten.
"""

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
SHARED = "shared"
"""Folder of what was made of several users' data."""


def key(*parts: Any) -> str:
    """sha256 of the JSON of the parts: what made a thing, and nothing else."""
    text = json.dumps([FORMAT, *parts], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def of(name: str, *users: str) -> str:
    """The name of a bundle that was made of what these users said, and of nobody else's words.

    Args:
        name: a key.
        users: one of them has a folder of their own; more share one. Without any it is the key.
    """
    if not users:
        return name
    folder = folder_of(users[0]) if len(set(users)) == 1 else f"{SHARED}/{name[:2]}"
    return f"{folder}/{name}"


def folder_of(user: str) -> str:
    """Where the bundles of one user lie; a user's name is no path."""
    digest = hashlib.sha256(f"user {user}".encode()).hexdigest()
    return f"users/{digest[:2]}/{digest}"


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

    def get(self, name: str) -> dict[str, bytes]:
        """The files of a bundle that was there a moment ago.

        Raises:
            PaletteError: it is not there any more.
        """
        files = self.load(name)
        if files is None:
            raise PaletteError(f"runtime.store '{self.url}' was emptied meanwhile; run this again")
        return files

    def delete(self, name: str) -> None:
        """Forget a bundle; one that is not there is forgotten already."""
        with self._reaching("written to"), suppress(FileNotFoundError):
            self.filesystem.rm_file(self._path(name))

    def listed(self, folder: str) -> list[str]:
        """Files in a folder of the store, whole bundles or not."""
        with self._reaching("read"):
            place = f"{self.root}/{folder}"
            return self.filesystem.find(place) if self.filesystem.exists(place) else []

    def clear(self, folder: str) -> None:
        """Forget all bundles in a folder, unfinished ones too."""
        with self._reaching("written to"), suppress(FileNotFoundError):
            self.filesystem.rm(f"{self.root}/{folder}", recursive=True)

    @contextmanager
    def _reaching(self, done: str) -> Iterator[None]:
        """Every kind of file system fails with errors of its own: all of them become one sentence."""
        try:
            yield
        except Exception as error:
            said = " ".join(str(error).split()) or type(error).__name__
            raise PaletteError(f"runtime.store '{self.url}' cannot be {done}: {said}") from error

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}" if "/" in name else f"{self.root}/{name[:2]}/{name}"
