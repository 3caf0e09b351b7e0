"""Files as others write them: every encoding and format, and nothing crashes or changes in silence."""

import csv
import io
import json
from itertools import product
from pathlib import Path

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from palette import encoding
from palette.errors import PaletteError
from palette.histories import read_histories, validate
from palette.readers import read_rows
from palette.records import Columns

COLUMNS = Columns(("user_id", "prompt", "response"), ("rating",))
GERMAN = {"user_id": "ann", "prompt": "Müßig?", "response": "Ja – „schön“ €5 …"}
HEBREW = {"user_id": "דנה", "prompt": "שלום\u200f", "response": "🎈👩‍👩‍👧 \u202eabc"}


def as_csv(rows: list[dict[str, str]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def as_jsonl(rows: list[dict[str, str]]) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


def as_json(rows: list[dict[str, str]]) -> str:
    return json.dumps(rows, ensure_ascii=False, indent=1)


WRITERS = {"csv": as_csv, "jsonl": as_jsonl, "json": as_json}
UNICODE = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]


def read(path: Path, content: bytes) -> list[dict]:
    path.write_bytes(content)
    return read_rows(path, COLUMNS).rows(named=True)


def said(rows: list[dict]) -> list[dict]:
    return [{name: row[name] for name in ("user_id", "prompt", "response")} for row in rows]


@pytest.mark.parametrize(("suffix", "name"), product(WRITERS, UNICODE))
def test_every_unicode_encoding_is_found(tmp_path, suffix, name, capsys):
    rows = [GERMAN, HEBREW]
    found = read(tmp_path / f"rows.{suffix}", WRITERS[suffix](rows).encode(name))
    assert said(found) == rows
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("suffix", WRITERS)
def test_windows_1252_is_read_and_said(tmp_path, suffix, capsys):
    found = read(tmp_path / f"rows.{suffix}", WRITERS[suffix]([GERMAN]).encode("cp1252"))
    assert said(found) == [GERMAN]
    assert "is not UTF-8 and was read as Windows-1252" in capsys.readouterr().err


def test_latin_1_is_read_as_what_holds_it(tmp_path):
    row = GERMAN | {"response": "d'été ½"}
    assert said(read(tmp_path / "rows.csv", as_csv([row]).encode("latin-1"))) == [row]


def test_a_broken_row_makes_no_other_encoding(tmp_path):
    content = as_jsonl([GERMAN, HEBREW]).encode() + b'\n{"user_id": "b", "prompt": "\xff"}'
    rows = read(tmp_path / "rows.jsonl", content)
    assert said(rows[:2]) == [GERMAN, HEBREW]
    assert rows[2]["fault"] == "prompt is not valid Unicode"


def test_bytes_that_windows_1252_does_not_have_cost_their_row_alone(tmp_path):
    content = as_csv([GERMAN, GERMAN | {"response": "ÄÖÜ"}]).encode("cp1252") + b"bob,a,\x81\r\n"
    rows = read(tmp_path / "rows.csv", content)
    assert [row["fault"] for row in rows] == [None, None, "response is not valid Unicode"]
    assert json.loads(rows[2]["content"])["user_id"] == "bob"


def test_half_a_character_at_the_end_of_a_file_is_seen(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b"caf\xe9")
    assert encoding.find(path) == encoding.LEGACY
    path.write_bytes("é".encode("utf-16") + b"a")
    with encoding.open_text(path, encoding.find(path), newline="") as file:
        assert file.read() == "é\udc61"


def test_characters_across_chunks_are_whole(tmp_path, monkeypatch):
    path = tmp_path / "rows.csv"
    path.write_bytes("éü🎈".encode() * 5)
    for size in (1, 2, 3):
        monkeypatch.setattr(encoding, "CHUNK", size)
        assert encoding.find(path) == "utf-8-sig"


def test_a_lone_half_of_utf_16_costs_its_row_alone(tmp_path):
    rows = as_jsonl([GERMAN, HEBREW]).encode("utf-16-le")
    bad = (
        '\n{"user_id": "x", "prompt": "'.encode("utf-16-le")
        + b"\x00\xd8"
        + '"}'.encode("utf-16-le")
    )
    found = read(tmp_path / "rows.jsonl", b"\xff\xfe" + rows + bad)
    assert said(found[:2]) == [GERMAN, HEBREW]
    assert found[2]["fault"] == "prompt is not valid Unicode"


def test_mixed_types_and_what_pandas_writes_for_nothing(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"user_id": 7, "prompt": true, "response": 1.50, "rating": NaN}\n'
        '{"user_id": "7", "prompt": "p", "response": NaN}\n'
        '{"user_id": 7.0, "prompt": "p", "response": null, "rating": "1"}\n'
    )
    rows = read_rows(path, COLUMNS).select("user_id", "prompt", "response", "rating").rows()
    assert rows == [("7", "true", "1.5", None), ("7", "p", None, None), ("7.0", "p", None, "1")]
    frame = {
        "user_id": [7, 8],
        "prompt": ["p", "q"],
        "response": ["r", "s"],
        "rating": [0.5, float("nan")],
    }
    pl.DataFrame(frame).write_parquet(tmp_path / "rows.parquet")
    assert read_rows(tmp_path / "rows.parquet", COLUMNS)["rating"].to_list() == ["0.5", None]


