"""Users' rows: what is kept, what is dropped and why, and which files are refused."""

import json
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palette import stage, tables, users
from palette.errors import PaletteError
from palette.histories import COLUMNS, cohort, read_histories, validate
from palette.params import Params, Trait, Users

GOOD = {"user_id": "ann", "prompt": "why?", "response": "because"}


def judged(*rows: dict[str, str | None]):
    return validate(pl.DataFrame(list(rows), schema=dict.fromkeys(COLUMNS.all, pl.String)), 0.2)


def reasons(*rows: dict[str, str | None]) -> list[str]:
    return judged(*rows).rejected["reason"].to_list()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"user_id": None}, "user_id is missing"),
        ({"user_id": "  "}, "user_id is missing"),
        ({"prompt": ""}, "prompt is missing"),
        ({"response": None}, "response is missing"),
        ({"response": "a\0b"}, "response holds a null byte"),
        ({"rating": "five stars"}, "rating is not a number from 0 to 1"),
        ({"rating": "1.5"}, "rating is not a number from 0 to 1"),
        ({"rating": "nan"}, "rating is not a number from 0 to 1"),
        ({"timestamp": "yesterday"}, "timestamp is neither ISO 8601 nor seconds since 1970"),
        ({"public": "perhaps"}, "public is neither true nor false"),
    ],
)
def test_a_bad_row_is_lost_alone(change, reason):
    result = judged(GOOD, GOOD | {"response": "well"} | change)
    assert result.rejected["reason"].to_list() == [reason]
    assert result.rejected["source_row"].to_list() == [1]
    assert result.histories["response"].to_list() == ["because"]
    told = json.loads(result.rejected["content"][0])
    said = GOOD | {"response": "well"} | change
    assert told == {key: text for key, text in said.items() if text and text.strip()}


def test_the_same_row_twice_counts_once():
    result = judged(GOOD, GOOD, GOOD | {"rating": "1"})
    assert result.rejected["reason"].to_list() == ["the same as row 0"]
    assert result.histories["rating"].to_list() == [None, 1.0]


def test_user_without_history_is_registered():
    result = judged(GOOD, {"user_id": "bob"})
    assert result.users.select("user_id", "rows").rows() == [("ann", 1), ("bob", 0)]
    assert result.rejected.is_empty()


def test_user_whose_rows_are_all_bad_stays_without_history():
    result = judged(GOOD | {"rating": "7", "public": "true"})
    assert result.users.select("user_id", "rows").rows() == [("ann", 0)]


def test_a_user_is_public_only_if_every_row_says_so():
    rows = [
        GOOD | {"user_id": user, "prompt": str(number), "public": public}
        for user, said in {"a": ["true", "Yes"], "b": ["true", None], "c": ["true", "0"]}.items()
        for number, public in enumerate(said)
    ]
    assert judged(*rows).users["public"].to_list() == [True, False, False]


def test_rows_keep_their_order_within_a_user():
    rows = [GOOD | {"user_id": u, "response": r} for u, r in [("b", "1"), ("a", "2"), ("b", "3")]]
    kept = judged(*rows).histories.select("user_id", "row", "response").rows()
    assert kept == [("a", 0, "2"), ("b", 0, "1"), ("b", 1, "3")]


def test_no_usable_row_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_jsonl(tmp_path, [b'{"user_id": null, "prompt": "why?", "response": "because"}'])
    named = Params(traits={"brevity": Trait(kind="brevity")})
    named = named.model_copy(update={"users": Users(file=str(path))})
    with pytest.raises(PaletteError, match=r"no row of .* can be used, .* user_id is missing"):
        users.main(named)
    assert not Path("data").exists()


