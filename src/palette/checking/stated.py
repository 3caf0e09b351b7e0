"""What portfolio.json states, and a ledger of where that differs from what was found."""

import hashlib
import json
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from palette.checking.shape import Portfolio, look_at
from palette.checking.sources import read_json

EXACT = 1e-6  # two ways of adding up the same floats differ by less


@dataclass(frozen=True)
class Stated:
    """The file, its parts at hand as arrays."""

    content: dict[str, Any]
    """members by their id, everything else as it stands"""
    traits: list[str]
    floor: np.ndarray
    """(d,)"""
    cells: dict[str, tuple[str, np.ndarray]]
    """key → (member, corners (V, d))"""
    digest: str
    """of the content as it was read"""

    @property
    def members(self) -> list[str]:
        return list(self.content["members"])

    @property
    def pairs(self) -> tuple[np.ndarray, list[str]]:
        """Every (corner, member routed there): weights (P, d) and names."""
        parts = self.cells.values()
        names = [member for member, corners in parts for _ in corners]
        return np.concatenate([corners for _, corners in parts]), names

    def weights(self, of: dict[str, float]) -> np.ndarray:
        """(d,): numbers by trait in the order of the traits."""
        return np.array([of[trait] for trait in self.traits], dtype=float)


def read_stated(file: Path) -> Stated:
    """Raises PaletteError where the file is missing or is not a portfolio.json."""
    content = read_json(file)
    look_at(Portfolio, content, file)
    found = digest(content)
    content["members"] = {member["id"]: member for member in content["members"]}
    traits = content["traits"]

    def weights(of: dict[str, float]) -> np.ndarray:
        return np.array([of[trait] for trait in traits], dtype=float)

    cells = {
        f"cells.{place}": (cell["member"], np.stack(list(map(weights, cell["vertices"]))))
        for place, cell in enumerate(content["cells"])
    }
    return Stated(content, traits, weights(content["region"]), cells, found)


def digest(content: dict[str, Any]) -> str:
    """sha256 of the canonical JSON of everything but the digest itself: any edit changes it.

    It is no signature: who edits a number can make a new digest as well. Then only those numbers
    are caught that follow from the tables.
    """
    rest = {key: value for key, value in content.items() if key != "digest"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Difference:
    key: str
    """where in the file, with dots"""
    stated: str
    found: str


@dataclass
class Ledger:
    """Compares stated numbers with found ones, and keeps those that differ."""

    content: dict[str, Any]
    differences: list[Difference] = field(default_factory=list)
    compared: int = 0

    def same(self, key: tuple[str, ...], found: Any) -> None:
        """Texts, counts, truths and lists must be equal."""
        stated, there = self._look_up(key)
        self._note(key, stated, there, there and stated == found, str(found))

    def close(self, key: tuple[str, ...], found: float | None, slack: float = EXACT) -> None:
        """A number must be the same to `slack`; one that is infinite or None is null."""
        found = None if found is None or not isfinite(found) else float(found)
        stated, there = self._look_up(key)
        if stated is None or found is None:
            agrees = stated is found
        else:
            agrees = _is_number(stated) and abs(stated - found) <= slack
        self._note(key, stated, there, agrees, _shown(found))

    def between(self, key: tuple[str, ...], low: float, high: float) -> None:
        """A number must lie in an interval; null counts as infinite."""
        stated, there = self._look_up(key)
        number = np.inf if stated is None else stated
        agrees = _is_number(number) and low - EXACT <= number <= high + EXACT
        self._note(key, stated, there, agrees, f"{_shown(low)} to {_shown(high)}")

    def differ(self, key: str, stated: str, found: str, differs: bool = True) -> None:
        """What is no single number of the file."""
        self.compared += 1
        if differs:
            self.differences.append(Difference(key, stated, found))

    def _look_up(self, key: tuple[str, ...]) -> tuple[Any, bool]:
        part = self.content
        for name in key:
            if not isinstance(part, dict) or name not in part:
                return None, False
            part = part[name]
        return part, True

    def _note(
        self, key: tuple[str, ...], stated: Any, there: bool, agrees: bool, found: str
    ) -> None:
        told = _shown(stated) if there else "missing"
        self.differ(".".join(key), told, found, not (there and agrees))


def _is_number(stated: Any) -> bool:
    return isinstance(stated, int | float) and not isinstance(stated, bool)


def _shown(number: Any) -> str:
    if number is None or (_is_number(number) and not isfinite(number)):
        return "null"
    return f"{number:.7g}" if _is_number(number) else str(number)
