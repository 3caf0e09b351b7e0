"""Histories larger than memory: the same tables, whatever the number of rows held at once."""

import hashlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from palette import by_user, readers, records, tables, users
from palette.params import Params

TRAITS = {"brevity": {"kind": "brevity"}}


def batches(rows: pl.DataFrame, size: int) -> list[pl.DataFrame]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


@pytest.fixture
def rows() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    names = [None if n % 17 == 0 else f"u{n}" for n in rng.integers(0, 40, 500)]
    names[10:130] = ["long"] * 120  # more rows than a part
    return pl.DataFrame({"user_id": names, "number": range(500)})


@pytest.mark.parametrize("at_once", [1, 50, 499, 500, 10_000])
def test_parts_are_whole_users_in_order(rows, monkeypatch, at_once):
    monkeypatch.setattr(by_user, "AT_ONCE", at_once)
    found = list(by_user.parts(batches(rows, 30)))
    if at_once >= len(rows):
        assert_frame_equal(found[0], rows)
        return
    seen = [set(part["user_id"].drop_nulls()) for part in found]
    for before, after in pairwise(seen):
        assert max(before) < min(after)
    assert all(len(part) <= at_once or len(own) <= 1 for part, own in zip(found, seen, strict=True)
               if None not in part["user_id"])  # fmt: skip
    assert all(part["user_id"].null_count() == 0 for part in found[1:])
    together = pl.concat(found).sort("user_id", maintain_order=True)
    assert_frame_equal(together, rows.sort("user_id", maintain_order=True))


def test_nothing_and_rows_of_nobody(monkeypatch):
    monkeypatch.setattr(by_user, "AT_ONCE", 2)
    assert list(by_user.parts([])) == []
    nobody = pl.DataFrame({"user_id": pl.Series([None] * 5, dtype=pl.String)})
    assert_frame_equal(pl.concat(by_user.parts(batches(nobody, 1))), nobody)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_the_stage_writes_the_same_tables_in_parts(tmp_path, monkeypatch, kind):
    """Duplicates that lie far apart, faults, users without history, public and not."""
    rng = np.random.default_rng(1)
    table = pl.DataFrame({
        "user_id": [None if n % 13 == 0 else f"u{n}" for n in rng.integers(0, 60, 900)],
        "prompt": [None if n == 0 else f"why {n}?" for n in rng.integers(0, 12, 900)],
        "response": [None if n == 0 else f"because {n}" for n in rng.integers(0, 12, 900)],
        "rating": [[None, "0.5", "1", "good"][n] for n in rng.integers(0, 4, 900)],
        "timestamp": [[None, "2026-01-02", "soon"][n] for n in rng.integers(0, 3, 900)],
        "public": [["true", "false", "perhaps"][n] for n in rng.choice(3, 900, p=[0.9, 0.08, 0.02])],
    })  # fmt: skip
    monkeypatch.chdir(tmp_path)
    write = {"csv": table.write_csv, "jsonl": table.write_ndjson, "parquet": table.write_parquet}
    Path("inputs/users").mkdir(parents=True)
    write[kind](file := f"inputs/users/rows.{kind}")
    params = Params.model_validate({"traits": TRAITS, "users": {"file": file}})
    found = []
    for at_once, read in ((10_000, 10_000), (100, 30), (7, 1000)):
        monkeypatch.setattr(by_user, "AT_ONCE", at_once)
        monkeypatch.setattr(records, "AT_ONCE", read)
        monkeypatch.setattr(readers, "AT_ONCE", read)
        users.main(params)
        found.append({name: tables.read(name) for name in ("users", "histories", "rejected")})
    assert len(found[0]["rejected"]) > 100 < len(found[0]["histories"])
    for other in found[1:]:
        for name, whole in found[0].items():
            assert_frame_equal(other[name], whole)


def test_a_table_of_one_part_has_the_bytes_of_one_written_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame = pl.DataFrame({"user_id": ["a"], "cohort": "seen", "rows": 1, "public": True})
    whole = hashlib.sha256(tables.write("users", frame).read_bytes()).hexdigest()
    with tables.writing("users") as add:
        add(frame)
    assert hashlib.sha256(tables.path("users").read_bytes()).hexdigest() == whole
    with pytest.raises(ZeroDivisionError), tables.writing("users") as add:
        add(frame.head(0))
        add(frame.head(0))
        raise ZeroDivisionError
    assert len(tables.read("users")) == 1
    with tables.writing("users") as add:
        pass
    assert len(tables.read("users")) == 0
