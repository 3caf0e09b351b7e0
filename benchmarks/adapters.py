"""How long do K adapters take to train: each cold, each warm on a shared base, or all in one pass?

    .venv/bin/python benchmarks/adapters.py            # K = 1, 4, 8, 16
    .venv/bin/python benchmarks/adapters.py --quick    # K = 1 and 4 of 32 rows, one round, no file

The sandbox's base (seed 0) with rank 16 on every linear layer; K weight vectors; SFT on resampled
rollouts, or RLOO; 32 or 256 rows of every adapter in a step; two threads. Every case has a process of
its own: it makes one step to warm up, and then a step whenever it is told to, one case after another, so
that a ratio is of neighbours in time. `cold` is `adapter_peers.py` anew for each adapter. All sample by
palette's generation but for those named so, which show what TRL's own costs. On an idle machine: threads
that wait for each other spin, as in a run of the pipeline, and any other process makes them wait. Peaks
of memory are of the resident pages: those of libraries that a case never touched count in `cold` alone.
"""

import csv
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
import worlds
from adapter_peers import PHASES, THREADS, TRAITS, peak, read_world, reinforce, timed_settings
from rich.console import Console
from rich.table import Table

from palette import stage
from palette.lm.learner import Task
from palette.lm.models import LanguageModel
from palette.params import Adapters

HERE = Path(__file__).parent
RESULTS = HERE / "results"
ROWS, MEMBERS, ROUNDS = (32, 256), (1, 4, 8, 16), {32: 4, 256: 2}
PROCESSES = {32: (1, 4), 256: (1,)}
"""rows → numbers of cold processes, one after another: K of them take K times what one takes"""
SAMPLES = 15_360
"""Rows of a whole training of one adapter: 60 steps of 256, or 480 of 32"""
COLD, WARM, PASS, FAMILY = "cold TRL", "warm TRL", "one pass", "the family, for all w"
OWN = "warm TRL, its own generation"
HEADER = (
    "phase", "rows", "way", "K", "s per step of all", "s per adapter", "warm / this, rounds",
    "start-up s", "adapters/min", "peak MB",
)  # fmt: skip
CONTEXT = multiprocessing.get_context("forkserver")


@dataclass
class Case:
    """K adapters in training, in a process of their own that waits for every word to go on."""

    way: str
    members: int
    steps: int
    """of one adapter that are measured"""
    process: Any
    pipe: Connection
    seconds: list[float] = field(default_factory=list)
    start_up: float = 0.0
    peak: float = 0.0

    def advance(self) -> None:
        """One step more of what is trained together."""
        self.pipe.send("go")
        self.seconds.append(self.pipe.recv())

    def close(self) -> None:
        self.pipe.send("go")
        self.start_up, self.peak = self.pipe.recv()
        self.process.join()


@dataclass
class Row:
    """What a case took."""

    phase: str
    rows: int
    way: str
    members: int | None
    """None: all w at once"""
    seconds: float
    """of one step of every adapter"""
    start_up: float
    """seconds until every adapter's first step has ended, summed"""
    peak: float
    ratio: str = ""

    def cells(self) -> tuple[str, ...]:
        count = each = speed = "-"
        if self.members:
            whole = self.start_up + (SAMPLES / self.rows - 1) * self.seconds
            count, each = str(self.members), f"{self.seconds / self.members:.3f}"
            speed = f"{60 * self.members / whole:.2f}"
        return (
            self.phase, str(self.rows), self.way, count, f"{self.seconds:.3f}", each, self.ratio,
            f"{self.start_up:.1f}", speed, f"{self.peak:.0f}",
        )  # fmt: skip


