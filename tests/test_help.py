"""The command line as a person meets it: help that fits a screen, colours, completion, a fast start."""

import os
import re
import select
import shlex
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from rich.cells import cell_len
from test_flows import METRICS
from typer.main import get_command
from typer.testing import CliRunner

from palette import cli, tables

COLUMNS, LINES = 80, 40
COLOUR = r"\x1b\[[\d;]*m"
BIN, SOURCE = Path(sys.executable).parent, Path(__file__).parents[1] / "src"
START = "import sys; sys.argv = ['palette', *sys.argv[1:]]; from palette import cli; cli.app()"


def every_command(command=None, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], object]:
    """The words that lead to a command → the command; the program itself is there without words."""
    command = command or get_command(cli.commands)
    found = {path: command}
    for name, below in getattr(command, "commands", {}).items():
        found |= every_command(below, (*path, name))
    return found


EVERY = every_command()
named = pytest.mark.parametrize("path", EVERY, ids=lambda path: " ".join(path) or "palette")


def help_of(path: tuple[str, ...]) -> str:
    result = CliRunner().invoke(cli.commands, [*path, "--help"], env={"COLUMNS": str(COLUMNS)})
    assert result.exit_code == 0
    return re.sub(COLOUR, "", result.stdout)


def test_all_commands_are_looked_at():
    assert {("show",), ("certify",), ("export",), ("export", "vllm")} <= set(EVERY)


@named
def test_help_fits_a_screen(path):
    lines = help_of(path).splitlines()
    assert len(lines) <= LINES
    assert max(map(cell_len, lines)) <= COLUMNS


@named
def test_help_has_an_example_that_the_command_takes(path):
    (example,) = re.findall(r"Example: palette (.+)", help_of(path))
    words = shlex.split(re.split(r" (?:&&|\|) ", example.strip())[0])
    if path:
        assert tuple(words[: len(path)]) == path
    (called,) = [known for known in EVERY if known and tuple(words[: len(known)]) == known
                 and not hasattr(EVERY[known], "commands")]  # fmt: skip
    EVERY[called].make_context("palette", words[len(called) :])


@named
def test_no_line_of_a_help_text_is_broken_where_its_author_did_not(path):
    told = re.split(r"\n\n", (EVERY[path].help or "").strip())[1:]
    assert max((len(line) for part in told for line in part.splitlines()), default=0) <= 78


def test_the_programs_help_groups_its_commands_and_explains_how_it_ends():
    text = help_of(())
    for panel in (cli.RUN, cli.SERVE):
        assert f"─ {panel} ─" in text
    assert "─ Commands ─" not in text, "a command without a group"
    assert "Exit status: 0 fine; 1 a problem" in text


def environment(*without: str, **also: str) -> dict[str, str]:
    """Of a program that runs in any folder and finds this palette."""
    forced = {"FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS"}  # colours wherever it is shown
    kept = {k: v for k, v in os.environ.items() if k not in forced | {*without}}
    return kept | {"PYTHONPATH": str(SOURCE)} | also


def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", START, *arguments], capture_output=True, text=True, timeout=60,
        check=False, env=env or environment(),
    )  # fmt: skip


def test_help_starts_without_what_is_heavy():
    heavy = {"torch", "polars", "numpy", "scipy", "transformers", "pydantic", "prefect", "dvc"}
    code = "import atexit, sys; atexit.register(lambda: print('loaded', *sys.modules));" + START
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True,
        env=environment(),
    )  # fmt: skip
    loaded = set(done.stdout.partition("loaded")[2].split())
    assert "palette.cli" in loaded
    assert not loaded & heavy


def on_a_terminal(*arguments: str, **also: str) -> str:
    """What a terminal gets to show."""
    master, slave = os.openpty()
    env = environment("NO_COLOR", TERM="xterm-256color", COLUMNS="200", **also)
    process = subprocess.Popen([sys.executable, "-c", START, *arguments], stdout=slave, env=env)
    os.close(slave)
    shown = b""
    while select.select([master], [], [], 30)[0]:
        try:
            shown += os.read(master, 65536)
        except OSError:  # the other end was closed
            break
    assert process.wait(30) == 0
    os.close(master)
    return shown.decode()


@pytest.mark.parametrize("arguments", [("--help",), ("params",)], ids=" ".join)
def test_colours_are_for_terminals_that_want_them(arguments):
    coloured = on_a_terminal(*arguments)
    assert "\x1b[" in coloured
    plain = on_a_terminal(*arguments, NO_COLOR="1")
    assert "\x1b" not in plain
    assert re.sub(COLOUR, "", coloured) == plain
    assert "\x1b" not in run(*arguments).stdout


def test_a_verdict_is_coloured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tables.write_json(cli.METRICS, METRICS)
    shown = run("summary", env=environment("NO_COLOR", FORCE_COLOR="1", TERM="xterm")).stdout
    assert "\x1b[1;32mPASS\x1b[0m" in shown


def test_where_nobody_looks_a_row_is_one_line():
    rows = run("params", env=environment("COLUMNS")).stdout.splitlines()
    (row,) = [line for line in rows if line.strip().startswith("insights.embedder")]
    assert row.rstrip().endswith("a directory or owner/name@commit")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    users = {"user_id": ["ann", "bob", "anton"], "cohort": "seen", "rows": 1, "public": True}
    tables.write("users", pl.DataFrame(users))
    return tmp_path


def completed(*words: str) -> list[str]:
    """What bash is offered for the last word."""
    asked = {"_PALETTE_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words)}
    return run(env=environment(COMP_CWORD=str(len(words) - 1), **asked)).stdout.split()


def test_commands_options_and_users_complete(folder):
    assert completed("palette", "s") == ["summary", "show", "stale", "select"]
    assert completed("palette", "export", "") == ["vllm", "hub", "gguf"]
    assert "--epsilon" in completed("palette", "select", "--e")
    assert completed("palette", "show", "an") == ["ann", "anton"]
    assert completed("palette", "ask", "--user", "b") == ["bob"]


def test_where_nothing_ran_no_user_completes_and_nothing_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert completed("palette", "show", "a") == []


def test_completion_can_be_installed(folder):
    ask = "palette --install-completion && . ~/.bash_completions/palette.sh && "
    ask += "COMP_WORDS=(palette show an) COMP_CWORD=2 && "
    ask += "_palette_completion palette && echo offered ${COMPREPLY[@]}"
    done = subprocess.run(
        ["bash", "--norc", "-c", ask], capture_output=True, text=True, check=False,
        env=environment(HOME=str(folder), PATH=f"{BIN}:{os.environ['PATH']}"),
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "offered ann anton", done.stderr
    assert "palette.sh" in (folder / ".bashrc").read_text()
