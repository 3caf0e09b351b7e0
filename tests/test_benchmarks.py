"""Benchmarks start: what they import is there (within functions: mypy), and typer knows their options."""

import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
EVERY = sorted(FOLDER.glob("*.py"))
WITH_HELP = {path.stem for path in EVERY if "\n    typer.run(main)\n" in path.read_text()}


@pytest.fixture(scope="module", autouse=True)
def found_first():
    """Benchmarks import each other by name; so do tests, and both have a module `worlds`."""
    names = [path.stem for path in EVERY]
    kept = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(kept)


def test_benchmarks_are_looked_at():
    assert {"portfolio", "verdict", "coverage", "scale"} <= WITH_HELP


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.stem)
def test_a_benchmark_starts(path, monkeypatch, capsys):
    if path.stem not in WITH_HELP:
        runpy.run_path(str(path))
        return
    monkeypatch.setattr(sys, "argv", [path.name, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert not ended.value.code
    assert "Usage" in capsys.readouterr().out
