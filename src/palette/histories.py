"""Users' histories: keeps the valid rows of a file and says of every other why it was dropped.

A bad row is lost alone: its user and the user's other rows stay.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from palette.conversations import CONVERSATION
from palette.forgotten import Forgotten
from palette.lamp import QUESTION
from palette.readers import read_batches, read_rows
from palette.records import Columns

COLUMNS = Columns(
    ("user_id", "prompt", "response"),
    ("rating", "timestamp", "public"),
    (CONVERSATION, QUESTION),
)
SECONDS, MILLISECONDS = re.compile(r"\d{9,10}(\.\d+)?"), re.compile(r"\d{12,13}")
"""Since 1970, as logs write moments from 1973 to 2286."""
WITHHELD = '"withheld: users are forgotten, and this row names none"'
"""As JSON, in place of a row's content."""
PUBLIC = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Validated:
    """Tables of palette.tables. Each row of the input is in `histories`, or names a user without
    prompt and response and so registers one without history, or is in `rejected`. What is left out
    of a conversation is in `rejected` as well."""

    users: pl.DataFrame
    histories: pl.DataFrame
    rejected: pl.DataFrame


def read_histories(path: str | Path) -> pl.DataFrame:
    """Rows of a histories file as text, for `validate`.

    Raises:
        PaletteError: the file is missing, empty, of another format or lacks a column.
    """
    return read_rows(path, COLUMNS)


def read_histories_in_batches(path: str | Path) -> Iterator[pl.DataFrame]:
    """The same, some rows after another."""
    return read_batches(path, COLUMNS)


def without(rows: pl.DataFrame, gone: Forgotten) -> pl.DataFrame:
    """The rows of a histories file but for those of users who are forgotten.

    Once anyone is, a row that names no user keeps no content: nobody can say whose words it has.
    """
    if not gone:
        return rows
    named = rows["user_id"].drop_nulls().unique()
    unknown = pl.col("user_id").is_null()
    mine = pl.col("user_id").is_in(gone.among(named))
    cells = [
        pl.when(unknown).then(pl.lit(None, pl.String)).otherwise(pl.col(name)).alias(name)
        for name in COLUMNS.all
        if name in rows.columns
    ]
    content = pl.col("content") if "content" in rows.columns else pl.lit(None, pl.String)
    content = pl.when(unknown).then(pl.lit(WITHHELD)).otherwise(content)
    return rows.filter(~mine.fill_null(False)).with_columns(*cells, content=content)


def validate(rows: pl.DataFrame, unseen: float) -> Validated:
    """Sort rows into valid and rejected ones, and list the users.

    Args:
        rows: text columns user_id, prompt, response, rating, timestamp, public, null where nothing
            was said; source_row, fault and content where a reader set them (see palette.readers).
        unseen: share of users, by a hash of their id, who take no part in any estimate.
    """
    rows = _judge(_complete(rows))
    named = rows.filter(pl.col("user_id").is_not_null() & ~_null_byte("user_id"))
    return Validated(_users(named, unseen), _histories(rows), _rejected(rows))


def cohort(user_id: str, unseen: float) -> str:
    """seen | unseen, by the id alone, so that a user who comes or goes moves no other."""
    digest = hashlib.sha256(f"cohort {user_id}".encode()).digest()
    return "unseen" if int.from_bytes(digest[:8], "big") / 2**64 < unseen else "seen"


def _complete(rows: pl.DataFrame) -> pl.DataFrame:
    """All columns, with a blank cell as null, and the place of each row."""
    names = (*COLUMNS.all, "fault", "content")
    absent = [pl.lit(None, pl.String).alias(name) for name in names if name not in rows.columns]
    rows = rows.with_row_index("place").with_columns(absent)
    if "source_row" not in rows.columns:
        rows = rows.with_columns(source_row=pl.col("place").cast(pl.Int64))
    return rows.select("place", "source_row", "fault", "content").with_columns(
        pl.when(rows[name].str.strip_chars() != "").then(rows[name]).alias(name)
        for name in COLUMNS.all
    )


def _judge(rows: pl.DataFrame) -> pl.DataFrame:
    """Adds `reason` (null for a good row), `kept`, and rating, timestamp and public as parsed."""
    moments = {text: _moment(text) for text in rows["timestamp"].drop_nulls().unique()}
    rating = pl.col("rating").str.strip_chars().cast(pl.Float64, strict=False)
    public = pl.col("public").str.strip_chars().str.to_lowercase()
    alike = (*COLUMNS.all, "fault")
    rows = rows.with_columns(
        rating=pl.when(rating.is_between(0, 1)).then(rating),
        timestamp=pl.col("timestamp").replace_strict(moments, default=None, return_dtype=pl.String),
        public=public.replace_strict(PUBLIC, default=None, return_dtype=pl.Boolean),
        registers=pl.col("prompt").is_null() & pl.col("response").is_null(),
        first=pl.col("place").first().over(*alike),
        first_row=pl.col("source_row").first().over(*alike),
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
        (unclear("timestamp"), "timestamp is neither ISO 8601 nor seconds since 1970"),
        (unclear("public"), "public is neither true nor false"),
        (pl.col("first") < pl.col("place"), pl.format("the same as row {}", "first_row")),
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
    cohorts = pl.Series("cohort", [cohort(u, unseen) for u in users["user_id"]], dtype=pl.String)
    return users.select("user_id", cohorts, "rows", "public").sort("user_id")


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
    """ISO 8601, whole: "2026" is its first day, and seconds or milliseconds since 1970 are UTC."""
    text = text.strip()
    try:
        if "-" not in text and (SECONDS.fullmatch(text) or MILLISECONDS.fullmatch(text)):
            seconds = float(text) / (1 if SECONDS.fullmatch(text) else 1000)
            return datetime.fromtimestamp(seconds, UTC).isoformat()
        if len(text) <= 7 and re.fullmatch(r"\d{4}(-\d\d)?", text):
            text += "-01-01"[len(text) - 4 :]
        return datetime.fromisoformat(text).isoformat()
    except ValueError:
        return None
