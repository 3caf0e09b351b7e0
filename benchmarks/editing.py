"""What does an edit cost per generated token, and does it matter how many different ones there are?

    .venv/bin/python benchmarks/editing.py                          # the sandbox's base, data/base
    .venv/bin/python benchmarks/editing.py --size 512x8             # a random Llama, hidden x layers
    .venv/bin/python benchmarks/editing.py --quick                  # a fourth of the rounds
    .venv/bin/python benchmarks/editing.py --peers PYTHON           # beside repeng, pyvene, pyreft

The peers live in an environment of their own, whose python is the option:

    python3 -m venv .palette/peers
    .palette/peers/bin/pip install torch==2.13.0 repeng pyvene pyreft "pyarrow<22"

32 rows with different prompts of 16 tokens, 48 new tokens each, on one thread. Every round
runs every case once; its ratio is to the unedited case of the same round. The peers run Hugging
Face's `generate` in their own version of it, so compare their ratios and microseconds, not tokens
per second.
"""

import csv
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from palette.core.editing import Edit, Edits
from palette.lm.generation import generate, row_uniforms
from palette.lm.models import LanguageModel, load_base

HERE = Path(__file__).parent
RESULTS = HERE / "results"
ROWS, PROMPT, TOKENS, ROUNDS = 32, 16, 48, 40
HEADER = ("case", "tokens/s", "time per token / unedited", "quartiles", "µs per step added")
Seconds = dict[str, list[float]]


def main(
    quick: bool = typer.Option(False, help="a fourth of the rounds"),
    size: str = typer.Option("", help="hidden x layers of a random Llama, such as 512x8"),
    peers: str = typer.Option("", help="the python of an environment with the peers"),
) -> None:
    torch.set_num_threads(1)
    rounds = ROUNDS // 4 if quick else ROUNDS
    lm = load_base("cpu")
    with tempfile.TemporaryDirectory() as folder:
        if size:
            lm = larger(lm, *map(int, size.split("x")))
        rows = judged(timed(cases(lm), rounds), "unedited")
        if peers:
            lm.model.save_pretrained(folder)
            rows += judged(beside(peers, Path(folder), rounds), "unedited, generate of the peers")
    name = size or "sandbox"
    table = Table(*HEADER, title=f"Editing {ROWS} rows of {TOKENS} tokens, base {name}")
    for row in rows:
        table.add_row(*row)
    Console(width=110).print(table)
    if not quick:
        RESULTS.mkdir(exist_ok=True)
        with (RESULTS / f"editing-{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([HEADER, *rows])


def larger(lm: LanguageModel, hidden: int, layers: int) -> LanguageModel:
    """A random Llama with the tokenizer of the base."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=lm.model.config.vocab_size, hidden_size=hidden, intermediate_size=3 * hidden,
        num_hidden_layers=layers, num_attention_heads=hidden // 32, max_position_embeddings=512,
        eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    return replace(lm, model=model)


def cases(lm: LanguageModel) -> dict[str, Callable[[], object]]:
    """Name → a run of generation; all rows go on to the limit."""
    lm.model.generation_config.eos_token_id = [-1]
    config = lm.model.config
    shape = config.num_hidden_layers, config.hidden_size
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, config.vocab_size, (ROWS, PROMPT), generator=generator).tolist()
    uniforms = row_uniforms(ROWS, TOKENS, "benchmark", "editing")

    def shift() -> Edit:
        return Edit.add(0.01 * torch.randn(shape, generator=generator))

    def project() -> Edit:
        personal, neutral = torch.randn(2, shape[0], 1, shape[1], generator=generator)
        return Edit.project(personal).then(-Edit.project(neutral)) * 0.01

    one, published = shift(), project()
    rows: dict[str, list[Edit] | None] = {
        "unedited": None,
        "strength 0": [one * 0.0] * ROWS,
        "one shift for all": [one] * ROWS,
        f"{ROWS} different shifts": [shift() for _ in range(ROWS)],
        "one projecting edit for all": [published] * ROWS,
        f"{ROWS} different projecting edits": [project() for _ in range(ROWS)],
    }

    def run(own: list[Edit] | None) -> object:
        return generate(lm, ids, TOKENS, uniforms, Edits(own) if own else None)

    return {name: partial(run, own) for name, own in rows.items()}


def timed(runs: dict[str, Callable[[], object]], rounds: int) -> Seconds:
    """Name → seconds of each round; every round runs all, the first one to warm up."""
    seconds: Seconds = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def beside(python: str, folder: Path, rounds: int) -> Seconds:
    """The peers' seconds, measured in their own environment."""
    command = [python, str(HERE / "editing_peers.py"), str(folder), str(rounds), str(TOKENS)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise typer.BadParameter(f"{python} cannot measure the peers: {done.stderr[-600:]}")
    seconds = json.loads(done.stdout.splitlines()[-1])  # pyvene prints, too
    return {"unedited, generate of the peers": seconds.pop("unedited"), **seconds}


def judged(seconds: Seconds, unedited: str) -> list[tuple[str, ...]]:
    """A row of the table for each case: medians over rounds."""
    base = seconds[unedited]
    rows: list[tuple[str, ...]] = []
    for name, own in seconds.items():
        ratios = np.divide(own, base)
        low, high = np.quantile(ratios, [0.25, 0.75])
        added = statistics.median(np.subtract(own, base)) / TOKENS * 1e6
        speed = ROWS * TOKENS / statistics.median(own)
        quartiles = f"{low:.3f} to {high:.3f}"
        rows.append((name, f"{speed:,.0f}", f"{np.median(ratios):.3f}", quartiles, f"{added:.0f}"))
    return rows


if __name__ == "__main__":
    typer.run(main)
