"""Who is forgotten: a list that git tracks, of hashes, by which stage `users` drops their rows.

`palette users forget` writes it. Ids are not in it, but whoever guesses one can see whether it is.
"""

import hashlib
import re
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from palette.errors import PaletteError

FILE = Path("inputs/users/forgotten.txt")
HEADER = (
    "# Users who are forgotten, as sha256 of a salt and the id; stage `users` drops their rows.\n"
    "# `palette users forget` writes this file. Without a user's line the user may come back.\n"
)
LINE = re.compile(r"(salt )?[0-9a-f]{64}")


@dataclass(frozen=True)
class Forgotten:
    """Salted hashes of ids. A list that was merged from two has two salts."""

    hashes: dict[str, frozenset[str]]
    """salt → hashes"""

    def __bool__(self) -> bool:
        return any(self.hashes.values())

    def __contains__(self, user: str) -> bool:
        return any(_hash(salt, user) in own for salt, own in self.hashes.items())

    def among(self, users: Iterable[str]) -> list[str]:
        """Those of some users who are forgotten."""
        return [user for user in users if user in self] if self else []


NOBODY = Forgotten({})


def read(file: Path = FILE) -> Forgotten:
    """The list; empty where there is no file.

    Raises:
        PaletteError: it has a line that is no hash: dropping nobody in silence would bring users back.
    """
    if not file.exists():
        return NOBODY
    salt, found = "", dict[str, set[str]]()
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if not LINE.fullmatch(line) or not (salt or line.startswith("salt ")):
            raise PaletteError(f"{file}, line {number}, is no hash of a user: take it out")
        if line.startswith("salt "):
            salt = line.removeprefix("salt ")
            found.setdefault(salt, set())
        else:
            found[salt].add(line)
    return Forgotten({salt: frozenset(own) for salt, own in found.items()})


def line(user: str, file: Path = FILE) -> int | None:
    """The number of a user's line, from 1; None for a user who is not on the list."""
    gone = read(file)
    if user not in gone:
        return None
    told = {_hash(salt, user) for salt in gone.hashes}
    lines = file.read_text(encoding="utf-8").splitlines()
    return next(number for number, text in enumerate(lines, 1) if text.strip() in told)


def add(users: Collection[str], file: Path = FILE) -> list[str]:
    """Put users on the list, whole or not at all; hands back those who were not on it."""
    known = read(file)
    new = [user for user in dict.fromkeys(users) if user not in known]
    if not new:
        return []
    text = file.read_text(encoding="utf-8") if file.exists() else HEADER
    salts = re.findall(r"^salt ([0-9a-f]{64})$", text, re.M)
    salt = salts[-1] if salts else secrets.token_hex(32)
    if not salts:
        text += f"salt {salt}\n"
    if not text.endswith("\n"):
        text += "\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(text + "".join(f"{_hash(salt, user)}\n" for user in new), encoding="utf-8")
    part.replace(file)
    return new


def _hash(salt: str, user: str) -> str:
    return hashlib.sha256(bytes.fromhex(salt) + user.encode()).hexdigest()
