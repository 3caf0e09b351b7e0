"""Takes users' records out of files that someone else wrote; of all others no byte changes.

In JSON files, which are one list, the others are written anew, with the same values.
"""

import codecs
import csv
import json
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from palette import encoding, lamp
from palette.errors import PaletteError
from palette.forgetting import Step
from palette.records import Fault, parsed

FOLDERS = (Path("inputs/users"), Path("inputs/routes"))
SUFFIXES = (".parquet", ".csv", ".jsonl", ".ndjson", ".json")
NAMES = ("user_id", "id")
"""Columns that name the user; the second only where there is none of the first (LaMP)."""


def files(named: Collection[str | None]) -> list[Path]:
    """Files that may hold rows of users: those in FOLDERS, and those that params.yaml names."""
    found = {Path(name) for name in named if name}
    found |= {path for folder in FOLDERS for path in folder.rglob("*") if path.is_file()}
    return sorted(path for path in found if path.suffix.lower() in SUFFIXES and path.exists())


def steps(paths: Collection[Path], users: Collection[str]) -> Iterator[Step]:
    """A step for each file that holds users.

    Raises:
        PaletteError: a file cannot be taken apart, so that nobody could be found in it.
    """
    gone = frozenset(users)
    for path in paths:
        if count := rewritten(path, gone, None):
            yield Step(str(path), f"{count:,} records", partial(_rewrite, path, gone))


def rewritten(path: Path, users: frozenset[str], target: Path | None) -> int:
    """Write a file without some users' records, if a target is given; the number of their records."""
    kind = path.suffix.lower()
    if kind == ".parquet":
        return _parquet(path, users, target)
    found = encoding.find(path)
    if kind == ".json" and (content := _list(path, found)) is not None:
        return _json(path, found, content, users, target)
    if found not in ("utf-8-sig", encoding.LEGACY):
        raise PaletteError(
            f"{path} is in {found}: save it as UTF-8, so that lines can be taken out"
        )
    pieces = _csv_records(path, found) if kind == ".csv" else _lines(path, found)
    count, out = 0, target.open("wb") if target else None
    for raw, record in pieces:
        if _is_of(record, users):
            count += 1
        elif out:
            out.write(raw)
    if out:
        out.close()
    return count


def _rewrite(path: Path, users: frozenset[str]) -> None:
    path = path.resolve()  # what a link names is the file
    part = path.with_name(f"{path.name}.part")
    rewritten(path, users, part)
    part.chmod(path.stat().st_mode)
    part.replace(path)


def _is_of(record: Any, users: frozenset[str]) -> bool:
    """Whether a record is one of these users', or is broken and names one."""
    if isinstance(record, dict):
        name = lamp.user(record)
        if name is not None:
            return (name if isinstance(name, str) else json.dumps(name, default=str)) in users
    if isinstance(record, list):
        return any(cell in users for cell in record)
    if isinstance(record, Fault):
        return any(user in str(record.content) for user in users)
    return False


def _parquet(path: Path, users: frozenset[str], target: Path | None) -> int:
    try:
        table = pl.scan_parquet(path)
        names = table.collect_schema().names()
    except (pl.exceptions.PolarsError, OSError):
        raise PaletteError(f"{path} is not a readable Parquet file: write it again") from None
    own = [pl.col(name).cast(pl.String) for name in NAMES if name in names]
    if not own:
        return 0
    mine = pl.coalesce(own).is_in(sorted(users)).fill_null(False)
    if target:
        table.filter(~mine).sink_parquet(target)
    return table.select(mine.sum()).collect().item()


def _list(path: Path, found: str) -> Any:
    """The content of a JSON file that is a list, or holds one; None of other files."""
    with encoding.open_text(path, found, newline="") as file:
        content = parsed(file.read())
    whole = isinstance(content, dict) and isinstance(content.get("golds"), list)
    return content if whole or isinstance(content, list) else None


def _json(path: Path, found: str, content: Any, users: frozenset[str], target: Path | None) -> int:
    rows = content["golds"] if isinstance(content, dict) else content
    kept = [row for row in rows if not _is_of(row, users)]
    if target:
        left = content | {"golds": kept} if isinstance(content, dict) else kept
        ascii_only = "\\u" in path.read_text(encoding=found, errors=encoding.ERRORS)
        text = json.dumps(left, ensure_ascii=ascii_only, indent=1)
        with path.open("rb") as file:
            marked = file.read(3) == codecs.BOM_UTF8
        target.write_text(text + "\n", encoding=found if marked else found.removesuffix("-sig"))
    return len(rows) - len(kept)


def _lines(path: Path, found: str) -> Iterator[tuple[bytes, Any]]:
    with path.open("rb") as file:
        for raw in file:
            text = raw.decode(found, encoding.ERRORS).strip()
            yield raw, parsed(text) if text else None


def _csv_records(path: Path, found: str) -> Iterator[tuple[bytes, Any]]:
    """The bytes of each record, and what it says: as an object, or a list where cells are missing."""
    taken: list[bytes] = []
    csv.field_size_limit(2**31 - 1)
    lines = csv.reader(_texts(path, found, taken), strict=True)
    header: list[str] | None = None
    while True:
        try:
            cells: list[str] | Fault = next(lines)
        except StopIteration:
            break
        except csv.Error as error:
            if "end of data" in str(error):
                raise PaletteError(f"{path} opens a quote and never closes it: close it") from None
            cells = Fault("a quote is broken", b"".join(taken).decode(found, encoding.ERRORS))
        raw, record = b"".join(taken), cells
        taken.clear()
        if header is None:
            header = [] if isinstance(cells, Fault) else [name.strip() for name in cells]
            yield raw, None
        elif isinstance(record, list) and len(record) == len(header):
            yield raw, dict(zip(header, record, strict=True))
        else:
            yield raw, record
    if taken:
        yield b"".join(taken), None


def _texts(path: Path, found: str, taken: list[bytes]) -> Iterator[str]:
    """Lines as Python's csv reads them; the bytes of those that it took since it was last asked."""
    with path.open("rb") as file:
        for line in file:
            for raw in line.splitlines(keepends=True):
                taken.append(raw)
                yield raw.decode(found, encoding.ERRORS)
