"""How fast do rows of many members generate in one batch, beside PEFT and one member after another?

    .venv/bin/python benchmarks/generation.py            # two random bases, 32 and 128 rows
    .venv/bin/python benchmarks/generation.py --quick    # one round of each

Llamas of random weights, hidden x layers, with random LoRA adapters of rank 16 on every linear layer;
prompts of 4 tokens, as many new tokens for every row, on one thread. All ways share one greedy loop
over the model, so that they differ in the adapters alone: `palette` adds each row's own by
`RowAdapters`, `PEFT` is given `adapter_names`, `merged` runs the members one after another, each
merged into a base of its own, with its share of the rows; merging and loading are not counted.
Every round runs every case once; a ratio is of two cases of the same round.
"""

import csv
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from palette.lm.models import LanguageModel, with_adapters
from palette.lm.row_adapters import RowAdapters

RESULTS = Path(__file__).parent / "results"
SIZES = {"sandbox": (96, 288, 3, 4), "512x8": (512, 1536, 8, 16)}
"""name → hidden, intermediate, layers, heads; the first is the sandbox's base"""
ROUNDS = {"sandbox": 5, "512x8": 2}
TOKENS = {"sandbox": 32, "512x8": 8}
ROWS, ADAPTERS = (32, 128), (1, 2, 4, 8, 16, 32)
VOCABULARY, RANK, PROMPT = 866, 16, 4
WAYS = ("palette", "PEFT", "merged")
HEADER = (
    "rows", "adapters", "palette tokens/s", "PEFT tokens/s", "merged tokens/s",
    "palette / PEFT", "quartiles", "palette / merged", "palette / itself with 1",
)  # fmt: skip
Case = tuple[str, int]
"""way, adapters"""


def main(quick: bool = typer.Option(False, help="one round of each, no file")) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries about each other
    for name, size in SIZES.items():
        rounds, tokens, rows = 1 if quick else ROUNDS[name], TOKENS[name], []
        with tempfile.TemporaryDirectory() as folder:
            lm, served, folders = made(size, Path(folder))
            for count in ROWS:
                seconds = timed(cases(lm, served, folders, count, tokens), rounds)
                rows += judged(seconds, count, tokens)
        table = Table(*HEADER, title=f"Members in one batch, base {name}")
        for row in rows:
            table.add_row(*row)
        Console(width=128).print(table)
        if not quick:
            RESULTS.mkdir(exist_ok=True)
            out = RESULTS / f"generation-{name}.csv"
            with out.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([HEADER, *rows])


def made(size: Sequence[int], folder: Path) -> tuple[LanguageModel, Any, list[Path]]:
    """A random base, PEFT's model with all adapters on a copy of it, and their folders."""
    from copy import deepcopy

    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    hidden, intermediate, layers, heads = size
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=hidden, intermediate_size=intermediate,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads // 2,
        max_position_embeddings=512, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    lora = LoraConfig(
        r=RANK, lora_alpha=RANK, target_modules="all-linear", task_type="CAUSAL_LM",
        init_lora_weights=False,
    )  # fmt: skip
    names = [f"member{number}" for number in range(max(ADAPTERS))]
    served = get_peft_model(deepcopy(model), lora, names[0])
    for name in names[1:]:
        served.add_adapter(name, lora)
    served.save_pretrained(str(folder))
    lm = LanguageModel(model, None, torch.device("cpu"), "random")
    return lm, served.eval(), [folder / name for name in names]


def cases(
    lm: LanguageModel, served: Any, folders: Sequence[Path], rows: int, tokens: int
) -> dict[Case, Callable[[], torch.Tensor]]:
    """Case → a run that gives its rows' tokens. Rows are dealt to the members in turn."""
    ids = torch.randint(5, VOCABULARY, (rows, PROMPT), generator=torch.Generator().manual_seed(0))
    runs: dict[Case, Callable[[], torch.Tensor]] = {}
    for count in ADAPTERS:
        dealt = [number % count for number in range(rows)]
        adapters = RowAdapters([folders[number] for number in dealt])
        names = [folders[number].name for number in dealt]
        alone = [with_adapters(lm, {folder: 1.0}).model for folder in folders[:count]]

        def palette(new=tokens, adapters=adapters):
            return decode(lm.model, ids, new, adapters)

        def peft(new=tokens, names=names):
            return decode(served, ids, new, adapter_names=names)

        def merged(new=tokens, alone=alone):
            each = enumerate(alone)
            found = [decode(model, ids[k :: len(alone)], new) for k, model in each]
            return torch.stack(found, 1).flatten(0, 1)

        for name, run in zip(WAYS, (palette, peft, merged), strict=True):
            # Other sums, other last bits: a near tie may fall otherwise.
            same = (run(3) == palette(3)).all(1).float().mean().item()
            if same < 0.9:
                raise typer.BadParameter(f"{name} and palette agree on {same:.0%} of the rows only")
            runs[name, count] = run
    return runs


@torch.inference_mode()
def decode(
    model: Any, ids: torch.Tensor, tokens: int, adapters: RowAdapters | None = None, **own: Any
) -> torch.Tensor:
    """(rows, tokens) greedy tokens after (rows, PROMPT) ids."""
    found, cache = [], None
    with adapters.attach(model) if adapters else nullcontext():
        if adapters:
            adapters.focus(torch.arange(len(ids)))
        for _ in range(tokens):
            out = model(
                input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1, **own
            )
            cache, ids = out.past_key_values, out.logits[:, -1].argmax(-1, keepdim=True)
            found.append(ids)
    return torch.cat(found, 1)


def timed(runs: Mapping[Case, Callable[[], object]], rounds: int) -> dict[Case, list[float]]:
    """Case → seconds of each round; every round runs all."""
    seconds: dict[Case, list[float]] = {case: [] for case in runs}
    for _ in range(rounds):
        for case, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[case].append(time.perf_counter() - start)
    return seconds


def judged(seconds: dict[Case, list[float]], rows: int, tokens: int) -> list[tuple[str, ...]]:
    """A row of the table for each number of adapters: medians over rounds."""
    table = []
    for count in ADAPTERS:
        palette, peft, merged = (np.array(seconds[way, count]) for way in WAYS)
        speeds = [f"{rows * tokens / np.median(own):,.0f}" for own in (palette, peft, merged)]
        low, middle, high = np.quantile(peft / palette, [0.25, 0.5, 0.75])
        alone = np.array(seconds["palette", 1])
        ratios = f"{np.median(merged / palette):.2f}", f"{np.median(alone / palette):.2f}"
        quartiles = f"{low:.2f} to {high:.2f}"
        table.append((str(rows), str(count), *speeds, f"{middle:.2f}", quartiles, *ratios))
    return table


if __name__ == "__main__":
    typer.run(main)
