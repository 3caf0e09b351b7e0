"""Users' histories: keeps the valid rows of a file and says of every other why it was dropped.

A bad row is lost alone: its user and the user's other rows stay.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl

from palette.errors import PaletteError
from palette.readers import Columns, read_rows

COLUMNS = Columns(("user_id", "prompt", "response"), ("rating", "timestamp", "public"))
PUBLIC = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Validated:
    """Tables of palette.tables. Each row of the input is in `histories`, or names a user without
    prompt and response and so registers one without history, or is in `rejected`."""

    users: pl.DataFrame
    histories: pl.DataFrame
    rejected: pl.DataFrame


def read_histories(path: str | Path) -> pl.DataFrame:
    """Rows of a histories file as text, for `validate`.

    Raises:
        PaletteError: the file is missing, empty, of another format or lacks a column.
    """
    return read_rows(path, COLUMNS)


def validate(rows: pl.DataFrame, unseen: float) -> Validated:
    """Sort rows into valid and rejected ones, and list the users.

    Args:
        rows: text columns user_id, prompt, response, rating, timestamp, public, null where nothing
            was said, and fault and content where a reader set them (see palette.readers).
        unseen: share of users, by a hash of their id, who take no part in any estimate.

    Raises:
        PaletteError: not one row names a user.
    """
    rows = _judge(_complete(rows))
    named = rows.filter(pl.col("user_id").is_not_null() & ~_null_byte("user_id"))
    if named.is_empty():
        why = f"the first, since {rows['reason'][0]}" if rows.height else "there are none"
        raise PaletteError(f"no history row of {rows.height} can be used: {why}")
    return Validated(_users(named, unseen), _histories(rows), _rejected(rows))


def cohort(user_id: str, unseen: float) -> str:
    """seen | unseen, by the id alone, so that a user who comes or goes moves no other."""
    digest = hashlib.sha256(f"cohort {user_id}".encode()).digest()
    return "unseen" if int.from_bytes(digest[:8], "big") / 2**64 < unseen else "seen"


def _complete(rows: pl.DataFrame) -> pl.DataFrame:
    """All columns, with a blank cell as null and with source_row."""
    names = (*COLUMNS.all, "fault", "content")
    absent = [pl.lit(None, pl.String).alias(name) for name in names if name not in rows.columns]
    blank = [pl.col(name).str.strip_chars() == "" for name in COLUMNS.all]
    return (
        rows.with_columns(absent)
        .select(names)
        .with_columns(
            pl.when(~empty).then(pl.col(name)).alias(name)
            for name, empty in zip(COLUMNS.all, blank, strict=True)
        )
        .with_row_index("source_row")
        .with_columns(pl.col("source_row").cast(pl.Int64))
    )


def _judge(rows: pl.DataFrame) -> pl.DataFrame:
    """Adds `reason` (null for a good row), `kept`, and rating, timestamp and public as parsed."""
    moments = {text: _moment(text) for text in rows["timestamp"].drop_nulls().unique()}
    rating = pl.col("rating").str.strip_chars().cast(pl.Float64, strict=False)
    public = pl.col("public").str.strip_chars().str.to_lowercase()
    rows = rows.with_columns(
        rating=pl.when(rating.is_between(0, 1)).then(rating),
        timestamp=pl.col("timestamp").replace_strict(moments, default=None, return_dtype=pl.String),
        public=public.replace_strict(PUBLIC, default=None, return_dtype=pl.Boolean),
        registers=pl.col("prompt").is_null() & pl.col("response").is_null(),
        same=pl.col("source_row").first().over(COLUMNS.all),
        **{f"said_{name}": pl.col(name) for name in COLUMNS.all},
    )

    def unclear(name: str) -> pl.Expr:
        return pl.col(name).is_null() & pl.col(f"said_{name}").is_not_null()

    checks: list[tuple[pl.Expr, pl.Expr | str]] = [
        (pl.col("fault").is_not_null(), pl.col("fault")),
        (pl.col("user_id").is_null(), "user_id is missing"),
        *((_null_byte(f"said_{name}"), f"{name} holds a null byte") for name in COLUMNS.all),
        (~pl.col("registers") & pl.col("prompt").is_null(), "prompt is missing"),
        (~pl.col("registers") & pl.col("response").is_null(), "response is missing"),
        (unclear("rating"), "rating is not a number from 0 to 1"),
        (unclear("timestamp"), "timestamp is not an ISO 8601 date or time"),
        (unclear("public"), "public is neither true nor false"),
        (pl.col("same") < pl.col("source_row"), pl.format("the same as row {}", "same")),
    ]
    reasons = [
        pl.when(bad).then(pl.lit(reason) if isinstance(reason, str) else reason)
        for bad, reason in checks
    ]
    return rows.with_columns(reason=pl.coalesce(reasons)).with_columns(
        kept=pl.col("reason").is_null() & ~pl.col("registers")
    )


def _users(named: pl.DataFrame, unseen: float) -> pl.DataFrame:
    """One row per user; public only if every row says so, rejected ones too: doubt is private."""
    users = named.group_by("user_id").agg(
        rows=pl.col("kept").sum().cast(pl.Int64), public=pl.col("public").fill_null(False).all()
    )
    cohorts = [cohort(user, unseen) for user in users["user_id"]]
    return users.select("user_id", pl.Series("cohort", cohorts), "rows", "public").sort("user_id")


def _histories(rows: pl.DataFrame) -> pl.DataFrame:
    kept = rows.filter("kept").sort("user_id", "source_row")
    row = pl.int_range(pl.len()).over("user_id").alias("row")
    return kept.select("user_id", row, "prompt", "response", "rating", "timestamp")


def _rejected(rows: pl.DataFrame) -> pl.DataFrame:
    rejected = rows.filter(pl.col("reason").is_not_null())
    contents = [row["content"] or _content(row) for row in rejected.iter_rows(named=True)]
    content = pl.Series("content", contents, dtype=pl.String)
    return rejected.select("source_row", "reason", content)


def _content(row: dict[str, object]) -> str:
    said = {name: row[f"said_{name}"] for name in COLUMNS.all}
    told = {name: text for name, text in said.items() if text is not None}
    return json.dumps(told, ensure_ascii=False)


def _null_byte(column: str) -> pl.Expr:
    return pl.col(column).str.contains("\0", literal=True).fill_null(False)


def _moment(text: str) -> str | None:
    try:
        return datetime.fromisoformat(text.strip()).isoformat()
    except ValueError:
        return None
