"""Forgetting: of a user who was forgotten, nothing is left in any file, and no later run brings them back.

A DVC project of the real stages on the world of tests/tiny_chain.py, with a remote in a folder.
"""

import hashlib
import shutil
from pathlib import Path

import everywhere
import polars as pl
import pytest
import tiny_chain
import tiny_models
import yaml
from tiny_project import SOURCE, Done, Project

from palette import forgotten, tables
from palette.errors import PaletteError
from palette.forgetting import Step, inputs
from palette.forgetting.versions import Run, spread

GONE, WORD = "eve-4711", "quixotry"
PRIVATE, SECRET = "nub-5150", "sesquipedal"
ALL = [GONE, WORD]
HISTORIES = tiny_chain.HISTORIES | {
    GONE: [f"haha {WORD}", "haha", WORD], PRIVATE: [f"careful {SECRET}", "careful"]
}  # fmt: skip
BROKEN = f"\n{GONE},how mend,{WORD},true,one cell too many"
SCRIPT = f"""
import sys
sys.path.insert(0, {str(SOURCE / "tests")!r})
import tiny_chain
from palette import report, tables
stages = tiny_chain.STAGES
if sys.argv[1] == "users":
    tiny_chain.run_stages(["users"])
elif sys.argv[1] == "users-free":
    tiny_chain.run_stages(["prompts", "rollouts", "rewards", "family", "plan", "adapters", "values",
                           "portfolio"])
elif sys.argv[1] == "rest":
    tiny_chain.run_stages(["insights", "preferences", "subspaces", "tuning base", "tuning members",
                           "routes", "baselines", "evaluation"])
else:
    tables.write_json(tables.DATA / "sandbox" / "skills.json", {{}})
    report.main(tiny_chain.PARAMS)
"""


def made(*names: str) -> list[str]:
    return [f"data/{name}" for name in names]


STAGES = {
    "users": {
        "cmd": "python stages.py users", "deps": ["inputs/users"],
        "outs": made(*(f"users/{n}.parquet" for n in ("users", "histories", "rejected", "hidden"))),
    },
    "free": {
        "cmd": "python stages.py users-free", "deps": ["inputs/prompts"],
        "outs": made("prompts", "rollouts", "rewards", "family", "plan", "adapters", "values",
                     "portfolio"),
    },
    "rest": {
        "cmd": "python stages.py rest", "deps": ["data/users/users.parquet",
                                                 "data/users/histories.parquet", "data/portfolio"],
        "outs": made("insights", "preferences", "subspaces", "tuning", "routes", "baselines",
                     "evaluation"),
    },
    "report": {
        "cmd": "python stages.py report", "deps": ["data/evaluation", "data/routes"],
        "outs": [{"reports": {"cache": False}}],
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory, warm) -> Project:
    """After a run of all stages, and an earlier one of `users`, both pushed. Tests change it in turn."""
    home = tmp_path_factory.mktemp("forget")
    project = Project(home / "project", home, warm.python)
    project.root.mkdir()
    users = project.root / "inputs/users/users.csv"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_chain, "PUBLIC", [*tiny_chain.PUBLIC, GONE])
        tiny_chain.write_inputs(project.root, HISTORIES)
    (project.root / "inputs/traits").mkdir()
    users.write_text(users.read_text() + BROKEN)
    (project.root / "stages.py").write_text(SCRIPT)
    (project.root / "params.yaml").write_text(
        yaml.safe_dump(tiny_chain.PARAMS.model_dump(mode="json"))
    )
    (project.root / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}, sort_keys=False))
    (project.root / ".gitignore").write_text("/data/\n/store/\n/reports/\n/inputs/\n/.palette/\n")
    tiny_models.save(tiny_chain.base(), project.root / tables.DATA / "base")
    project.must("git", "init", "--quiet", "--initial-branch", "main")
    project.dvc("init", "--quiet")
    project.dvc("remote", "add", "--quiet", "--default", "team", str(home / "remote"))
    text = users.read_text()
    users.write_text(text + f"\n{GONE},how wipe,{WORD} twice,true")
    project.dvc("repro", "--quiet", "users")
    project.dvc("push", "--quiet", "--run-cache")
    users.write_text(text)
    project.dvc("repro", "--quiet")
    project.dvc("push", "--quiet", "--run-cache")
    project.commit("first run")
    return project


