"""Searches every file of a folder for words, also in what is packed, compressed or encoded."""

import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import polars as pl


def files_with(folder: Path, words: Iterable[str]) -> list[str]:
    """The files under a folder that hold one of the words in their path or content."""
    forms = {form.encode() for word in words for form in (word, json.dumps(word)[1:-1])}
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
        and any(form in text for form in forms
                for text in (str(path.relative_to(folder)).encode(), *readings(path.read_bytes())))
    )  # fmt: skip


def readings(content: bytes) -> Iterator[bytes]:
    """A content as it is, and whatever is in it."""
    yield content
    if content[:4] == b"PAR1":
        yield pl.read_parquet(io.BytesIO(content)).write_json().encode()
    elif content[:2] == b"\x1f\x8b":
        yield from readings(gzip.decompress(content))
    elif content[:1] == b"\x78":  # git's objects
        with suppress(zlib.error):
            yield zlib.decompress(content)
    elif content[:2] == b"PK":
        packed = zipfile.ZipFile(io.BytesIO(content))
        for name in packed.namelist():
            yield from readings(packed.read(name))
    else:
        for part in bundle(content):  # a bundle of the store may hold tables
            if part[:4] == b"PAR1":
                yield from readings(part)


def bundle(content: bytes) -> list[bytes]:
    """The files in a bundle of the store; none of another file."""
    start = 8 + int.from_bytes(content[:8], "big")
    if not 8 < start <= len(content):
        return []
    try:
        index = json.loads(content[8:start])
    except ValueError:
        return []
    parts = []
    for length in index.values() if isinstance(index, dict) else ():
        if not isinstance(length, int):  # the header of a safetensors file, which is JSON as it is
            return []
        parts.append(content[start : start + length])
        start += length
    return parts