@pytest.mark.parametrize("suffix", WRITERS)
def test_cells_of_a_megabyte_and_null_bytes(tmp_path, suffix):
    rows = [GERMAN | {"response": "é" * 600_000}, GERMAN | {"prompt": "a\0b"}]
    path = tmp_path / f"rows.{suffix}"
    path.write_bytes(WRITERS[suffix](rows).encode())
    found = validate(read_histories(path), 0.2)
    assert found.histories["response"].to_list() == [rows[0]["response"]]
    assert found.rejected["reason"].to_list() == ["prompt holds a null byte"]


def test_rows_in_a_list_and_lines_by_another_name(tmp_path):
    rows = [GERMAN, "x", HEBREW]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    found = read_rows(path, COLUMNS)
    assert found["fault"].to_list() == [None, "not a JSON object", None]
    assert found["source_row"].to_list() == [0, 1, 2]
    assert said(read(path, as_jsonl([GERMAN, HEBREW]).encode())) == [GERMAN, HEBREW]


@pytest.mark.parametrize(
    "content", ["[1, 2]", "7", "[", "{}", '["' + "[" * 5000 + '"]', "[" * 99_999]
)
def test_json_without_rows_is_refused(tmp_path, content):
    path = tmp_path / "rows.json"
    path.write_text(content)
    with pytest.raises(PaletteError, match="holds no JSON object"):
        read_rows(path, COLUMNS)


# Not null bytes: UTF-16 without a mark is told by them.
cells = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
tables = st.lists(
    st.fixed_dictionaries({"user_id": cells, "prompt": cells, "response": cells}),
    min_size=1,
    max_size=4,
)


@given(tables, st.sampled_from(UNICODE), st.sampled_from(list(WRITERS)))
@example([{"user_id": "", "prompt": "\r", "response": "\n"}], "utf-16", "csv")
@settings(max_examples=120, deadline=None)
def test_what_is_written_is_read_to_the_letter(tmp_path_factory, rows, name, suffix):
    path = tmp_path_factory.getbasetemp() / f"letter.{suffix}"
    path.write_bytes(WRITERS[suffix](rows).encode(name))
    assert said(read_rows(path, COLUMNS).rows(named=True)) == rows


@given(st.binary(max_size=200), st.sampled_from([*WRITERS, "parquet"]), st.booleans())
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_read_or_refused_in_one_sentence(tmp_path_factory, content, suffix, headed):
    head = {"csv": b"user_id,prompt,response\n", "jsonl": as_jsonl([GERMAN]).encode() + b"\n"}
    path = tmp_path_factory.getbasetemp() / f"bytes.{suffix}"
    path.write_bytes(head.get(suffix, b"") * headed + content)
    try:
        rows = read_histories(path)
    except PaletteError as refusal:
        assert "\n" not in str(refusal)
        return
    found = validate(rows, 0.2)
    assert len(found.histories) + len(found.rejected) <= len(rows)
    assert set(found.rejected["source_row"]) <= set(rows["source_row"])
