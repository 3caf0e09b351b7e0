"""The program `palette`: what it prints, and how it fails."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from test_flows import METRICS

from palette import cli, tables

PARAMS = "traits: {brevity: {kind: brevity}}\n"


@pytest.fixture
def palette(tmp_path, monkeypatch, capsys):
    """Run the program in an empty folder; returns (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["palette", *arguments])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as exit:
            cli.app()
        out, err = capsys.readouterr()
        if isinstance(exit.value.code, str):  # the interpreter prints it and exits with status 1
            return 1, out, exit.value.code
        return exit.value.code, out, err

    return run


def test_check_accepts_and_refuses(palette):
    Path("params.yaml").write_text(PARAMS)
    assert palette("check") == (0, "params.yaml: ok\n", "")
    Path("params.yaml").write_text(PARAMS + "plan: {epsilonn: 0.1}\n")
    status, out, err = palette("check")
    assert (status, out) == (1, "")
    assert err == (
        "palette: params.yaml: 'plan.epsilonn' is an unknown key; did you mean 'epsilon'?"
    )


def test_check_says_before_anything_runs_that_no_such_base_can_be_meant(palette):
    for base, part in (
        ("{model: owner/name}", "is a hub id: pin base.revision to a commit"),
        ("{model: owner/name, revision: main}", "is a hub id: pin base.revision to a commit"),
        ("{model: ./nowhere}", "is not a directory; name one, or a hub id"),
    ):
        Path("params.yaml").write_text(PARAMS + f"base: {base}\n")
        status, out, err = palette("check")
        assert (status, out) == (1, "") and part in err
    Path("params.yaml").write_text(
        PARAMS + f"base: {{model: owner/name, revision: {'0a1b' * 10}}}\n"
    )
    assert palette("check") == (0, "params.yaml: ok\n", "")


def test_params_explains_every_key(palette):
    status, out, _ = palette("params")
    assert status == 0
    assert "portfolio.delta" in out
    assert "additive slack, in units of w.r" in out


def test_summary_shows_verdict_methods_and_report(palette):
    status, _, err = palette("summary")
    assert (status, err) == (
        1,
        "palette: reports/metrics.json does not exist; run `dvc repro` to make it",
    )
    tables.write_json(cli.METRICS, METRICS)
    status, out, _ = palette("summary")
    assert status == 0
    assert "2 adapters beside the base (3 planned, at least 2 needed)" in out
    assert "0.04 (point estimate 0.03): PASS" in out
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert lines["portfolio"].split(maxsplit=1)[1].startswith("0.600 (0.550 to 0.650)")
    assert "soup" not in lines  # not measured, so not shown
    assert lines["report"].endswith("reports/index.html")


def test_summary_says_fail(palette):
    tables.write_json(cli.METRICS, METRICS | {"certificate.passed": 0})
    assert ": FAIL" in palette("summary")[1]


def test_show_tells_of_one_user(palette):
    write_user()
    status, out, _ = palette("show", "ann")
    assert status == 0
    assert "ann: seen, 3 history rows" in out
    assert (
        "member m1, edit group × 0.5 on layers all, regret 0.010, at worst 0.200 (uncertain)" in out
    )
    assert "likes short answers" in out
    assert "neutral words" not in out
    assert "0.700" in out and "0.600 to 0.800" in out
    status, _, err = palette("show", "bob")
    assert (status, err) == (
        1,
        "palette: there is no user 'bob': data/users/users.parquet lists them",
    )


def write_user():
    ann = {"user_id": ["ann"]}
    tables.write("users", pl.DataFrame(ann | {"cohort": "seen", "rows": 3, "public": True}))
    tables.write("routes", pl.DataFrame(ann | {
        "member": "m1", "edit": "group", "strength": 0.5, "layers": "all", "regret": 0.01,
        "worst_regret": 0.2, "uncertain": True, "moved": False, "robust": "m1",
    }))  # fmt: skip
    tables.write("insights", pl.DataFrame({
        "user_id": ["ann", "ann"], "kind": ["personal", "neutral"],
        "insight": ["likes short answers", "neutral words"], "items": [[0], [0]],
    }))  # fmt: skip
    tables.write("weights", pl.DataFrame(ann | {
        "trait": "brevity", "weight": 0.7, "low": 0.6, "high": 0.8, "evidence": 3.0,
    }))  # fmt: skip


def test_version_and_wrong_use(palette):
    assert palette("--version")[:2] == (0, "palette 0.1.0\n")
    status, _, err = palette("nonsense")
    assert status == 2
    assert "No such command 'nonsense'" in err
    assert palette("show")[0] == 2


def test_what_the_system_refuses_is_told_in_a_sentence(palette):
    Path("params.yaml").mkdir()
    status, out, err = palette("check")
    assert (status, out) == (1, "")
    assert err == (
        "palette: params.yaml cannot be used (Is a directory); mend that, or name another file"
    )
    denied = PermissionError(errno.EACCES, "Permission denied", "data/x.parquet")
    assert cli._of_the_system(denied).startswith(
        "data/x.parquet cannot be used (Permission denied)"
    )


def test_a_damaged_file_is_told_in_a_sentence(palette):
    cli.METRICS.parent.mkdir()
    cli.METRICS.write_text('{"half": ')
    assert palette("summary")[::2] == (
        1, "palette: reports/metrics.json is damaged; delete it and run `dvc repro`"
    )  # fmt: skip


def start(*arguments: str, **more) -> subprocess.Popen:
    command = [sys.executable, "-m", "palette.cli", *arguments]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env, **more)


def test_who_has_read_enough_is_no_error():
    process = start("params", stdout=subprocess.PIPE)
    process.stdout.close()
    assert (process.wait(60), process.stderr.read()) == (1, "")


def test_a_full_disk_is_told_in_a_sentence():
    with open("/dev/full", "w") as full:
        process = start("params", stdout=full)
        assert process.wait(60) == 1
    assert process.stderr.read() == "palette: the system refused: No space left on device\n"


def test_what_is_interrupted_says_so(tmp_path):
    os.mkfifo(tmp_path / "params.yaml")
    process = start("check", cwd=tmp_path, stdout=subprocess.PIPE)
    writer = opened_by_a_reader(tmp_path / "params.yaml")  # who now waits for what never comes
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    os.close(writer)
    assert process.stderr.read() == "palette: interrupted\n"


def opened_by_a_reader(pipe: Path) -> int:
    """The writing end of a named pipe, as soon as there is a reading one."""
    while True:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            assert error.errno == errno.ENXIO
            time.sleep(0.05)
