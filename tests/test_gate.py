"""The lock gate: who edits and does not reproduce is told which stages, with git's files alone."""

import re
import sys
from contextlib import chdir
from pathlib import Path

import pytest
import tiny_project
import yaml
from tiny_project import Project

from palette.errors import PaletteError
from palette.review import lock

pytestmark = pytest.mark.slow


@pytest.fixture
def clone(reproduced, tmp_path, monkeypatch) -> Project:
    """git's files alone, as on a machine that checks pull requests."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / ".site"))
    return reproduced.clone(tmp_path / "clone")


@pytest.fixture
def whole(reproduced, tmp_path, monkeypatch) -> Project:
    """With data and cache."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / ".site"))
    return reproduced.copy(tmp_path / "whole")


def standing(project: Project) -> lock.Staleness:
    with chdir(project.root), lock.opened(Path.cwd()) as repo:
        return lock.staleness(repo)


def edit(project: Project, what: str) -> None:
    root = project.root
    pipeline = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    if what == "epsilon":
        project.set("portfolio", epsilon=0.2)
    elif what == "trait":
        project.set("traits", humor=3)
    elif what == "a key is gone":
        (root / "params.yaml").write_text(
            (root / "params.yaml").read_text().replace("humor: 2", "")
        )
    elif what == "code":
        (root / "stages.py").write_text((root / "stages.py").read_text() + "# another\n")
    elif what == "code is gone":
        (root / "stages.py").unlink()
    elif what == "input":
        (root / "inputs/more.csv").write_text("prompt\nhow?\n")
    elif what == "command":
        pipeline["routes"]["cmd"] += " "
        pipeline["routes"]["cmd"] += "again"
    elif what == "dep":
        pipeline["routes"]["deps"].append("inputs")
    elif what == "report":
        (root / "reports/metrics.json").write_text("{}")
    elif what == "new stage":
        pipeline["more"] = tiny_project.stage("more", ["inputs"], ["data/more.txt"], [])
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": pipeline}, sort_keys=False))


AFTER_PORTFOLIO = ["routes", "report"]
EDITS = {
    "nothing": ({}, []),
    "epsilon": (
        {"portfolio": ["portfolio.epsilon is 0.2, locked as 0.15"]}, AFTER_PORTFOLIO,
    ),
    "trait": ({"rewards@humor": ["traits.humor is 3, locked as 2"]}, ["portfolio", *AFTER_PORTFOLIO]),
    "a key is gone": (
        {"rewards@humor": ["traits.humor is not there, locked as 2"]},
        ["portfolio", *AFTER_PORTFOLIO],
    ),
    "code": (
        {
            name: ["stages.py is modified"]
            for name in ("prompts", "rewards@brevity", "rewards@humor", "portfolio", "routes", "report")
        },
        [],
    ),
    "code is gone": (
        {
            name: ["stages.py is deleted"]
            for name in ("prompts", "rewards@brevity", "rewards@humor", "portfolio", "routes", "report")
        },
        [],
    ),
    "input": (
        {"prompts": ["inputs is modified"]},
        ["rewards@brevity", "rewards@humor", "portfolio", *AFTER_PORTFOLIO],
    ),
    "command": ({"routes": ["its command is another"]}, ["report"]),
    "dep": ({"routes": ["dvc.lock does not have inputs"]}, ["report"]),
    "report": ({"report": ["reports is modified"]}, []),
    "new stage": ({"more": ["it has never run: dvc.lock does not have it"]}, []),
}  # fmt: skip


@pytest.mark.parametrize("what", EDITS)
def test_a_clone_without_data_names_the_stages_that_were_not_reproduced(clone, what):
    edit(clone, what)
    assert not (clone.root / "data").exists()
    found = standing(clone)
    stale, after = EDITS[what]
    assert found.stale == stale
    assert sorted(found.after) == sorted(after)


