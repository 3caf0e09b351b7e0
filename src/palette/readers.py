"""Reads rows that someone else wrote, Parquet, CSV or JSONL, as text, and never crashes on one.

Everything becomes text first, so that mixed types cannot fail; a row that cannot be taken apart
comes back as a fault with its content. What the rows mean is decided elsewhere.
"""

import csv
import difflib
import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from palette.errors import PaletteError


@dataclass(frozen=True)
class Fault:
    """A row that could not be taken apart."""

    reason: str
    content: Any


@dataclass(frozen=True)
class Columns:
    """What a file must hold, and what it may hold; others are ignored."""

    required: tuple[str, ...]
    optional: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        return self.required + self.optional


def read_rows(path: str | Path, columns: Columns) -> pl.DataFrame:
    """Rows of a file as text columns: those named, then fault and content (JSON), null if well.

    Raises:
        PaletteError: the file is missing, empty, of another format or lacks a column.
    """
    path = Path(path)
    readers = {
        ".parquet": _read_parquet,
        ".csv": _read_csv,
        ".jsonl": _read_jsonl,
        ".ndjson": _read_jsonl,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise PaletteError(f"{path} is none of {', '.join(readers)}: save it as one of these")
    if not path.is_file():
        raise PaletteError(f"{path} does not exist: name an existing file in params.yaml")
    if path.stat().st_size == 0:
        raise PaletteError(f"{path} is empty: it needs the columns {', '.join(columns.required)}")
    rows = reader(path, columns)
    if rows.is_empty():
        raise PaletteError(f"{path} has no rows: it needs at least one")
    return rows


def _read_parquet(path: Path, columns: Columns) -> pl.DataFrame:
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError):
        raise PaletteError(f"{path} is not a readable Parquet file: write it again") from None
    _check_columns(path, frame.columns, columns)
    frame = frame.select(name for name in columns.all if name in frame.columns)
    for name, kind in frame.schema.items():
        if kind.is_nested() or kind in (pl.Binary, pl.Object):
            raise PaletteError(f"{path} has a column '{name}' of {kind}: it must hold text")
    return frame.select(
        (pl.col(name).dt.to_string("iso") if frame.schema[name].is_temporal() else pl.col(name))
        .cast(pl.String)
        .alias(name)
        if name in frame.columns
        else pl.lit(None, pl.String).alias(name)
        for name in (*columns.all, "fault", "content")
    )


def _read_csv(path: Path, columns: Columns) -> pl.DataFrame:
    csv.field_size_limit(2**31 - 1)  # the default refuses a cell of 128 kB
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        lines = csv.reader(file, strict=True)
        first = next(_tolerant(path, lines), [])
        header = [] if isinstance(first, Fault) else [name.strip() for name in first]
        _check_columns(path, header, columns)
        return _frame((_record(header, line) for line in _tolerant(path, lines) if line), columns)


def _tolerant(path: Path, lines: Any) -> Iterator[list[str] | Fault]:
    """The lines of a CSV reader, going on after one with a broken quote."""
    while True:
        first = lines.line_num + 1
        try:
            yield next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            if "end of data" in str(error):  # the quote swallowed every row from there on
                raise PaletteError(f"{path}, line {first}, opens a quote: close it") from None
            yield Fault("a quote is broken", f"line {first}: {error}")


def _record(header: list[str], line: list[str] | Fault) -> dict[str, Any] | Fault:
    if isinstance(line, Fault):
        return line
    if len(line) == len(header):
        return dict(zip(header, line, strict=True))
    return Fault(f"{len(line)} fields, but the header has {len(header)}", line)


def _read_jsonl(path: Path, columns: Columns) -> pl.DataFrame:
    with path.open("rb") as file:  # bytes: only a newline ends a line, not U+2028
        lines = (line.decode("utf-8-sig", "surrogateescape").strip() for line in file)
        records = [_object(line) for line in lines if line]
    keys = {name: None for record in records if isinstance(record, dict) for name in record}
    if not keys:
        raise PaletteError(f"{path} holds no JSON object: write one on each line")
    _check_columns(path, keys, columns)
    return _frame(records, columns)


def _object(line: str) -> dict[str, Any] | Fault:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else Fault("not a JSON object", line)


def _check_columns(path: Path, found: Collection[str], columns: Columns) -> None:
    others = [name for name in found if name not in columns.all]
    for name in columns.all:
        if list(found).count(name) > 1:
            raise PaletteError(f"{path} has two columns '{name}': keep one")
        required = name in columns.required
        # A misspelt optional column would be ignored in silence, so a near miss is refused too.
        near = difflib.get_close_matches(name, others, n=1, cutoff=0.6 if required else 0.85)
        if name not in found and (required or near):
            cure = f"rename '{near[0]}'" if near else f"it has {', '.join(map(repr, found))}"
            raise PaletteError(f"{path} has no column '{name}': {cure}")


def _frame(records: Iterable[dict[str, Any] | Fault], columns: Columns) -> pl.DataFrame:
    schema = dict.fromkeys((*columns.all, "fault", "content"), pl.String)
    rows = [_row(record, columns.all) for record in records]
    return pl.DataFrame(rows, schema=schema, orient="row")


def _row(record: dict[str, Any] | Fault, names: tuple[str, ...]) -> list[str | None]:
    """A record as text and, if a cell holds no text or no Unicode, the fault and the record."""
    if isinstance(record, Fault):
        return [None] * len(names) + [record.reason, _json(record.content)]
    cells = [_text(record.get(name)) for name in names]
    faults = [cell for cell in cells if isinstance(cell, Fault)]
    sound = [None if isinstance(cell, Fault) else cell for cell in cells]
    if not faults:
        return [*sound, None, None]
    reason = f"{names[cells.index(faults[0])]} {faults[0].reason}"
    return [*sound, reason, _json(record)]


def _text(value: Any) -> str | Fault | None:
    if isinstance(value, dict | list):
        return Fault("is not text", value)
    text = value if isinstance(value, str | None) else json.dumps(value)
    return text if text is None or _is_unicode(text) else Fault("is not valid Unicode", value)


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if _is_unicode(text) else json.dumps(value)  # which escapes stray surrogates


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
