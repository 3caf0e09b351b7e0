"""`palette keep-routes`: what it writes, and that only one line of params.yaml changes."""

from pathlib import Path

import polars as pl
import pytest

from palette import routes, tables
from palette.commands.keep_routes import keep_routes
from palette.errors import PaletteError
from palette.params_file import load

PARAMS = (Path(__file__).parents[1] / "params.yaml").read_text()
KEPT = Path("inputs/routes/routes.csv")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(PARAMS)
    return tmp_path


def write_routes(**members: str) -> None:
    told = {
        "edit": "everyone",
        "strength": 0.5,
        "layers": "all",
        "regret": 0.0,
        "worst_regret": 0.1,
        "uncertain": False,
        "robust": "base",
    }
    rows = [{"user_id": user, "member": own, "moved": True} for user, own in members.items()]
    tables.write("routes", pl.DataFrame(rows).with_columns(
        **{name: pl.lit(value) for name, value in told.items()}
    ))  # fmt: skip


def test_kept_routes_are_those_of_the_run_and_the_parameter_names_them(folder, capsys):
    write_routes(cy="base", ann="brevity70-humor30", bob='"odd", id')
    keep_routes()
    assert KEPT.read_text().splitlines()[:2] == ["user_id,member", "ann,brevity70-humor30"]
    kept = routes.read_previous(load().routes.previous)
    assert kept == {"ann": "brevity70-humor30", "bob": '"odd", id', "cy": "base"}
    assert "kept the routes of 3 users in inputs/routes/routes.csv" in capsys.readouterr().out
    assert [path.name for path in KEPT.parent.iterdir()] == ["routes.csv"]


def test_one_line_of_the_parameters_changes_and_nothing_when_it_is_done_again(folder):
    write_routes(ann="base")
    keep_routes()
    changed = Path("params.yaml").read_text()
    before, after = PARAMS.splitlines(), changed.splitlines()
    differ = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert len(differ) == 1
    assert differ[0][1].split("#")[0].split() == ["previous:", str(KEPT)]
    assert differ[0][0].split("#")[1:] == differ[0][1].split("#")[1:]  # its comment is kept
    write_routes(ann="brevity100")
    keep_routes()
    assert Path("params.yaml").read_text() == changed
    assert routes.read_previous(str(KEPT)) == {"ann": "brevity100"}


def test_a_file_of_ones_own_is_kept_up_to_date_where_it_is(folder):
    own = "inputs/routes/mine.csv"
    text = PARAMS.replace("previous: null", f"previous: {own}")
    assert text != PARAMS
    Path("params.yaml").write_text(text)
    write_routes(ann="base")
    keep_routes()
    assert routes.read_previous(own) == {"ann": "base"}
    assert not KEPT.exists() and Path("params.yaml").read_text() == text


def test_without_a_run_nothing_is_written(folder):
    with pytest.raises(PaletteError, match=r"routes\.parquet does not exist; run `dvc repro`"):
        keep_routes()
    assert Path("params.yaml").read_text() == PARAMS and not KEPT.parent.exists()
