"""`palette diff` on real commits of a tiny project, and the workflow that shows it on GitHub."""

import json
import os
import re
import shutil
import subprocess

import pytest
import yaml
from tiny_project import SOURCE, Project

from palette.review.markdown import MARKER

WORKFLOW = SOURCE / ".github/workflows/review.yml"
GH = """#!/usr/bin/env python3
import json, subprocess, sys
from pathlib import Path

state = Path("comments.json")
comments = json.loads(state.read_text())
arguments = sys.argv[1:]
options = {word: arguments[place + 1] for place, word in enumerate(arguments[:-1])}
path = next(word for word in arguments if word.startswith("repos/"))
if "--field" not in options:
    assert path == "repos/o/r/issues/7/comments"
    sys.exit(subprocess.run(["jq", "-r", options["--jq"]], input=state.read_bytes()).returncode)
key, _, file = options["--field"].partition("=@")
body = Path(file).read_text()
if options["--method"] == "PATCH":
    (comment,) = [c for c in comments if path == f"repos/o/r/issues/comments/{c['id']}"]
    comment[key] = body
else:
    assert path == "repos/o/r/issues/7/comments" and options["--method"] == "POST"
    comments.append({"id": 100 + len(comments), "user": {"type": "Bot"}, key: body})
state.write_text(json.dumps(comments))
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def changed(reproduced, tmp_path_factory) -> Project:
    """A branch that moves one member, drops two and asks for a smaller ε; main has gone on. Read only."""
    project = reproduced.copy(tmp_path_factory.mktemp("diff") / "project")
    project.must("git", "checkout", "--quiet", "-b", "fewer")
    project.set("plan", weights=[0.1, 0.35])
    project.dvc("repro", "--quiet")
    project.commit("fewer members")
    project.must("git", "checkout", "--quiet", "main")
    (project.root / "notes.txt").write_text("main goes on")
    project.set("prompts", seed=9)
    project.dvc("repro", "--quiet")
    project.commit("another seed")
    project.must("git", "checkout", "--quiet", "fewer")
    project.dvc("checkout", "--quiet")
    return project


def test_a_branch_is_laid_beside_where_it_left_main(changed):
    done = changed.palette("diff")
    assert (done.status, done.err) == (0, "")
    fork = changed.must("git", "merge-base", "main", "HEAD").strip()
    for line in (
        "## palette: PASS → FAIL, ε 10.00% → ε 20.00%, 4 members → 2 members",
        f"Since `{fork[:8]}`.", "`dvc.lock` fits",
        "| plan.weights | \\[0.1, 0.3, 0.5, 0.9\\] | \\[0.1, 0.35\\] |",
        "| m30 → m35 | moved by 5% |", "| m50 | dropped |",
        "| portfolio | 0.600 (0.590 to 0.610) | 0.500 (0.490 to 0.510) |  |  | **apart** |",
        "![reports/simplex.svg](reports/simplex.svg)",
        "| `portfolio` | `data/portfolio` |",
        "<summary><code>How do I mend a pan?</code></summary>",
        "&lt;b&gt;no&lt;/b&gt; | @you at 0.2</code>",
    ):  # fmt: skip
        assert line in done.out, line
    assert "prompts.seed" not in done.out  # main's own progress is no change of the branch
    # users 0 to 2, 3 to 5, ... were served by m10, m30, ...; now 0 to 5 by m10 and 6 to 11 by m35
    assert "| seen | 9 | 6 (67%) | 0 | 0 |" in done.out and "Counted user by user" in done.out
    assert "| unseen | 3 | 3 (100%) | 0 | 0 |" in done.out
    assert "secret-user" not in done.out


def test_a_named_commit_is_read_as_it_is(changed):
    done = changed.palette("diff", "main")
    assert "| prompts.seed | 9 | 0 |" in done.out and "Since `main (" in done.out
    nothing = changed.palette("diff", "HEAD").out
    assert "## palette: FAIL, ε 20.00%, 2 members\n" in nothing
    assert "### Parameters" not in nothing and "### Members" not in nothing


def test_a_clone_with_git_alone_tells_the_least_number_of_users(changed, tmp_path):
    clone = changed.clone(tmp_path / "clone")
    clone.must("git", "remote", "set-head", "origin", "main")  # as a clone of a server has it
    done = clone.palette("diff")
    assert done.status == 0, done.err
    assert "## palette: PASS → FAIL, ε 10.00% → ε 20.00%" in done.out
    assert "| seen | 9 | 3 (33%) | 0 | 0 |" in done.out and "At least so many" in done.out
    assert "secret-user" not in done.out
    clone.set("portfolio", epsilon=0.3)
    done = clone.palette("diff", "HEAD")
    assert "| portfolio.epsilon is 0.3, locked as 0.15 | `portfolio` |" in done.out
    assert "may run too: `routes`, `report`." in done.out
    assert "| portfolio.epsilon | 0.15 | 0.3 |" in done.out


def test_a_commit_without_a_report_is_no_error(changed, tmp_path):
    clone = changed.clone(tmp_path / "clone")
    clone.must("git", "rm", "--quiet", "-r", "reports", "dvc.lock")
    clone.commit("no report")
    clone.must("git", "checkout", "--quiet", "HEAD^", "--", "reports", "dvc.lock")
    done = clone.palette("diff", "HEAD")
    assert done.status == 0, done.err
    assert "## palette: FAIL, ε 20.00%, 2 members" in done.out
    assert "has no reports/samples.json to compare" in done.out


@pytest.mark.parametrize("revision", ["nowhere", "--all", "HEAD:params.yaml", "HEAD..main"])
def test_a_commit_that_git_does_not_know_is_one_sentence(changed, revision):
    done = changed.palette("diff", "--", revision)
    assert (done.status, done.out) == (1, "")
    assert done.err == (
        f"palette: git knows no commit '{revision}' here: fetch it, or name a branch, tag or commit\n"
    )


def test_no_git_no_commit_and_no_dvc_are_one_sentence_each(tmp_path):
    project = Project(tmp_path / "bare", tmp_path)
    project.root.mkdir()
    for command, said in (
        (None, "this folder is in no git repository"),
        (["git", "init", "--quiet"], "git has no commit yet"),
        (["git", "commit", "--quiet", "--allow-empty", "-m", "x"], "DVC cannot read the project"),
    ):
        if command:
            project.must(*command)
        done = project.palette("diff")
        assert (done.status, done.out) == (1, "")
        assert done.err.startswith(f"palette: {said}") and done.err.count("\n") == 1


def test_a_damaged_report_is_one_sentence(changed, tmp_path):
    clone = changed.clone(tmp_path / "clone")
    (clone.root / "reports/metrics.json").write_text("{ <<<<<<< main")
    done = clone.palette("diff")
    assert done.status == 1
    assert done.err.startswith("palette: reports/metrics.json is damaged: run `dvc repro`")


def steps() -> list[dict]:
    jobs = yaml.safe_load(WORKFLOW.read_text())["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


def test_the_workflow_runs_what_can_be_run_here_with_the_least_rights():
    workflow = yaml.safe_load(WORKFLOW.read_text())
    targets = re.findall(r"^([a-z./]+):", (SOURCE / "Makefile").read_text(), re.M)
    made = [words for step in steps() for words in re.findall(r"^make (\S+)", step.get("run", ""))]
    assert made == [".venv/ready", "review"] and set(made) <= set(targets)
    assert workflow["permissions"] == {}
    rights = {name: job["permissions"] for name, job in workflow["jobs"].items()}
    assert rights == {"review": {"contents": "read"}, "comment": {"pull-requests": "write"}}
    assert "pull_request_target" not in WORKFLOW.read_text()
    for step in steps():
        assert "uses" not in step or re.search(r"@[0-9a-f]{40}$", step["uses"])
        assert "${{" not in step.get("run", "")  # nothing of an event is ever a part of a command
    own = [step.get("uses", "") for step in workflow["jobs"]["comment"]["steps"]]
    assert not [used for used in own if "checkout" in used]  # no code of the pull request


@pytest.mark.skipif(
    not shutil.which("jq"), reason="gh has jq within; without it no query can be run"
)
def test_the_comment_is_written_once_and_then_edited(tmp_path):
    """The step's own command, with a `gh` that keeps comments in a file."""
    (script,) = [step["run"] for step in steps() if "gh api" in step.get("run", "")]
    assert MARKER in script
    gh = tmp_path / "bin/gh"
    gh.parent.mkdir()
    gh.write_text(GH)
    gh.chmod(0o755)
    human = {"id": 1, "user": {"type": "User"}, "body": f"{MARKER} quoted by a reader"}
    other = {"id": 2, "user": {"type": "Bot"}, "body": f"of another check {MARKER}"}
    state = tmp_path / "comments.json"
    state.write_text(json.dumps([human, other]))
    where = {"COMMENTS": "repos/o/r/issues/7/comments", "COMMENT": "repos/o/r/issues/comments"}
    where["PATH"] = f"{gh.parent}{os.pathsep}{os.environ['PATH']}"
    for text in (f"{MARKER}\nfirst", f"{MARKER}\nsecond"):
        (tmp_path / "review.md").write_text(text)
        subprocess.run(
            ["bash", "-e", "-c", script], cwd=tmp_path, env=os.environ | where, check=True
        )
        assert json.loads(state.read_text())[:2] == [human, other]
        (own,) = json.loads(state.read_text())[2:]
        assert own["body"] == text