@pytest.mark.parametrize(
    ("said", "moment"),
    [
        ("2026", "2026-01-01T00:00:00"),
        ("2026-03", "2026-03-01T00:00:00"),
        (" 20260302 ", "2026-03-02T00:00:00"),
        ("2026-03-02 10:00:00+02:00", "2026-03-02T10:00:00+02:00"),
        ("1735689600", "2025-01-01T00:00:00+00:00"),
        ("1735689600.5", "2025-01-01T00:00:00.500000+00:00"),
        ("1735689600000", "2025-01-01T00:00:00+00:00"),
        ("17356896", None),
        ("12:00", None),
        ("0", None),
    ],
)
def test_moments(said, moment):
    result = judged(GOOD, GOOD | {"prompt": "when?", "timestamp": said})
    assert result.histories.filter(prompt="when?")["timestamp"].to_list() == [moment] * bool(moment)


def test_cohort_depends_on_the_id_alone_and_grows_with_the_share():
    ids = [f"u{number:04d}" for number in range(2000)]
    few = {user for user in ids if cohort(user, 0.1) == "unseen"}
    more = {user for user in ids if cohort(user, 0.3) == "unseen"}
    assert few < more
    assert len(few) == pytest.approx(200, abs=50)
    assert cohort("u0000", 0.0) == "seen"


@given(st.lists(st.fixed_dictionaries({c: st.none() | st.text() for c in COLUMNS.all}), max_size=8))
@settings(max_examples=60, deadline=None)
def test_every_row_ends_in_exactly_one_place(rows):
    result = judged(GOOD, *rows)
    registering = len(rows) + 1 - len(result.histories) - len(result.rejected)
    blank = sum(not (r["prompt"] or "").strip() and not (r["response"] or "").strip() for r in rows)
    assert 0 <= registering <= blank
    assert result.users["rows"].sum() == len(result.histories)


def write_jsonl(folder: Path, lines: list[bytes]) -> Path:
    path = folder / "rows.jsonl"
    path.write_bytes(b"\n".join(lines))
    return path


def test_jsonl_of_every_kind_of_line(tmp_path):
    lines = [
        b'\xef\xbb\xbf{"user_id": 7, "prompt": "p", "response": "\xe2\x80\xa8 r", "rating": 1}',
        b"[1, 2]",
        b"",
        b'{"user_id": "u", "prompt": ["x"], "response": "r"}',
        b'{"user_id": "u", "prompt": "\xff", "response": "r"}',
        b'{"user_id": "u", "prompt": "\\ud800", "response": "r"}',
        b"[" * 100_000,
        b"{'user_id': 'no'}",
        '{"user_id": "u", "prompt": "שלום 🎈", "response": "r", "public": true}'.encode(),
    ]
    result = validate(read_histories(write_jsonl(tmp_path, lines)), 0.2)
    assert result.rejected["reason"].to_list() == [
        "not a JSON object",
        "prompt is not text",
        "prompt is not valid Unicode",
        "prompt is not valid Unicode",
        "not a JSON object",
        "not a JSON object",
    ]
    assert result.histories.rows() == [
        ("7", 0, "p", "\u2028 r", 1.0, None),
        ("u", 0, "שלום 🎈", "r", None, None),
    ]


