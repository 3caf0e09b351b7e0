"""Do `users`, `preferences` and `routes` pass a million users, in how long and in how much memory?

    .venv/bin/python benchmarks/scale.py                    # 1,000 to 100,000 users of 20 rows
    .venv/bin/python benchmarks/scale.py --most 1000000     # and a million: 20,000,000 rows
    .venv/bin/python benchmarks/scale.py --all-asked        # the base was asked about every user

A histories file of synthetic users is written to a temporary folder, one row of everyone's after another's,
as a log of time has it; each stage then runs there as `dvc repro` would run it, in a process of its own.
What comes before it and needs a model is written directly: the base's own answers (of ASKED users, as
`insights.users` has it), its scored rollouts, and a portfolio of MEMBERS ideal policies. Traits are the
sandbox's, patterns that cost microseconds a text: with a reward model, scoring would be most of the time.
Memory is the largest sum over a stage's process and its children, shared pages counted once each.
"""

import csv
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import psutil
import pyarrow.parquet as pq
import typer
import yaml
from rich.console import Console
from rich.table import Table

import palette
from palette import tables
from palette.arrays import scored
from palette.params import Params
from palette.sandbox import world

RESULTS = Path(__file__).parent / "results" / "scale.csv"
SOURCE = str(Path(palette.__file__).resolve().parents[1])
SIZES = (1_000, 10_000, 100_000, 1_000_000)
STAGES = ("users", "preferences", "routes")
ROWS, POOL, CANDIDATES, SHARPNESS = 20, 4096, 4, 5.0
ASKED = 10_000
PROMPTS, ROLLOUTS, MEMBERS = 96, 256, 20
TOGETHER = 1 << 17
TRAITS = {
    "brevity": {"kind": "brevity", "best": 8, "worst": 34},
    "humor": {"kind": "humor"}, "safety": {"kind": "safety"},
}  # fmt: skip
FILE = "inputs/users/histories.parquet"


def main(
    most: int = typer.Option(SIZES[-2], help="users at most"),
    all_asked: bool = typer.Option(False, help="the base's answers to every row, not some users'"),
    workers: int = typer.Option(2, help="processes that share the work of a stage"),
) -> None:
    known = read()
    for users in [size for size in SIZES if size <= most]:
        asked = users if all_asked else min(users, ASKED)
        with TemporaryDirectory(prefix="palette-scale-") as folder, chdir(folder):
            prepare(users, asked, workers)
            for stage in STAGES:
                if stage == "preferences":
                    write_answers(users, asked)
                if stage == "routes":
                    write_portfolio(users)
                seconds, memory = run(stage)
                known[(users, asked, workers, stage)] = (seconds, memory)
                print(f"{users:,} {stage}: {seconds:.1f} s, {memory:.2f} GB", flush=True)
            check(users)
        write(known)
    show(known)


def prepare(users: int, asked: int, workers: int) -> None:
    """Params and the histories file of so many users."""
    params = {
        "traits": TRAITS, "users": {"file": FILE}, "insights": {"users": asked},
        "runtime": {"workers": workers, "store": "store"},
    }  # fmt: skip
    Path("params.yaml").write_text(yaml.safe_dump(params))
    Path("inputs/users").mkdir(parents=True)
    rng = np.random.default_rng(0)
    questions, answers, worth = pool(rng)
    weights = rng.dirichlet(np.full(len(TRAITS), 0.7), users)
    writer = None
    for number in range(ROWS):
        order = rng.permutation(users)
        for start in range(0, users, TOGETHER):
            user = order[start : start + TOGETHER]
            picked = chosen(rng, worth, weights[user])
            table = pl.DataFrame({
                "user_id": names(user), "prompt": questions[picked], "response": answers[picked],
                "timestamp": [
                    f"2026-{1 + number // 28:02d}-{1 + number % 28:02d}T{s // 3600:02d}:"
                    f"{s // 60 % 60:02d}:{s % 60:02d}"
                    for s in (user % 86_400).tolist()
                ],
                "public": ["false"] * len(user),
            }).to_arrow()  # fmt: skip
            writer = writer or pq.ParquetWriter(FILE, table.schema, compression="zstd")
            writer.write_table(table)
    if writer:
        writer.close()


