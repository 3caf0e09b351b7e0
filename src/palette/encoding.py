"""The encoding of a text file that someone else wrote, and reading it without losing a byte."""

import codecs
import json
from pathlib import Path
from typing import IO

LEGACY = "cp1252"
"""Windows-1252; in text it holds all of Latin-1."""
ERRORS = "palette.escape"
CHUNK = 1 << 20


def find(path: Path) -> str:
    """The name of a file's encoding, for Python.

    UTF-16 and UTF-32 are told by their first bytes. All else is UTF-8, unless more of what is
    beyond ASCII fails as UTF-8 than can be read as such: then it is Windows-1252.
    """
    with path.open("rb") as file:
        told = json.detect_encoding(file.read(4))
        if not told.startswith("utf-8"):
            return told
        file.seek(0)
        decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        sound = broken = 0
        while chunk := file.read(CHUNK):
            text = decoder.decode(chunk)
            if not text.isascii():
                bad = len(text) - len(text.encode("utf-8", "ignore").decode("utf-8"))
                sound += len(text) - len(text.encode("ascii", "ignore")) - bad
                broken += bad
        broken += len(decoder.decode(b"", final=True))
    return LEGACY if broken > sound else "utf-8-sig"


def warning(path: Path, encoding: str) -> str | None:
    """A sentence on an encoding that was guessed from the bytes beyond ASCII."""
    if encoding != LEGACY:
        return None
    return f"{path} is not UTF-8 and was read as Windows-1252: save it as UTF-8 if words look wrong"


def open_text(path: Path, encoding: str, newline: str) -> IO[str]:
    """The file as text; each byte that its encoding has no character for is a lone surrogate."""
    return path.open(encoding=encoding, errors=ERRORS, newline=newline)


def _escape(error: UnicodeError) -> tuple[str, int]:
    """Any codec's undecodable bytes as lone surrogates; Python's own way knows UTF-8 alone."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    bad = error.object[error.start : error.end]
    return "".join(chr(0xDC00 + byte) for byte in bad), error.end


codecs.register_error(ERRORS, _escape)
