"""The git program: one call, whose error is one sentence."""

import os
import subprocess
from pathlib import Path

from palette.errors import PaletteError


def git(root: Path, *arguments: str, **environment: str) -> str:
    """What a git command prints, without the last newline.

    Args:
        root: folder in which it runs.
        environment: more variables, such as GIT_INDEX_FILE.

    Raises:
        PaletteError: it failed; the sentence is git's own.
    """
    done = _run(root, arguments, environment)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["no reason given"]
        errors = [line for line in said if line.startswith(("fatal:", "error:"))]
        raise PaletteError(f"git {arguments[0]} failed in {root}: {(errors or said)[-1]}")
    return done.stdout.removesuffix("\n")


def holds(root: Path, *arguments: str) -> bool:
    """Whether a git command that asks a question answers yes, by its exit status."""
    return _run(root, arguments, {}).returncode == 0


def resolve(root: Path, name: str) -> str | None:
    """The hash of a revision, or of a file or folder in one (`REV:PATH`); None if there is none."""
    done = _run(root, ("rev-parse", "--verify", "--quiet", name), {})
    return done.stdout.strip() or None


def _run(
    root: Path, arguments: tuple[str, ...], environment: dict[str, str]
) -> subprocess.CompletedProcess:
    # Nobody is there to type a password, and messages are read in English.
    quiet = {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    command = ["git", *arguments]
    try:
        return subprocess.run(
            command,
            cwd=root,
            env=os.environ | quiet | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
    except FileNotFoundError as error:
        missing = "git is not installed" if error.filename == "git" else str(error)
        return subprocess.CompletedProcess(command, 127, "", missing)
