"""`palette users check`: what would be kept, dropped and why, before anything runs."""

import json

import pytest
from test_cli import palette  # noqa: F401  (a fixture)

GOOD = {"user_id": "ann", "prompt": "why?", "response": "because"}


@pytest.fixture
def check(palette, tmp_path):  # noqa: F811
    """Check a file of these lines; returns (exit status, stdout, stderr)."""

    def run(*rows: dict | str) -> tuple[int, str, str]:
        path = tmp_path / "rows.jsonl"
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("\n".join(lines), encoding="utf-8")
        return palette("users", "check", str(path))

    return run


def table(out: str) -> list[list[str]]:
    """The rows of the table of what was rejected."""
    return [
        [cell.strip() for cell in line.split("  ") if cell.strip()] for line in out.splitlines()
    ]


def test_says_what_is_kept_dropped_and_why(check):
    status, out, err = check(
        GOOD, GOOD, GOOD, GOOD | {"user_id": "bob", "rating": "good"}, {"user_id": "cy"}, "{",
        GOOD | {"user_id": "dee", "prompt": "שלום 🎈", "rating": 1, "timestamp": "2026"},
    )  # fmt: skip
    assert (status, err) == (0, "")
    lines = table(out)
    assert ["kept", "2 rows; 1 with a rating, 1 with a timestamp"] in lines
    assert ["rejected", "4 rows"] in lines
    assert ["users", "4; by rows: 2 without, 2 with 1+, 0 with 5+, 0 with 10+, 0 with 20+"] in lines
    assert [
        "prompt",
        "שלום 🎈",
    ] in lines  # an example with letters beyond ASCII, where there is one
    assert ["2", "the same as an earlier row", "1", json.dumps(GOOD)] in lines
    assert any(line[:3] == ["1", "rating is not a number from 0 to 1", "3"] for line in lines)
    assert ["1", "not a JSON object", "5", '"{"'] in lines


def test_nothing_is_run_or_written(check, tmp_path):
    check(GOOD)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_where_nothing_is_kept_the_status_is_1_and_the_reasons_are_shown(check):
    status, out, err = check(GOOD | {"user_id": None}, GOOD | {"response": "  "})
    assert status == 1
    assert "no row can be kept: mend what is listed above" in err
    assert "user_id is missing" in out and "response is missing" in out


def test_users_without_history_are_kept(check):
    assert check({"user_id": "ann"} | dict.fromkeys(("prompt", "response")))[0] == 0


def test_ids_that_may_be_one_users_are_named(check):
    ids = ["ann", "Ann ", "bob", "ｂｏｂ", "cy"]
    out = check(*(GOOD | {"user_id": user, "prompt": user} for user in ids))[1]
    assert "2 × ids alike, such as 'Ann ' and 'ann'" in out
    assert "ids alike" not in check(GOOD)[1]


def test_what_a_terminal_would_obey_is_written_out(check):
    out = check(GOOD | {"response": "\x1b[31m\u202e[bold]"}, GOOD | {"prompt": "\0\x1b"})[1]
    assert "\x1b" not in out and "\u202e" not in out
    assert r"\x1b[31m\u202e[bold]" in out


def test_a_long_text_is_shortened(check):
    assert max(map(len, check(GOOD | {"response": "long " * 10_000})[1].splitlines())) < 200


def test_a_file_that_cannot_be_read_is_refused_in_one_sentence(palette, tmp_path):  # noqa: F811
    status, out, err = palette("users", "check", str(tmp_path / "none.csv"))
    assert (status, out) == (1, "")
    assert err.endswith("none.csv does not exist: name an existing file")