def pool(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Questions, an answer to each, and the answers' rewards (POOL, traits)."""
    topics = world.topics(0)["train"]
    asked = [topics[i] for i in rng.integers(len(topics), size=POOL)]
    questions = [topic.ask(rng) for topic in asked]
    answers = [world.answer(topic, world.draw_style(rng), rng) for topic in asked]
    return np.array(questions, object), np.array(answers, object), world.worth(answers)


def chosen(rng: np.random.Generator, worth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(users,) of some answers drawn for each user, the one chosen by a softmax of w·r."""
    drawn = rng.integers(len(worth), size=(len(weights), CANDIDATES))
    score = SHARPNESS * np.einsum("ucd,ud->uc", worth[drawn], weights)
    best = (score + rng.gumbel(size=score.shape)).argmax(1)
    return drawn[np.arange(len(drawn)), best]


def names(numbers: np.ndarray) -> list[str]:
    return [f"user-{number:08d}" for number in numbers.tolist()]


def write_answers(users: int, asked: int) -> None:
    """The tables contrasts and pairs, as `insights` would leave them for some users."""
    from palette.insights import drawn_users

    rng = np.random.default_rng(1)
    questions, answers, _ = pool(rng)
    drawn = drawn_users(asked)
    with tables.writing("contrasts") as add_contrasts, tables.writing("pairs") as add_pairs:
        for start in range(0, len(drawn), TOGETHER // ROWS):
            some = drawn[start : start + TOGETHER // ROWS].to_numpy()
            count = len(some) * ROWS * 2
            add_contrasts(pl.DataFrame({
                "user_id": np.repeat(some, ROWS * 2),
                "row": np.tile(np.repeat(np.arange(ROWS), 2), len(some)),
                "sample": np.tile(np.arange(2), len(some) * ROWS),
                "response": answers[rng.integers(POOL, size=count)],
            }))  # fmt: skip
            picked = rng.integers(POOL, size=(2, len(some)))
            add_pairs(pl.DataFrame({
                "user_id": some, "pair": np.zeros(len(some), int), "prompt": questions[picked[0]],
                "personal": answers[picked[0]], "neutral": answers[picked[1]],
            }))  # fmt: skip


def write_portfolio(users: int) -> None:
    """Scored rollouts, and MEMBERS ideal policies of them; one cluster, whose edit is the identity."""
    rng = np.random.default_rng(2)
    _, _, worth = pool(rng)
    prompts = [f"p{i:03d}" for i in range(PROMPTS)]
    split = pl.DataFrame({"prompt_id": prompts, "prompt": prompts, "topic": prompts})
    tables.write("prompts", split.with_columns(split=pl.lit("select")))
    keys = split.select("prompt_id").join(pl.DataFrame({"sample": range(ROLLOUTS)}), how="cross")
    told = {"response": pl.lit(""), "tokens": pl.lit([1]), "logprob": pl.lit(-1.0)}
    tables.write("rollouts", keys.with_columns(**told))
    rewards = worth[rng.integers(POOL, size=len(keys))]
    for column, trait in enumerate(TRAITS):
        tables.write("rewards", keys.with_columns(reward=pl.Series(rewards[:, column])), trait)
    params = Params.model_validate({"traits": TRAITS})
    ideal = scored(params, ["select"]).ideal
    planes = ideal.tangents(rng.dirichlet(np.ones(len(TRAITS)), MEMBERS), ("",) * MEMBERS)
    members = [
        {"id": f"m{k:02d}", "values": dict(zip(TRAITS, v, strict=True)), "cost": cost}
        for k, (v, cost) in enumerate(
            zip(planes.values.tolist(), planes.costs.tolist(), strict=True)
        )
    ]
    base = {"values": dict(zip(TRAITS, ideal.base().mean(0).tolist(), strict=True))}
    content = {"base": base, "members": members}
    tables.write_json(tables.DATA / "portfolio" / "portfolio.json", content)
    choice = {
        "layers": "all",
        "strength": 0.0,
        "objective": 0.0,
        "kl": 0.0,
        "broken": 0.0,
        "chosen": True,
    }
    trial = {"method": "edit", "cluster": "everyone"} | choice
    tables.write("trials", pl.DataFrame([trial]))
    tables.write("member_trials", pl.DataFrame([{"member": own["id"]} | choice for own in members]))
    everyone = {"cluster": pl.lit("everyone"), "group": pl.lit("everyone")}
    user_ids = pl.Series("user_id", names(np.arange(users)))
    tables.write("groups", user_ids.to_frame().with_columns(**everyone))


def run(stage: str) -> tuple[float, float]:
    """Wall seconds and the most memory, in GB, of a stage in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": SOURCE}
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", f"palette.{stage}"], env=environment)
    most = 0.0
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        # Often at first, then seldom: adding up the pages of gigabytes takes time of its own.
        while not done.wait(min(2.0, 0.1 + (time.perf_counter() - begin) / 50)):
            most = max(most, sum(sizes(process.pid)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    status = process.wait()
    done.set()
    watcher.join()
    if status:
        raise SystemExit(f"stage {stage} failed")
    return time.perf_counter() - begin, most / 1e9


def sizes(pid: int) -> Iterator[int]:
    """Bytes of a process and of all below it: resident, shared pages by their part."""
    try:
        family = psutil.Process(pid)
        for process in [family, *family.children(recursive=True)]:
            yield process.memory_full_info().pss
    except psutil.NoSuchProcess:
        return


def check(users: int) -> None:
    """Nobody was lost on the way."""
    routed = tables.read("routes")
    if routed["user_id"].n_unique() != users or routed["member"].null_count():
        raise SystemExit(f"{len(routed):,} of {users:,} users have routes")
    rows = pl.scan_parquet(tables.path("histories")).select(pl.len()).collect().item()
    if rows != users * ROWS:
        raise SystemExit(f"{rows:,} of {users * ROWS:,} rows were kept")


Known = dict[tuple[int, int, int, str], tuple[float, float]]
"""users, users that the base was asked about, workers, stage → seconds, GB"""
COLUMNS = ("users", "asked", "workers", "stage", "seconds", "gigabytes")


def read() -> Known:
    if not RESULTS.exists():
        return {}
    with RESULTS.open(encoding="utf-8") as file:
        return {
            (int(r["users"]), int(r["asked"]), int(r["workers"]), r["stage"]):
            (float(r["seconds"]), float(r["gigabytes"]))
            for r in csv.DictReader(file)
        }  # fmt: skip


def write(known: Known) -> None:
    order = sorted(known, key=lambda case: (*case[:3], STAGES.index(case[3])))
    part = RESULTS.with_suffix(".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        rows = ((*case, *(round(value, 2) for value in known[case])) for case in order)
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    shutil.move(part, RESULTS)


def show(known: Known) -> None:
    table = Table(*COLUMNS, title=f"Stages by users, of {ROWS} rows each")
    for (users, asked, workers, stage), (seconds, memory) in known.items():
        row = f"{users:,}", f"{asked:,}", f"{workers}", stage, f"{seconds:.1f}", f"{memory:.2f}"
        table.add_row(*row)
    Console(width=100).print(table)


if __name__ == "__main__":
    typer.run(main)