@pytest.mark.slow
def test_reports_tell_nothing_of_users_who_are_not_public(project):
    """Neither their names nor their words, whatever the file; of public users there is something."""
    private = [user for user in HISTORIES if user not in (*tiny_chain.PUBLIC, GONE)]
    assert PRIVATE in private
    names = [user for user in private if user == PRIVATE]  # the others' names are words of pages
    assert everywhere.files_with(project.root / "data", [PRIVATE, SECRET])
    assert not everywhere.files_with(project.root / "reports", [*names, SECRET])
    assert everywhere.files_with(project.root / "reports", [GONE])
    assert everywhere.files_with(project.root / "reports", [WORD])


@pytest.mark.slow
def test_a_user_is_found_everywhere_before(project):
    found = everywhere.files_with(project.home, ALL)
    for place in ("inputs/users/users.csv", "data/users/histories", "data/users/rejected",
                  "data/routes/routes", "data/insights/insights", "data/subspaces/groups",
                  "store/users/", "reports/index.html", ".dvc/cache/files"):  # fmt: skip
        assert any(name.startswith(f"project/{place}") for name in found), place
    assert any(name.startswith("remote/files") for name in found)


@pytest.mark.slow
def test_a_dry_run_does_nothing(project, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # no cell of the table wraps
    before = contents(project.home)
    done = project.palette("users", "forget", GONE, "--purge", "--dry-run")
    assert done.status == 0, done.err
    for word in ("inputs/users/users.csv", "4 records", "data/users/histories.parquet", "3 rows",
                 "DVC's cache", "remote 'team'", "store: users/", "reports/index.html"):  # fmt: skip
        assert word in done.out, word
    assert contents(project.home) == before


@pytest.mark.slow
def test_nothing_is_left_of_a_user_who_is_forgotten(project):
    original = (project.root / "inputs/users/users.csv").read_text()
    store = project.root / "store"
    kept = {str(p.relative_to(store)) for p in store.rglob("*") if p.is_file()}
    made, free = ({digest for out in STAGES[name]["outs"] for digest in digests(project, out)}
                  for name in ("rest", "free"))  # fmt: skip
    assert made | free <= objects(project.root / ".dvc/cache") & objects(project.home / "remote")
    done = project.palette("users", "forget", GONE, "--purge", "--yes")
    assert done.status == 0, done.err
    assert everywhere.files_with(project.home, ALL) == []
    # What was made of the user's rows is gone too, though nobody could read whose they were.
    for place in (project.root / ".dvc/cache", project.home / "remote"):
        assert not made & objects(place)
        assert free <= objects(place)
    assert "git add inputs/users/forgotten.txt" in done.out and "git's history" in done.out
    # What is not the user's is where it was, and whoever else is served is served as before.
    left = {str(p.relative_to(store)) for p in store.rglob("*") if p.is_file()}
    assert {name for name in kept if not name.startswith(("users/", "shared/"))} <= left
    assert any(name.startswith("users/") for name in left)
    others = set(HISTORIES) - {GONE} | set(tiny_chain.SILENT)
    assert set(read(project, "routes/routes")["user_id"]) == others
    project.dvc("repro", "--quiet")
    assert everywhere.files_with(project.home, ALL) == []
    assert set(read(project, "routes/routes")["user_id"]) == others
    project.dvc("push", "--quiet", "--run-cache")
    assert everywhere.files_with(project.home, ALL) == []
    # The next night's histories still have the user, and a row too broken to say whose it is.
    (project.root / "inputs/users/users.csv").write_text(original)
    project.dvc("repro", "--quiet", "users")
    assert everywhere.files_with(project.root, ALL) == ["inputs/users/users.csv"]
    assert GONE not in read(project, "users/users")["user_id"]


@pytest.mark.slow
def test_forgetting_again_does_nothing_more(project):
    assert project.palette("users", "forget", GONE, "--purge", "--yes").status == 0
    before = contents(project.home)
    done = project.palette("users", "forget", GONE, "--purge", "--yes")
    assert done.status == 0 and f"nothing that this project can reach holds {GONE}" in done.out
    assert contents(project.home) == before


def digests(project: Project, out: str) -> set[str]:
    """md5 of the files that a stage made."""
    files = [path for path in (project.root / out).rglob("*") if path.is_file()]
    return {hashlib.md5(path.read_bytes()).hexdigest() for path in files}


def objects(place: Path) -> set[str]:
    """md5 of the objects in DVC's cache or a remote."""
    return {path.parent.name + path.name for path in (place / "files").rglob("*")}


def contents(folder: Path) -> dict[str, bytes]:
    """What files hold, but for notes that DVC keeps of its own work."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not {"tmp", ".site", ".pyc"} & set(path.parts)
    }


def read(project: Project, name: str) -> pl.DataFrame:
    return pl.read_parquet(project.root / f"data/{name}.parquet")


@pytest.fixture
def folder(built, tmp_path) -> Project:
    """The tiny chain's folder without DVC: forgetting needs none unless old versions go too."""
    shutil.copytree(built, tmp_path / "chain")
    params = tiny_chain.PARAMS.model_dump(mode="json")
    (tmp_path / "chain/params.yaml").write_text(yaml.safe_dump(params))
    return Project(tmp_path / "chain", tmp_path)


def forget(folder: Project, *arguments: str) -> Done:
    return folder.palette("users", "forget", *arguments)


@pytest.mark.parametrize("last", [0, 1, 4, 9])
def test_what_was_interrupted_is_run_again(folder, monkeypatch, last):
    """Killed at any step: the user is on the list already, and a second run does the rest."""
    done = 0

    def dying(step: Step) -> None:
        nonlocal done
        if done == last:
            raise KeyboardInterrupt
        done += 1
        own(step)

    own, steps = lambda step: step.do(), []
    from palette.commands import forget as command

    find = command.find

    def failing(*arguments):
        found = find(*arguments)
        steps.extend(found)
        return [Step(s.where, s.what, lambda s=s: dying(s)) for s in found]

    with monkeypatch.context() as patch:
        patch.setattr(command, "find", failing)
        with pytest.raises(BaseException):  # noqa: B017
            forget(folder, "ann", "--yes")
            raise AssertionError("it was not interrupted")
    assert len(steps) > 9
    assert "ann" in forgotten.read(folder.root / forgotten.FILE)
    assert forget(folder, "ann", "--yes").status == 0
    assert "nothing" in forget(folder, "ann", "--yes").out
    for path in (folder.root / "data").rglob("*.parquet"):
        text = pl.read_parquet(path).write_json()
        assert '"ann"' not in text and "user:ann" not in text, path


def test_several_users_at_once_and_the_files_left_alone(folder):
    before = (folder.root / "inputs/users/users.csv").read_bytes()
    assert forget(folder, "ann", "bob", "--yes", "--keep-files").status == 0
    assert (folder.root / "inputs/users/users.csv").read_bytes() == before
    assert not set(read(folder, "routes/routes")["user_id"]) & {"ann", "bob"}
    listed = forgotten.read(folder.root / forgotten.FILE)
    assert [user for user in ("ann", "bob", "cid") if user in listed] == ["ann", "bob"]


def test_it_asks_first(folder):
    before = contents(folder.root)
    assert forget(folder, "ann").status == 1  # no answer
    assert contents(folder.root) == before


def test_a_purge_needs_dvc(folder):
    done = forget(folder, "ann", "--purge", "--yes")
    assert done.status == 1 and "DVC cannot read the project" in done.err


def test_a_user_nobody_knows_is_put_on_the_list(folder):
    done = forget(folder, "someone who comes tomorrow", "--yes")
    assert done.status == 0 and "nothing that this project can reach holds" in done.out
    assert "someone who comes tomorrow" in forgotten.read(folder.root / forgotten.FILE)


def test_nothing_is_done_while_a_stage_runs(folder):
    import json
    import os

    (folder.root / ".dvc/tmp").mkdir(parents=True)
    held = {str(folder.root): {"write": {"pid": os.getpid(), "cmd": "dvc repro"}}}
    (folder.root / ".dvc/tmp/rwlock").write_text(json.dumps({"x": held[str(folder.root)]}))
    done = forget(folder, "ann", "--yes")
    assert done.status == 1 and "DVC is at work here (dvc repro)" in done.err


def test_the_list_says_who_is_on_it_and_names_nobody(tmp_path):
    file = tmp_path / "forgotten.txt"
    assert not forgotten.read(file)
    assert forgotten.add(["ann", "שלום"], file) == ["ann", "שלום"]
    assert forgotten.add(["ann", "bob"], file) == ["bob"]
    found = forgotten.read(file)
    assert [user for user in ("ann", "bob", "שלום", "An", "") if user in found] == [
        "ann",
        "bob",
        "שלום",
    ]
    assert [forgotten.line(user, file) for user in ("ann", "bob", "cid")] == [4, 6, None]
    assert "ann" not in file.read_text() and "שלום" not in file.read_text()
    other = tmp_path / "other.txt"
    forgotten.add(["cid"], other)
    file.write_text(file.read_text() + other.read_text())  # merged from two branches
    found = forgotten.read(file)
    assert found.among(["ann", "bob", "cid", "dot"]) == ["ann", "bob", "cid"]


@pytest.mark.parametrize("text", ["ann\n", f"{'0' * 64}\n", "salt 12\n"])
def test_a_list_that_cannot_be_read_stops_the_stage(tmp_path, text):
    (tmp_path / "f.txt").write_text(text)
    with pytest.raises(PaletteError, match="line 1, is no hash of a user"):
        forgotten.read(tmp_path / "f.txt")


CSV = b'user_id,prompt,response\r\nann,"a\nb",c\r\nbob,"say ""hi""",d\nann,x\r\n\ncid,caf\xc3\xa9,e'


def test_lines_of_others_keep_every_byte(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + CSV)
    left = b'user_id,prompt,response\r\nbob,"say ""hi""",d\n\ncid,caf\xc3\xa9,e'
    take_out(tmp_path / "a.csv", "ann")
    assert (tmp_path / "a.csv").read_bytes() == b"\xef\xbb\xbf" + left
    (tmp_path / "old.csv").write_bytes(b"user_id,prompt,response\nbob,caf\xe9,x\nann,na\xefve,y\n")
    take_out(tmp_path / "old.csv", "ann")
    assert (tmp_path / "old.csv").read_bytes() == b"user_id,prompt,response\nbob,caf\xe9,x\n"
    lines = b'{"user_id": "ann"}\n{"user_id": 7}\n{broken ann\n{"id": "ann", "profile": []}\n\n'
    (tmp_path / "a.jsonl").write_bytes(lines + b'{"user_id":"b","prompt":"ann"}')
    take_out(tmp_path / "a.jsonl", "ann", "7")
    assert (tmp_path / "a.jsonl").read_bytes() == b'\n{"user_id":"b","prompt":"ann"}'


def test_lists_and_tables(tmp_path):
    (tmp_path / "q.json").write_text('[{"id": 12, "profile": []}, {"id": 13, "profile": []}]')
    take_out(tmp_path / "q.json", "12")
    assert (tmp_path / "q.json").read_text() == '[\n {\n  "id": 13,\n  "profile": []\n }\n]\n'
    table = pl.DataFrame({"user_id": [1, 2, None, 1], "response": ["a", "b", "c", "d"]})
    table.write_parquet(tmp_path / "t.parquet")
    take_out(tmp_path / "t.parquet", "1")
    assert pl.read_parquet(tmp_path / "t.parquet").equals(table[1:3])


def test_a_file_that_cannot_be_cut_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("user_id,prompt,response\nann,b,c\n", encoding="utf-16")
    with pytest.raises(PaletteError, match="save it as UTF-8"):
        list(inputs.steps([tmp_path / "a.csv"], ["ann"]))


def take_out(path: Path, *users: str) -> None:
    steps = list(inputs.steps([path], users))
    assert len(steps) == 1
    steps[0].do()
    assert list(inputs.steps([path], users)) == []


def test_what_was_made_from_a_users_rows_is_known_by_who_made_it_from_what():
    raw, table = (
        Run(frozenset("r"), {"h": "histories", "x": "rejected"}),
        Run(frozenset("h"), {"t": "a"}),
    )
    after, other = Run(frozenset("t"), {"u": "b"}), Run(frozenset("q"), {"x": "rejected", "v": "c"})
    tainted, clean = spread([after, other, table, raw], {"h"})
    assert set(map(id, tainted)) == set(map(id, [raw, table, after]))
    assert clean == [other]