def main(
    quick: bool = typer.Option(False, help="K = 1 and 4 of 32 rows, one round, no file"),
) -> None:
    stage.prepare(THREADS)
    # Children are forked from one process that has imported all: their start-up is not imports.
    CONTEXT.set_forkserver_preload(["palette.lm.trainers", "peft", "datasets"])
    worlds.sandbox(len(TRAITS), 0)
    table: list[Row] = []
    for phase, rows in product(PHASES, ROWS[:1] if quick else ROWS):
        rounds = 1 if quick else ROUNDS[rows]
        for members in MEMBERS[:2] if quick else MEMBERS:
            table += judged(phase, rows, measured(phase, rows, members, rounds), rounds)
            print(f"{phase}, {rows} rows, K = {members}: done", file=sys.stderr, flush=True)
        table += [cold(phase, rows, members) for members in PROCESSES[rows][: 1 if quick else None]]
    order = [COLD, OWN, WARM, PASS, FAMILY]
    table.sort(key=lambda row: (-len(row.phase), row.rows, order.index(row.way)))
    show(table)
    if not quick:
        RESULTS.mkdir(exist_ok=True)
        with (RESULTS / "adapters.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([HEADER, *(row.cells() for row in table)])


def measured(phase: str, rows: int, members: int, rounds: int) -> list[Case]:
    """The cases of K members, a step of each in turn."""
    ways = [WARM, PASS] + [OWN] * (phase == "rloo" and rows == ROWS[0])
    if members == 1:
        ways += [FAMILY]
    cases = [begun(way, phase, rows, members, rounds) for way in ways]
    for _ in range(rounds):
        for case in cases:
            for _ in range(case.steps * trainings(case) // rounds):
                case.advance()
    for case in cases:
        case.close()
    return cases


def trainings(case: Case) -> int:
    """Into how many trainings its adapters fall."""
    return case.members if case.way in (WARM, OWN) else 1


def begun(way: str, phase: str, rows: int, members: int, rounds: int) -> Case:
    # Of many trainings one after another a step of each will do.
    steps = max(1, rounds // members) if way in (WARM, OWN) else rounds
    pipe, own = CONTEXT.Pipe()
    process = CONTEXT.Process(target=train, args=(own, way, phase, rows, members, steps))
    process.start()
    own.close()
    pipe.recv()
    return Case(way, members, steps, process, pipe)


def train(pipe: Connection, way: str, phase: str, rows: int, members: int, steps: int) -> None:
    """Runs in a case's own process: sends the seconds of every step but each training's first."""
    stage.prepare(THREADS)
    torch.set_num_threads(THREADS)
    os.chdir(worlds.SCRATCH / "seed0")
    lm, _, task = read_world()
    settings = timed_settings(phase, rows, 1 + steps)
    weights = np.random.default_rng(0).dirichlet(np.ones(len(TRAITS)), members)
    pipe.send("ready")
    pipe.recv()
    clock = Gate(pipe)
    for run in runs(way, phase, lm, task, weights, settings):
        clock.begin()
        run(progress=clock.end)
    pipe.send((clock.start_up, peak()))


def runs(
    way: str, phase: str, lm: LanguageModel, task: Task, weights: np.ndarray, settings: Adapters
) -> Iterator[Callable]:
    """The trainings of a case, one after another."""
    from palette.lm.training import train_family, train_members

    if way == PASS:
        yield partial(train_members, lm, task, weights, settings)
    elif way == FAMILY:
        yield partial(train_family, lm, task, settings)
    else:
        training = partial(reinforce, own_generation=True) if way == OWN else PHASES[phase]
        for weight in weights:
            yield partial(training, lm, task, weight, settings)


class Gate:
    """Lets a training pass one step at a time, and times it from the end of one to the next."""

    def __init__(self, pipe: Connection):
        self.pipe, self.start_up = pipe, 0.0

    def begin(self) -> None:
        self.done, self.last = 0, time.perf_counter()

    def end(self, _: int) -> None:
        seconds = time.perf_counter() - self.last
        if self.done:
            self.pipe.send(seconds)
            self.pipe.recv()
        else:
            self.start_up += seconds
        self.done += 1
        self.last = time.perf_counter()


def judged(phase: str, rows: int, cases: list[Case], rounds: int) -> list[Row]:
    """A row of the table for each case: medians over rounds."""
    seconds = {
        case.way: trainings(case) * np.array(case.seconds).reshape(rounds, -1).mean(1)
        for case in cases
    }
    table = []
    for case in cases:
        own = seconds[case.way]
        low, middle, high = np.quantile(seconds[WARM] / own, [0, 0.5, 1])
        ratio = f"{middle:.2f} ({low:.2f} to {high:.2f})"
        members = None if case.way == FAMILY else case.members
        middle = float(np.median(own))
        table.append(Row(phase, rows, case.way, members, middle, case.start_up, case.peak, ratio))
    return table


def cold(phase: str, rows: int, members: int) -> Row:
    """Processes that import, load and train one adapter each."""
    seconds, start_up, most, steps = 0.0, 0.0, 0.0, 1 + ROUNDS[rows]
    script, world = HERE / "adapter_peers.py", worlds.SCRATCH / "seed0"
    for _ in range(members):
        command = [sys.executable, script, world, phase, str(rows), str(steps)]
        start = time.time()
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if done.returncode:
            raise typer.BadParameter(f"a cold training failed: {done.stderr[-600:]}")
        told = json.loads(done.stdout.splitlines()[-1])
        start_up += told["ends"][0] - start
        seconds += float(np.median(np.diff(told["ends"])))
        most = max(most, told["peak"])
    return Row(phase, rows, COLD, members, seconds, start_up, most)


def show(rows: list[Row]) -> None:
    table = Table(*HEADER, title=f"K adapters of rank 16, {THREADS} threads")
    for row in rows:
        table.add_row(*row.cells())
    Console(width=130).print(table)


if __name__ == "__main__":
    typer.run(main)
