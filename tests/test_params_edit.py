"""Changing one key of params.yaml leaves every other byte as it is."""

import difflib
from pathlib import Path

import pytest
import yaml

from palette.errors import PaletteError
from palette.params_edit import set_value
from palette.params_file import load

ROOT = Path(__file__).parents[1]
FILE = "inputs/plan/pinned.csv"


def edited(tmp_path: Path, text: str, value=FILE, key="plan.pinned") -> str:
    path = tmp_path / "params.yaml"
    path.write_bytes(text.encode())
    set_value(path, key, value)
    assert [file.name for file in tmp_path.iterdir()] == ["params.yaml"]
    return path.read_bytes().decode()


def changed_lines(before: str, after: str) -> list[str]:
    diff = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return [line for line in diff if not line.startswith(("---", "+++", "@@"))]


def test_in_the_real_file_one_line_changes(tmp_path):
    before = (ROOT / "params.yaml").read_text(encoding="utf-8")
    after = edited(tmp_path, before)
    old, new = changed_lines(before, after)
    assert old.startswith("-  pinned: ")
    assert new.startswith(f"+  pinned: {FILE}  # ")
    assert old.split("#")[1] == new.split("#")[1]
    assert load(tmp_path / "params.yaml").plan.pinned == FILE


def test_every_scalar_of_the_real_file_can_be_set_to_what_it_is(tmp_path):
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    keys = [
        (f"{section}.{name}", value)
        for section, content in yaml.safe_load(text).items()
        for name, value in content.items()
        if not isinstance(value, (dict, float))
    ]
    assert len(keys) > 30
    for key, value in keys:
        assert edited(tmp_path, text, value, key) == text


def test_a_comment_stays_in_its_column_where_there_is_room(tmp_path):
    before = "plan:\n  steps: 20             # of the lattice\n"
    assert edited(tmp_path, before, 7, "plan.steps") == before.replace("20 ", "7  ")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("plan: {epsilon: 0.02}  # x\n", f"plan: {{pinned: {FILE}, epsilon: 0.02}}  # x\n"),
        ("plan:\n    epsilon: 1\nx: 2\n", f"plan:\n    pinned: {FILE}\n    epsilon: 1\nx: 2\n"),
        ("plan:\n  pinned:\n  epsilon: 1\n", f"plan:\n  pinned: {FILE}\n  epsilon: 1\n"),
        ("plan: {pinned: ~, a: 'b'}\r\nx: 1\r\n", f"plan: {{pinned: {FILE}, a: 'b'}}\r\nx: 1\r\n"),
        ("plan:  # none\nx: 1\n", f"plan: {{pinned: {FILE}}}  # none\nx: 1\n"),
        ("# ε\nx: 1", f"# ε\nx: 1\nplan:\n  pinned: {FILE}\n"),
    ],
)
def test_a_key_that_is_absent_or_elsewhere_finds_its_place(tmp_path, before, after):
    assert edited(tmp_path, before) == after


@pytest.mark.parametrize(
    "text",
    ["a: &x {pinned: 1}\nplan: *x\n", "- plan\n", "plan:\n  pinned: |\n    a\n  b: 1\n", "a: [\n"],
)
def test_what_cannot_be_changed_safely_is_refused_and_left(tmp_path, text):
    with pytest.raises(PaletteError, match=r"set plan\.pinned: .* by hand"):
        edited(tmp_path, text)
    assert (tmp_path / "params.yaml").read_text() == text
