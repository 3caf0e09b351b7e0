"""Records of a file that someone else wrote, and their rows as text.

A record is mostly one row; a conversation, or a question with its user's profile, holds several. A
row that cannot be taken apart comes back as a fault with its content.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import polars as pl

AT_ONCE = 1 << 18
"""Rows that are read before they are handed on."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """A row that could not be taken apart."""

    reason: str
    content: Any
    sound: Record = field(default_factory=dict)
    """what could be read of it: column → value"""


@dataclass(frozen=True)
class Nested:
    """A record that holds several rows, such as a conversation."""

    columns: tuple[str, ...]
    """by which it is known; the first holds the rows"""
    gives: tuple[str, ...]
    """columns that its rows have and it needs not"""
    rows: Callable[[Record], Iterable[Record | Fault]]


@dataclass(frozen=True)
class Columns:
    """What a file must hold, and what it may hold; others are ignored."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    nested: tuple[Nested, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        return self.required + self.optional


def frame(records: Iterable[Record | Fault], columns: Columns, first: int = 0) -> pl.DataFrame:
    """Text columns, beside source_row, the number of the record, and fault and content (JSON).

    Args:
        first: the number of the first record.
    """
    made = list(frames(records, columns, first))
    return pl.concat(made) if made else pl.DataFrame(schema=_schema(columns))


def frames(
    records: Iterable[Record | Fault], columns: Columns, first: int = 0
) -> Iterator[pl.DataFrame]:
    """The same, some AT_ONCE rows after another."""
    rows: list[list[Any]] = []
    for number, record in enumerate(records, first):
        rows += [[number, *_row(row, columns.all)] for row in _unfolded(record, columns.nested)]
        if len(rows) >= AT_ONCE:
            yield pl.DataFrame(rows, schema=_schema(columns), orient="row")
            rows = []
    if rows:
        yield pl.DataFrame(rows, schema=_schema(columns), orient="row")


def _schema(columns: Columns) -> dict[str, Any]:
    texts = dict.fromkeys((*columns.all, "fault", "content"), pl.String)
    return {"source_row": pl.Int64, **texts}


def parsed(text: str) -> Any:
    """What a text says as JSON, or a fault."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return Fault("not a JSON object", text)


def _unfolded(record: Record | Fault, nested: tuple[Nested, ...]) -> Iterable[Record | Fault]:
    """The rows that a record holds; of most, itself alone."""
    if isinstance(record, Fault):
        return [record]
    for one in nested:
        name, held = one.columns[0], record.get(one.columns[0])
        if held in (None, ""):
            continue
        if isinstance(held, str):  # in a cell of a CSV file
            held = parsed(held)
        if not isinstance(held, list):
            return [Fault(f"{name} is not a list", record[name], record)]
        return one.rows(record | {name: held})
    return [record]


def _row(record: Record | Fault, names: tuple[str, ...]) -> list[str | None]:
    """A record as text and, if a cell holds no text or no Unicode, the fault and the record."""
    whole = record.sound if isinstance(record, Fault) else record
    cells = [_text(whole.get(name)) for name in names]
    sound = [None if isinstance(cell, Fault) else cell for cell in cells]
    if isinstance(record, Fault):
        return [*sound, record.reason, _json(record.content)]
    for name, cell in zip(names, cells, strict=True):
        if isinstance(cell, Fault):
            return [*sound, f"{name} {cell.reason}", _json(record)]
    return [*sound, None, None]


def _text(value: Any) -> str | Fault | None:
    if isinstance(value, dict | list):
        return Fault("is not text", value)
    if value is None or value != value:  # what pandas writes for nothing, NaN
        return None
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if _is_unicode(text) else Fault("is not valid Unicode", value)


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if _is_unicode(text) else json.dumps(value, default=str)  # escapes stray surrogates


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