@pytest.mark.parametrize("what", ["trait", "command", "report"])
def test_with_data_dvc_would_run_the_same_stages(whole, what):
    edit(whole, what)
    would = whole.dvc("repro", "--dry")
    assert set(re.findall(r"Running stage '(.+)':", would)) == set(standing(whole).stale)
    assert whole.ran() == []


def test_data_that_lies_about_half_or_edited_changes_nothing(whole):
    (whole.root / "data/prompts.txt").unlink()
    (whole.root / "data/rewards/humor.txt").write_text("edited by hand")
    assert standing(whole) == lock.Staleness({}, [])


def test_what_is_reproduced_passes(whole, tmp_path):
    whole.set("portfolio", epsilon=0.2)
    whole.dvc("repro", "--quiet")
    assert "portfolio" in whole.ran()
    whole.commit("another epsilon")
    assert standing(whole.clone(tmp_path / "again")) == lock.Staleness({}, [])


def test_what_is_reproduced_by_half_is_stale_without_any_data(whole, tmp_path):
    """As where git merged two branches' dvc.lock: every stage fits, but not what it was made from."""
    whole.set("traits", humor=3)
    whole.dvc("repro", "--quiet", "rewards@humor")
    whole.commit("another humor")
    found = standing(whole.clone(tmp_path / "half"))
    assert found.stale == {"portfolio": ["data/rewards is another than it was made from"]}
    assert found.after == AFTER_PORTFOLIO


def test_a_file_in_a_stages_folder_is_looked_up_where_a_cache_has_the_folder(whole):
    locked = yaml.safe_load((whole.root / "dvc.lock").read_text())
    dep = next(
        d for d in locked["stages"]["routes"]["deps"] if d["path"].endswith("portfolio.json")
    )
    dep["md5"] = "0" * 32
    (whole.root / "dvc.lock").write_text(yaml.safe_dump(locked, sort_keys=False))
    why = "data/portfolio/portfolio.json is another than it was made from"
    assert standing(whole).stale == {"routes": [why]}


def test_the_command_exits_with_a_status_and_one_sentence(clone):
    fits = clone.palette("stale")
    assert (fits.status, fits.err) == (0, "")
    assert fits.out == "dvc.lock fits: `dvc repro` has nothing to run\n"
    edit(clone, "epsilon")
    fails = clone.palette("stale")
    assert fails.status == 1
    assert fails.out.splitlines() == [
        "portfolio: portfolio.epsilon is 0.2, locked as 0.15", "after them: routes, report",
    ]  # fmt: skip
    assert fails.err == (
        "palette: dvc.lock does not fit: run `dvc repro` and commit what it writes\n"
    )


def test_a_folder_without_dvc_or_with_a_broken_file_is_one_sentence(clone, tmp_path):
    with pytest.raises(
        PaletteError, match=r"DVC cannot read the project in .*not a DVC repo|not in"
    ):
        standing(Project(tmp_path, tmp_path))
    (clone.root / "dvc.yaml").write_text("stages: [")
    with pytest.raises(PaletteError, match="DVC cannot read the project in"):
        standing(clone)


def test_make_review_shows_what_changed_and_fails_where_the_gate_does(clone):
    (clone.root / ".venv").symlink_to(sys.prefix)
    make = (
        "make",
        "--no-print-directory",
        "--assume-old",
        ".venv/ready",
        "review",
        "PICTURES=https://example.org/raw/abc",
    )
    done = clone.run(*make)
    assert done.status == 0, done.err
    assert done.out.startswith("<!-- palette diff -->\n## palette: PASS")
    assert done.out.endswith("dvc.lock fits: `dvc repro` has nothing to run\n")
    edit(clone, "trait")
    (clone.root / "reports/simplex.svg").write_text("<svg/>")
    done = clone.run(*make, "REV=HEAD")
    assert done.status != 0
    assert "| traits.humor is 3, locked as 2 | `rewards@humor` |" in done.out
    assert "](https://example.org/raw/abc/reports/simplex.svg)" in done.out
    assert "palette: dvc.lock does not fit" in done.err
    assert (clone.root / ".palette/review.md").read_text() in done.out
    assert clone.ran() == []
