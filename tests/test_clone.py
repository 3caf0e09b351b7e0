"""The worker's clone, the branch of results and the options of a run: git and files, no server."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows import clone as clones
from flows.branch import UNASKED, Branch
from flows.options import Options
from flows.vcs import git, resolve
from palette.errors import PaletteError
from palette.params_file import load

PARAMS = """\
base: {model: sandbox}
users:
  file: null              # histories
traits: {brevity: {kind: brevity}}
portfolio:
  epsilon: 0.05           # asked
runtime: {store: .palette/store}
"""

COMMIT = 5 * "01234567"


def commit(root: Path, **files: str) -> str:
    """Write files, commit all, and give the commit; `_` in a name stands for `.`."""
    for name, text in files.items():
        path = root / name.replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    git(root, "add", "--all")
    git(root, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "more")
    return resolve(root, "HEAD")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("clones") / "project"
    (root / "reports").mkdir(parents=True)
    (root / "inputs/users").mkdir(parents=True)
    (root / ".gitignore").write_text(".palette/\n/data/\n*.csv\n")
    (root / "inputs/users/README.md").write_text("histories")
    (root / "reports/metrics.json").write_text("{}")
    git(root, "init", "--quiet", "--initial-branch", "main")
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=root, check=True)
    commit(
        root, params_yaml=PARAMS, dvc_lock="stages: {}\n", code_py="1\n", dvc_yaml="stages: {}\n"
    )
    return root


@pytest.fixture
def checkout(project, tmp_path):
    """A project with results, and nothing to run."""
    return Path(shutil.copytree(project, tmp_path / "project"))


@pytest.fixture
def clone(checkout, monkeypatch):
    found = clones.make(checkout, str(checkout))
    monkeypatch.chdir(found)
    (found / "data").mkdir()  # there are no artifacts to restore
    clones.refresh(found)
    return found


def made(root: Path, lock: str, metrics: str = "{}") -> None:
    """What a run leaves behind."""
    (root / "dvc.lock").write_text(lock)
    (root / "reports/metrics.json").write_text(metrics)


def test_a_clone_shares_cache_environment_and_store(checkout, clone):
    from dvc.repo import Repo

    (checkout / ".venv").mkdir()
    clones.make(checkout, str(checkout))  # a second start finds it
    clones.bring(clone, load())
    with Repo(str(clone)) as here, Repo(str(checkout)) as there:
        assert here.cache.local.path == there.cache.local.path
    assert (clone / ".venv").resolve() == checkout / ".venv"
    assert (clone / ".palette/store").resolve() == checkout / ".palette/store"
    assert clones.checkout_of(clone) == checkout
    assert clones.is_clone(clone) and not clones.is_clone(checkout)


def test_a_refresh_follows_the_code_and_keeps_what_was_made(checkout, clone):
    made(clone, "stages: {a: 1}\n", '{"passed": 1}')
    (clone / "code.py").write_text("of a run that was killed\n")
    tip = commit(checkout, code_py="2\n", more_py="3\n")
    clones.refresh(clone)
    assert resolve(clone, "HEAD") == tip
    assert (clone / "code.py").read_text() == "2\n"
    assert (clone / "more.py").exists()
    assert (clone / "dvc.lock").read_text() == "stages: {a: 1}\n"
    assert (clone / "reports/metrics.json").read_text() == '{"passed": 1}'


def test_a_refresh_takes_results_that_were_committed_meanwhile(checkout, clone):
    made(clone, "stages: {a: 1}\n")
    commit(checkout, dvc_lock="stages: {b: 2}\n")
    clones.refresh(clone)
    assert (clone / "dvc.lock").read_text() == "stages: {b: 2}\n"


def test_another_environment_is_refused(checkout, clone):
    commit(checkout, requirements_txt="numpy==1\n")
    clones.refresh(clone)
    (checkout / "requirements.txt").write_text("numpy==2\n")
    with pytest.raises(PaletteError, match=r"requirements.txt of .* is not the one"):
        clones.refresh(clone)


def test_a_source_that_is_gone_is_one_sentence(checkout, clone, monkeypatch):
    monkeypatch.setattr(clones, "PAUSE", 0.0)
    git(clone, "remote", "set-url", "origin", str(checkout / "nowhere"))
    with pytest.raises(PaletteError, match=r"git fetch failed in .*: fatal:"):
        clones.refresh(clone)


def test_the_pull_step_leaves_refusals_to_the_flow(checkout, clone, monkeypatch):
    monkeypatch.setenv("PALETTE_CLONE", str(clone))
    monkeypatch.setenv(clones.REFUSAL, "")
    commit(checkout, requirements_txt="numpy==1\n")
    (checkout / "requirements.txt").write_text("numpy==2\n")
    assert clones.enter() == {"directory": str(clone)}
    from flows.run import begin

    monkeypatch.setattr(clones.leash, "follow", lambda: None)
    with pytest.raises(PaletteError, match=r"requirements.txt of .* is not the one"):
        begin(Options(), Branch(clone), None)


def test_results_are_committed_where_they_changed_and_nothing_else_is(checkout, clone):
    branch = Branch(clone, "nightly", push=True)
    assert branch.publish("none") == "nothing has changed on branch 'nightly'"
    assert resolve(checkout, "nightly") is None
    made(clone, "stages: {a: 1, b: 2}\n")
    (clone / "scratch.txt").write_text("mine")
    assert branch.publish("one").endswith("on branch 'nightly' and pushed it")
    assert git(checkout, "diff", "--name-only", "main", "nightly") == "dvc.lock"
    first = resolve(checkout, "nightly")
    made(clone, "stages: {b: 2, a: 1}\n")  # DVC keeps the order in which stages ran
    assert branch.publish("two") == "nothing has changed on branch 'nightly'"
    assert resolve(checkout, "nightly") == first
    assert git(clone, "status", "--porcelain", "--", "code.py", "dvc.yaml") == ""


def test_what_could_not_be_pushed_is_pushed_by_the_next_run(checkout, clone):
    made(clone, "stages: {a: 1}\n")
    branch = Branch(clone, "nightly", push=True)
    git(clone, "remote", "set-url", "origin", str(checkout / "nowhere"))
    with pytest.raises(PaletteError, match="git push failed"):
        branch.publish("one")
    git(clone, "remote", "set-url", "origin", str(checkout))
    assert branch.publish("one") == "nothing has changed on branch 'nightly'"
    assert resolve(checkout, "nightly") == resolve(clone, "nightly")


def test_a_branch_goes_on_from_its_tip_and_from_newer_code(checkout, clone):
    branch = Branch(clone, "nightly", push=True)
    made(clone, "stages: {a: 1}\n")
    branch.publish("one")
    first, tip = resolve(clone, "nightly"), commit(checkout, code_py="2\n")
    clones.refresh(clone)
    branch.lay()
    made(clone, "stages: {a: 2}\n")
    branch.publish("two")
    assert git(clone, "rev-parse", "nightly^1", "nightly^2").split() == [first, tip]
    assert git(clone, "show", "nightly:code.py") == "2"
    made(clone, "stages: {a: 3}\n")
    branch.publish("three")
    assert git(clone, "rev-list", "--count", "--first-parent", "nightly") == "4"


def test_parameters_that_a_run_changed_stay_on_its_branch_alone(checkout, clone):
    branch = Branch(clone, "tight", push=True)
    assert Options(epsilon=0.03).apply(clone) == ["portfolio.epsilon: 0.05 → 0.03"]
    branch.publish("tight")
    clones.refresh(clone)
    assert load().portfolio.epsilon == 0.05
    Branch(clone).lay()
    assert load().portfolio.epsilon == 0.05
    branch.lay()
    assert load().portfolio.epsilon == 0.03
    commit(checkout, params_yaml=PARAMS.replace("0.05", "0.08"))
    clones.refresh(clone)
    with pytest.raises(PaletteError, match=r"both branch 'tight' and .* have changed params.yaml"):
        branch.lay()


def test_a_branch_that_others_moved_is_followed_or_refused(checkout, clone):
    branch = Branch(clone, "nightly", push=True)
    made(clone, "stages: {a: 1}\n")
    branch.publish("one")
    git(checkout, "checkout", "--quiet", "nightly")
    theirs = commit(checkout, note_txt="reviewed")
    git(checkout, "checkout", "--quiet", "main")
    branch.lay()
    assert resolve(clone, "nightly") == theirs
    made(clone, "stages: {a: 2}\n")
    Branch(clone, "nightly").publish("two")
    git(checkout, "checkout", "--quiet", "nightly")
    commit(checkout, note_txt="reviewed again")
    with pytest.raises(PaletteError, match="branch 'nightly' has gone two ways"):
        branch.lay()


def test_without_a_branch_the_clone_alone_remembers_what_was_published(checkout, clone):
    made(clone, "stages: {a: 1}\n")
    assert Branch(clone).published() == "HEAD"
    assert Branch(clone).publish("one") is None
    assert git(clone, "show", f"{UNASKED}:dvc.lock") == "stages: {a: 1}"
    assert git(clone, "branch", "--format", "%(refname:short)", "--list", "[a-z]*") == "main"
    assert Branch(checkout).publish("one") is None
    assert resolve(checkout, UNASKED) is None


def test_a_checkouts_results_go_to_another_branch_unless_code_is_uncommitted(checkout):
    made(checkout, "stages: {a: 1}\n")
    branch = Branch(checkout, "results")
    branch.check()
    (checkout / "code.py").write_text("2\n")
    with pytest.raises(PaletteError, match="changes that are in no commit"):
        branch.check()
    (checkout / "code.py").write_text("1\n")
    git(checkout, "config", "user.name", "a")
    git(checkout, "config", "user.email", "a@b")
    assert branch.publish("one").startswith("committed ")
    assert git(checkout, "symbolic-ref", "--short", "HEAD") == "main"
    assert git(checkout, "diff", "--name-only", "main", "results") == "dvc.lock"


@pytest.mark.parametrize(
    ("name", "push", "words"),
    [
        ("main", False, "checked out here"),
        ("two words", False, "no branch's name"),
        ("--force", False, "no branch's name"),
        ("results", True, "no remote 'origin'"),
        (None, True, "push needs commit"),
    ],
)
def test_branches_that_cannot_be_are_refused(checkout, name, push, words):
    with pytest.raises(PaletteError, match=words):
        Branch(checkout, name, push).check()


def test_options_edit_params_whole_or_not_at_all(checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    (checkout / "inputs/users/today.csv").write_text("user_id,prompt,response\n")
    options = Options(f"owner/name@{COMMIT}", "inputs/users/today.csv", 0.04)
    assert options.apply(checkout) == [
        "users.file: None → inputs/users/today.csv", "portfolio.epsilon: 0.05 → 0.04",
        "base.model: sandbox → owner/name", f"base.revision: None → {COMMIT}",
    ]  # fmt: skip
    text = (checkout / "params.yaml").read_text()
    assert "epsilon: 0.04           # asked" in text
    with pytest.raises(PaletteError, match=r"^params.yaml: portfolio.epsilon is 2"):
        Options(histories="inputs/users/README.md", epsilon=2.0).apply(checkout)
    assert (checkout / "params.yaml").read_text() == text
    assert options.apply(checkout) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (Options(histories="inputs/users/none.csv"), "there is no such file"),
        (Options(histories="/etc/passwd"), "must lie in inputs/users/"),
        (Options(base="owner/name"), "pin base.revision"),
        (Options(base="./nowhere"), "is not a directory"),
        (Options(epsilon=0.001), "plan.epsilon is 0.02, but must be at most"),
    ],
)
def test_options_that_cannot_be_are_refused(checkout, monkeypatch, options, words):
    monkeypatch.chdir(checkout)
    before = yaml.safe_load((checkout / "params.yaml").read_text())
    with pytest.raises(PaletteError, match=words):
        options.apply(checkout)
    assert yaml.safe_load((checkout / "params.yaml").read_text()) == before


def test_files_that_git_does_not_track_are_brought_from_the_checkout(checkout, clone):
    (checkout / "inputs/users/today.csv").write_text("user_id,prompt,response\n")
    Options(histories="inputs/users/today.csv").apply(clone)
    assert (clone / "inputs/users/today.csv").read_text() == "user_id,prompt,response\n"
    clones.refresh(clone)
    Options().apply(clone)
    assert not (clone / "inputs/users/today.csv").exists()
