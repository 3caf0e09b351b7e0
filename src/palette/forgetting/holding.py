"""Whether a file holds a user: says so of Parquet by its columns, and of JSON by its strings."""

import io
import json
from collections.abc import Collection
from typing import IO

import polars as pl

MAGIC = b"PAR1"
LARGEST = 64 << 20
"""Bytes of the largest file that is looked at as JSON: no artifact of names is as long."""


def holds(file: IO[bytes], users: Collection[str]) -> bool:
    """Whether an artifact has a row of one of the users, or names one.

    Args:
        file: of an artifact, open at its beginning.
    """
    start = file.read(1)
    if start == b"P":
        content = start + file.read()
        return content.startswith(MAGIC) and _in_table(content, users)
    if start not in (b"{", b"["):
        return False
    text = start + file.read(LARGEST)
    return any(form in text for user in users for form in _quoted(user))


def mine(schema: pl.Schema | dict[str, pl.DataType], users: Collection[str]) -> pl.Expr | None:
    """Which rows of a table are users', by any column; None where no column could tell.

    A row as JSON (`content`) may be too broken to say whose it is: there an id may stand anywhere.
    """
    names, found = sorted(users), []
    for name, kind in schema.items():
        if kind == pl.String:
            found.append(pl.col(name).is_in(names))
        elif kind == pl.List(pl.String):
            found += [pl.col(name).list.contains(user) for user in names]
    if "content" in schema:
        told = {form for user in names for form in (user, json.dumps(user)[1:-1])}
        found += [pl.col("content").str.contains(form, literal=True) for form in sorted(told)]
    return pl.any_horizontal(found).fill_null(False) if found else None


def _in_table(content: bytes, users: Collection[str]) -> bool:
    try:
        table = pl.scan_parquet(io.BytesIO(content))
        rows = mine(table.collect_schema(), users)
        return rows is not None and bool(table.select(rows.any()).collect().item())
    except pl.exceptions.PolarsError:
        return False


def _quoted(user: str) -> set[bytes]:
    """An id as it ends a string in JSON: a group of one user has the id behind a word of its own."""
    return {json.dumps(user, ensure_ascii=plain)[1:].encode() for plain in (True, False)}
