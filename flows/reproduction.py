"""Reproduces one DVC stage in a process of its own, and says what DVC did."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from flows import leash


class Outcome(StrEnum):
    """What DVC did: ran the stage, restored it from the run-cache, or found nothing changed."""

    COMPLETED = "Completed"
    CACHED = "Cached"
    SKIPPED = "Skipped"


class StageFailed(Exception):
    """A stage's command ended with an error; the message is its last words, on one line."""


class StageRefused(StageFailed):
    """A stage says what its user must do: trying again is in vain."""


class StageStopped(StageFailed):
    """A stage was ended since its run is."""


class Reproducer:
    """Runs stages side by side, each as `dvc repro --single-item`; on leaving, ends those that run.

    Args:
        root: the project's top folder.
    """

    def __init__(self, root: Path):
        self._root = root
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen] = set()
        self._left = False

    def __enter__(self) -> "Reproducer":
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._left = True
            for process in self._running:
                leash.let_go(process)

    def reproduce(self, stage: str, say: Callable[[str], None]) -> Outcome:
        """Bring one stage up to date, its upstreams being so already.

        Args:
            stage: name in dvc.yaml.
            say: called with every line of output while the stage runs.

        Raises:
            StageFailed: DVC or the stage's command ended with an error, or was stopped; see its
                subclasses.
        """
        process = self._start(stage)
        lines = []
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if text := line.rstrip():
                    lines.append(text)
                    say(text)
        finally:
            # The process is still alive only if `say` raised: letting go of its leash ends it.
            with self._lock:
                self._running.discard(process)
                leash.let_go(process)
            status = process.wait()
        if status:
            raise StageStopped("stopped") if self._left else _failure(lines)
        return _outcome(stage, lines)

    def _start(self, stage: str) -> subprocess.Popen:
        # -P: no file of the project's top folder may stand in for one of DVC's modules.
        dvc = [sys.executable, "-P", "-m", "dvc"]
        command = [*dvc, "--wait-for-lock", "repro", "--single-item", stage]
        with self._lock:
            if self._left:
                raise StageStopped("stopped")
            process = leash.start(
                command,
                cwd=self._root,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
            self._running.add(process)
        return process


def _outcome(stage: str, lines: list[str]) -> Outcome:
    """Read from what DVC says of the stage itself; the stage's own output may say anything."""
    if f"Stage '{stage}' didn't change, skipping" in lines:
        return Outcome.SKIPPED
    if f"Stage '{stage}' is cached - skipping run, checking out outputs" in lines:
        return Outcome.CACHED
    return Outcome.COMPLETED


def _failure(lines: list[str]) -> StageFailed:
    """The last line of the command, or DVC's own error where the command said nothing."""
    errors = [line for line in lines if line.startswith("ERROR:")]
    framing = ("ERROR:", "Running stage", "> ", "Stage '")
    words = [line for line in lines if not line.startswith(framing)]
    last = (words or errors or ["stopped before it said anything"])[-1].strip()
    in_vain = last.startswith("palette: ") or "missing data 'source'" in last
    return StageRefused(last) if in_vain else StageFailed(last)
