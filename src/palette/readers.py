"""Reads rows that someone else wrote, Parquet, CSV, JSONL or JSON, as text, and never crashes on one.

Everything becomes text first, so that mixed types cannot fail; a row that cannot be taken apart
comes back as a fault with its content. What the rows mean is decided elsewhere.
"""

import csv
import difflib
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from palette import encoding
from palette.errors import PaletteError
from palette.records import AT_ONCE, Columns, Fault, Nested, Record, frame, frames, parsed


def read_rows(path: str | Path, columns: Columns) -> pl.DataFrame:
    """Rows of a file as text columns: those named, then fault and content (JSON), null if well.

    Before them stands source_row, the number of the record in the file that the row is from.

    Raises:
        PaletteError: the file is missing, empty, of another format or lacks a column.
    """
    return pl.concat(read_batches(path, columns), rechunk=True)


def read_batches(path: str | Path, columns: Columns) -> Iterator[pl.DataFrame]:
    """The same, some AT_ONCE rows after another; only a JSON list is held as a whole.

    Raises:
        PaletteError: as `read_rows`, when the first are asked for; a broken quote at the end of a CSV
            file is found there.
    """
    path = Path(path)
    readers = {
        ".parquet": _read_parquet,
        ".csv": _read_csv,
        ".jsonl": _read_jsonl,
        ".ndjson": _read_jsonl,
        ".json": _read_json,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise PaletteError(f"{path} is none of {', '.join(readers)}: save it as one of these")
    if not path.is_file():
        raise PaletteError(f"{path} does not exist: name an existing file")
    if path.stat().st_size == 0:
        raise PaletteError(f"{path} is empty: it needs the columns {', '.join(columns.required)}")
    empty = True
    for rows in reader(path, columns):
        if len(rows):
            empty = False
            yield rows
    if empty:
        raise PaletteError(f"{path} has no rows: it needs at least one")


def _read_parquet(path: Path, columns: Columns) -> Iterator[pl.DataFrame]:
    try:
        table = pl.scan_parquet(path)
        schema, count = table.collect_schema(), table.select(pl.len()).collect().item()
    except (pl.exceptions.PolarsError, OSError):
        raise PaletteError(f"{path} is not a readable Parquet file: write it again") from None
    nested = _check_columns(path, schema.names(), columns)
    holding = {name for one in nested for name in one.columns}
    kinds = {name: schema[name] for name in schema if name in {*columns.all, *holding}}
    for name, kind in kinds.items():
        if name not in holding and (kind.is_nested() or kind in (pl.Binary, pl.Object)):
            raise PaletteError(f"{path} has a column '{name}' of {kind}: it must hold text")
    texts = [_as_text(name, kind) for name, kind in kinds.items() if not kind.is_nested()]
    absent = [name for name in (*columns.all, "fault", "content") if name not in kinds]
    for start in range(0, count, AT_ONCE):
        try:
            part = table.select(list(kinds)).slice(start, AT_ONCE).collect()
        except (pl.exceptions.PolarsError, OSError):
            raise PaletteError(f"{path} is not a readable Parquet file: write it again") from None
        part = part.with_columns(texts)
        if nested:
            yield frame(part.iter_rows(named=True), columns, start)
            continue
        part = part.with_columns(pl.lit(None, pl.String).alias(name) for name in absent)
        number = pl.int_range(start, start + pl.len(), dtype=pl.Int64).alias("source_row")
        yield part.select(number, *columns.all, "fault", "content")


def _as_text(name: str, kind: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if kind.is_temporal():
        return column.dt.to_string("iso").alias(name)
    return (column.fill_nan(None) if kind.is_float() else column).cast(pl.String)


def _read_csv(path: Path, columns: Columns) -> Iterator[pl.DataFrame]:
    csv.field_size_limit(2**31 - 1)  # the default refuses a cell of 128 kB
    with encoding.open_text(path, _encoding(path), newline="") as file:
        lines = csv.reader(file, strict=True)
        first = next(_tolerant(path, lines), [])
        header = [] if isinstance(first, Fault) else [name.strip() for name in first]
        _check_columns(path, header, columns)
        yield from frames(
            (_record(header, line) for line in _tolerant(path, lines) if line), columns
        )


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


def _record(header: list[str], line: list[str] | Fault) -> Record | Fault:
    if isinstance(line, Fault):
        return line
    if len(line) == len(header):
        return dict(zip(header, line, strict=True))
    return Fault(f"{len(line)} fields, but the header has {len(header)}", line)


def _read_jsonl(path: Path, columns: Columns) -> Iterator[pl.DataFrame]:
    # Only a newline ends a line, not U+2028. Which columns there are is known at the end alone.
    keys: dict[str, None] = {}
    with encoding.open_text(path, _encoding(path), newline="\n") as file:
        for line in file:
            if line.strip() and isinstance(one := parsed(line.strip()), dict):
                keys |= dict.fromkeys(one)
        _check_objects(path, keys, columns)
        file.seek(0)
        found = (_object(parsed(line.strip())) for line in file if line.strip())
        yield from frames(found, columns)


def _read_json(path: Path, columns: Columns) -> Iterator[pl.DataFrame]:
    """A list of objects, also under the name `golds`; or lines of JSON by another name."""
    with encoding.open_text(path, _encoding(path), newline="") as file:
        found = parsed(file.read())
    if isinstance(found, dict) and isinstance(found.get("golds"), list):
        found = found["golds"]
    if not isinstance(found, list):
        yield from _read_jsonl(path, columns)
        return
    records = [_object(one) for one in found]
    keys = {name: None for record in records if isinstance(record, dict) for name in record}
    _check_objects(path, keys, columns)
    yield from frames(records, columns)


def _object(found: Any) -> Record | Fault:
    return found if isinstance(found, dict | Fault) else Fault("not a JSON object", found)


def _check_objects(path: Path, keys: Collection[str], columns: Columns) -> None:
    if not keys:
        raise PaletteError(f"{path} holds no JSON object: write one for each row")
    _check_columns(path, keys, columns)


def _encoding(path: Path) -> str:
    found = encoding.find(path)
    if warning := encoding.warning(path, found):
        print(f"palette: {warning}", file=sys.stderr, flush=True)
    return found


def _check_columns(path: Path, found: Collection[str], columns: Columns) -> list[Nested]:
    """The kinds of nested records that the file has the columns of."""
    nested = [one for one in columns.nested if set(one.columns) <= set(found)]
    given = {name for one in nested for name in one.gives}
    others = [name for name in found if name not in columns.all]
    for name in columns.all:
        if list(found).count(name) > 1:
            raise PaletteError(f"{path} has two columns '{name}': keep one")
        required = name in columns.required and name not in given
        # A misspelt optional column would be ignored in silence, so a near miss is refused too.
        near = difflib.get_close_matches(name, others, n=1, cutoff=0.6 if required else 0.85)
        if name not in found and (required or near):
            cure = f"rename '{near[0]}'" if near else f"it has {', '.join(map(repr, found))}"
            raise PaletteError(f"{path} has no column '{name}': {cure}")
    return nested
