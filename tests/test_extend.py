"""`palette extend`: what a failed verdict asks for becomes part of the next plan, once."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from palette import params_edit, pinned, tables
from palette.cli import commands
from palette.commands.extend import PINNED, PORTFOLIO, append
from palette.errors import PaletteError

PLAN = Path("data/plan/plan.json")
TRAITS = ["brevity", "humor"]
FIRST = [[0.8, 0.2], [0.3, 0.7]]
CURE = [[0.55, 0.45], [0.07, 0.93]]


def by_trait(rows: list[list[float]]) -> list[dict[str, float]]:
    return [dict(zip(TRAITS, row, strict=True)) for row in rows]


def write_plan(rows: list[list[float]], rounds: list[int], looks: int) -> None:
    members = [
        {"id": str(row), "weights": weights, "pinned": False, "round": round_}
        for row, (weights, round_) in enumerate(zip(by_trait(rows), rounds, strict=True))
    ]
    tables.write_json(PLAN, {"traits": TRAITS, "looks": looks, "members": members})


def write_verdict(passed: bool, cure: list[list[float]], advice: str = "Train more.") -> None:
    mend = {"weights": by_trait(cure), "expected": 0.04, "advice": advice}
    tables.write_json(PORTFOLIO, {"passed": passed, "traits": TRAITS, "mend": mend})


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A project whose first verdict failed."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(
        "traits:  # two\n  brevity: {kind: brevity}\n  humor: {kind: humor}\n"
        "plan:\n  pinned: null  # none yet\n"
    )
    write_plan(FIRST, [0, 0], looks=1)
    write_verdict(False, CURE)
    return tmp_path


def palette_extend(*arguments: str):
    return CliRunner().invoke(commands, ["extend", *arguments])


def snapshot() -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in Path().rglob("*") if file.is_file()}


def test_the_first_repair_pins_the_plan_and_the_cure(run):
    result = palette_extend()
    assert result.exit_code == 0
    assert "added 2 weight vectors to inputs/plan/pinned.csv as round 1, after 2" in result.output
    assert "look 2 at certify, judged at confidence 0.975" in result.output
    weights, rounds = pinned.read(PINNED, TRAITS)
    assert weights.tolist() == FIRST + CURE
    assert rounds.tolist() == [0, 0, 1, 1]
    assert Path("params.yaml").read_text().endswith(f"  pinned: {PINNED}  # none yet\n")
    assert not list(Path().rglob("*.tmp"))


def test_each_repair_is_one_more_look(run):
    append(PORTFOLIO)
    write_plan(FIRST + CURE, [0, 0, 1, 1], looks=2)
    write_verdict(False, [[0.93, 0.07]])
    result = palette_extend()
    assert "added 1 weight vector to inputs/plan/pinned.csv as round 2\n" in result.output
    assert "look 3 at certify, judged at confidence 0.9875" in result.output
    weights, rounds = pinned.read(PINNED, TRAITS)
    assert weights.tolist() == [*FIRST, *CURE, [0.93, 0.07]]
    assert rounds.tolist() == [0, 0, 1, 1, 2]


def test_what_counts_as_a_look_is_said(run):
    assert "each round of repair in the file of plan.pinned is one more" in palette_extend().output


def test_rows_beyond_the_budget_are_refused_before_anything_is_written(run):
    params_edit.set_value(Path("params.yaml"), "plan.max_members", 3)
    before = snapshot()
    result = palette_extend()
    assert result.exit_code == 1
    assert "plan.max_members is 3" in str(result.exception)
    assert "raise it to 4 in params.yaml" in str(result.exception)
    assert snapshot() == before


def test_rows_that_just_fit_the_budget_are_added_also_to_a_file_that_is_there(run):
    params_edit.set_value(Path("params.yaml"), "plan.max_members", 4)
    append(PORTFOLIO)
    write_plan(FIRST + CURE, [0, 0, 1, 1], looks=2)
    write_verdict(False, [[0.93, 0.07]])
    before = snapshot()
    with pytest.raises(PaletteError, match=r"plan\.max_members is 4, .* raise it to 5 in"):
        append(PORTFOLIO)
    assert snapshot() == before
    params_edit.set_value(Path("params.yaml"), "plan.max_members", 5)
    assert append(PORTFOLIO).added == 1


def test_members_that_a_plan_added_to_its_pinned_ones_are_pinned_too(run):
    PINNED.parent.mkdir(parents=True)
    PINNED.write_text("humor,brevity\n0.7,0.3\n")
    params_edit.set_value(Path("params.yaml"), "plan.pinned", str(PINNED))
    done = append(PORTFOLIO)
    assert (done.added, done.held, done.look) == (2, 1, 2)
    weights, rounds = pinned.read(PINNED, TRAITS)
    assert weights.tolist() == [[0.3, 0.7], [0.8, 0.2], *CURE]
    assert rounds.tolist() == [0, 0, 1, 1]


def test_a_second_call_without_a_run_between_is_refused_and_changes_nothing(run):
    append(PORTFOLIO)
    before = snapshot()
    with pytest.raises(PaletteError, match="already; run `dvc repro` first"):
        append(PORTFOLIO)
    assert snapshot() == before


def test_a_passed_portfolio_needs_nothing(run):
    write_verdict(True, [])
    before = snapshot()
    result = palette_extend()
    assert result.exit_code == 0
    assert "passed already" in result.output
    assert snapshot() == before


def test_where_nothing_would_help_the_advice_is_the_error(run):
    write_verdict(False, [], "Train longer (adapters.steps).")
    before = snapshot()
    with pytest.raises(PaletteError, match=r"^Train longer \(adapters\.steps\)\.$"):
        append(PORTFOLIO)
    assert palette_extend().exit_code == 1
    assert snapshot() == before


def test_killed_between_its_two_files_the_same_call_goes_on(run, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(params_edit, "set_value", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            append(PORTFOLIO)
    assert yaml.safe_load(Path("params.yaml").read_text())["plan"]["pinned"] is None
    append(PORTFOLIO)
    assert yaml.safe_load(Path("params.yaml").read_text())["plan"]["pinned"] == str(PINNED)
    assert pinned.read(PINNED, TRAITS)[1].tolist() == [0, 0, 1, 1]


def test_a_file_that_nobody_named_is_not_overwritten(run):
    PINNED.parent.mkdir(parents=True)
    PINNED.write_text("brevity,humor\n0.5,0.5\n")
    with pytest.raises(PaletteError, match=r"pinned\.csv exists, but params\.yaml does not name"):
        append(PORTFOLIO)
    assert PINNED.read_text() == "brevity,humor\n0.5,0.5\n"


def test_a_portfolio_elsewhere_brings_its_own_plan(run):
    Path("data").rename("earlier")
    result = palette_extend("--portfolio", "earlier/portfolio/portfolio.json")
    assert result.exit_code == 0
    assert len(pinned.read(PINNED, TRAITS)[0]) == 4


def test_a_portfolio_of_other_traits_is_refused(run):
    Path("params.yaml").write_text("traits: {brevity: {kind: brevity}}\n")
    with pytest.raises(PaletteError, match="does not fit params"):
        append(PORTFOLIO)


def test_what_is_written_is_read_back(tmp_path):
    weights = np.array([[0.07, 0.93], [0.29, 0.71], [1.0, 0.0]])
    pinned.write(tmp_path / "new/pinned.csv", TRAITS, weights, np.array([0, 3, 12]))
    read = pinned.read(tmp_path / "new/pinned.csv", TRAITS)
    assert np.array_equal(read[0], weights)
    assert read[1].tolist() == [0, 3, 12]
    assert pl.read_csv(tmp_path / "new/pinned.csv").columns == ["brevity", "humor", "round"]


def test_a_trait_named_round_cannot_be_counted(tmp_path):
    with pytest.raises(PaletteError, match="rename the trait"):
        pinned.write(tmp_path / "x.csv", ["round"], np.ones((1, 1)), np.zeros(1, dtype=int))
