"""`palette cost`: members really loaded and measured, and one per user reckoned from them."""

import json
import re
from pathlib import Path

import pytest
from tiny_chain import PARAMS

from palette import tables
from palette.commands import cost
from palette.errors import PaletteError

SIZES = {"a": (0.2, 0.1), "b": (0.4, 0.3)}


@pytest.fixture
def run(chain, tmp_path, monkeypatch, capsys) -> Path:
    """The finished chain, seen from a folder with a params.yaml."""
    (tmp_path / "data").symlink_to(chain / "data")
    (tmp_path / "params.yaml").write_text(json.dumps(PARAMS.model_dump(mode="json")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def rows_of(out: str) -> dict[str, list[str]]:
    """First cell → the others."""
    cells = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines() if line.strip()]
    return {first: rest for first, *rest in cells}


def test_every_member_is_measured_and_nothing_is_written(run, capsys):
    before = sorted((path, path.stat().st_mtime_ns) for path in run.glob("data/**/*"))
    cost.cost()
    out = capsys.readouterr().out
    rows, served = rows_of(out), dict(tables.read("routes")["member"].value_counts().rows())
    members = tables.read_json(tables.DATA / "portfolio" / "portfolio.json")["members"]
    assert members
    for member in members:
        users, stored, weights, milliseconds = rows[member["id"]]
        folder = tables.DATA / "adapters" / member["id"]
        files = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
        assert int(users) == served.get(member["id"], 0)
        assert float(stored) == pytest.approx(files, abs=1e-3)
        assert 0 < float(weights) < float(stored) and float(milliseconds) > 0
    assert f"one per user: {sum(served.values())} adapters" in rows
    assert before == sorted((path, path.stat().st_mtime_ns) for path in run.glob("data/**/*"))


def test_loading_times_are_medians_and_members_stay_apart(run, monkeypatch):
    import peft

    from palette.lm.models import load_base

    loaded = []
    load = peft.PeftModel.load_adapter
    monkeypatch.setattr(peft.PeftModel, "load_adapter", lambda self, folder, name, **more: (
        loaded.append((Path(folder).name, name)), load(self, folder, name, **more)
    )[1])  # fmt: skip
    names = sorted(path.name for path in Path("data/adapters").glob("*-*"))[:2]
    held = cost.measure(load_base("cpu").model, {n: tables.DATA / "adapters" / n for n in names})
    assert set(held.seconds) == set(names) and min(held.seconds.values()) > 0
    assert held.all > 0 and held.base > 0
    for place, name in enumerate(names):
        assert loaded.count((name, f"member{place}")) == 1 + cost.REPEATS


def test_one_per_user_is_the_mean_member_as_often_as_there_are_users(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    held = cost.Held(base=100.0, all=103.0, seconds={"a": 0.01, "b": 0.03})
    cost.show(SIZES, {"a": 5, "b": 3, "base": 2}, held)
    out = capsys.readouterr().out
    rows = rows_of(out)
    assert rows["a"] == ["5", "0.200", "0.100", "10.0"]
    assert rows["this portfolio: 2 adapters"] == ["10", "0.6", "0.4", "3.0", "40.0"]
    assert rows["one per user: 10 adapters"] == ["10", "3.0", "2.0", "15.0", "200.0"]
    assert "100.0 MB with the base and 103.0 MB with 2 members" in out


def test_memory_that_shrank_meanwhile_is_no_negative_cost(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    cost.show(SIZES, {"a": 1}, cost.Held(100.0, 99.0, {"a": 0.01, "b": 0.01}))
    assert "0.00 MB each" in capsys.readouterr().out


def test_before_a_run_it_says_so_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("traits: {brevity: {kind: brevity}}\n")
    with pytest.raises(PaletteError, match=r"portfolio\.json does not exist; run `dvc repro`"):
        cost.cost()


def test_a_missing_adapter_or_none_at_all_is_named(run, chain, monkeypatch, tmp_path):
    (tmp_path / "data").unlink()
    for part in ("portfolio", "routes"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / part).symlink_to(chain / "data" / part)
    with pytest.raises(PaletteError, match="holds no adapter; run `dvc repro`"):
        cost.cost()
    content = tables.read_json(tables.DATA / "portfolio" / "portfolio.json")
    (tmp_path / "data" / "portfolio").unlink()
    tables.write_json(tmp_path / "data/portfolio/portfolio.json", content | {"members": []})
    with pytest.raises(PaletteError, match="the base alone serves every user"):
        cost.cost()