def test_csv_of_every_kind_of_line(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(
        b"user_id,prompt,response,ignored\r\n"
        b'1,"a\nb",c,x\r\n'
        b"2,a\r\n"
        b'3,"a"b,c,x\r\n'
        b"4,\xff,c,\xc3\xa9\r\n"
        b"5,a\x00,c,x\r\n"
        b"6," + b"long " * 200_000 + b",c,x\r\n"
        b"\r\n"
        b"7,,,\r\n"
    )
    result = validate(read_histories(path), 0.2)
    assert result.rejected["reason"].to_list() == [
        "2 fields, but the header has 4",
        "a quote is broken",
        "prompt is not valid Unicode",
        "prompt holds a null byte",
    ]
    assert result.histories["prompt"].to_list() == ["a\nb", "long " * 200_000]
    assert result.users["user_id"].to_list() == ["1", "4", "5", "6", "7"]


def test_parquet_of_mixed_types(tmp_path):
    path = tmp_path / "rows.parquet"
    frame = {
        "user_id": [1, 2],
        "prompt": ["p", "q"],
        "response": [3.5, 4.5],
        "rating": [0, 1],
        "timestamp": [datetime(2026, 1, 2, tzinfo=UTC), None],
        "public": [True, False],
    }
    pl.DataFrame(frame).write_parquet(path)
    result = validate(read_histories(path), 0.2)
    assert result.histories.rows() == [
        ("1", 0, "p", "3.5", 0.0, "2026-01-02T00:00:00+00:00"),
        ("2", 0, "q", "4.5", 1.0, None),
    ]
    assert result.users["public"].to_list() == [True, False]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_the_three_formats_hold_the_same(tmp_path, suffix):
    rows = [GOOD, GOOD | {"response": 'say "hi", twice'}, {"user_id": "bob"}]
    frame = pl.DataFrame(rows, schema=dict.fromkeys(COLUMNS.all, pl.String))
    path = tmp_path / f"rows.{suffix}"
    writer = {"csv": "write_csv", "jsonl": "write_ndjson", "parquet": "write_parquet"}[suffix]
    getattr(frame, writer)(path)
    assert validate(read_histories(path), 0.2).histories.equals(judged(*rows).histories)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("none.csv", None, "does not exist"),
        ("rows.txt", "x", "is none of .parquet, .csv, .jsonl"),
        ("rows.csv", "", "is empty"),
        ("rows.csv", "user_id,prompt,response\n", "has no rows"),
        ("rows.csv", "user,prompt,response\n1,2,3\n", "no column 'user_id': rename 'user'"),
        ("rows.csv", "a,b\n1,2\n", "no column 'user_id': it has 'a', 'b'"),
        ("rows.csv", "user_id,prompt,response,raiting\n", "'rating': rename 'raiting'"),
        ("rows.csv", "user_id,prompt,prompt,response\n", "two columns 'prompt'"),
        ("rows.csv", 'user_id,prompt,response\n1,2,3\n4,"5,6\n', "line 3, opens a quote"),
        ("rows.jsonl", "nothing\n", "holds no JSON object"),
        ("rows.jsonl", '{"user_id": 1, "prompt": 2, "respons": 3}', "rename 'respons'"),
        ("rows.parquet", "not Parquet", "not a readable Parquet file"),
    ],
)
def test_unusable_file_is_refused_in_one_sentence(tmp_path, name, content, sentence):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(PaletteError) as refusal:
        read_histories(tmp_path / name)
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_parquet_with_nested_text_is_refused(tmp_path):
    path = tmp_path / "rows.parquet"
    pl.DataFrame({"user_id": ["a"], "prompt": [["b"]], "response": ["c"]}).write_parquet(path)
    with pytest.raises(PaletteError, match=r"column 'prompt' of List\(String\)"):
        read_histories(path)


def test_stage_writes_the_tables_of_a_named_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("inputs/users")
    folder.mkdir(parents=True)
    path = write_jsonl(folder, [json.dumps(GOOD).encode(), b"nothing"])
    named = Params(users={"file": str(path)}, traits={"brevity": Trait(kind="brevity")})
    users.main(named)
    assert tables.read("users").select("user_id", "rows").rows() == [("ann", 1)]
    assert tables.read("histories").height == 1
    assert tables.read("rejected")["reason"].to_list() == ["not a JSON object"]
    assert tables.read("hidden").is_empty()


def test_stage_refuses_a_missing_file_and_touches_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(
        "users: {file: inputs/users/gone.csv}\ntraits: {brevity: {kind: brevity}}\n"
    )
    with pytest.raises(SystemExit, match=r"palette: inputs/users/gone\.csv does not"):
        stage.run(users.main)
    assert not Path("data").exists()


def test_stage_keeps_the_sandboxs_users_and_finds_its_broken_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    users.main(Params(sandbox={"users": 60}, traits={"brevity": Trait(kind="brevity")}))
    listed, hidden = tables.read("users"), tables.read("hidden")
    assert set(listed["user_id"]) == set(hidden["user_id"])
    assert listed.filter(pl.col("rows") == 0).height > 0
    assert set(listed["cohort"]) == {"seen", "unseen"}
    assert tables.read("rejected").height > 0
    assert listed["rows"].sum() == tables.read("histories").height
