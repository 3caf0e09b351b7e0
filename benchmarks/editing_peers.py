"""What editing costs with repeng, pyvene and pyreft; `editing.py --peers PYTHON` runs it.

    PYTHON benchmarks/editing_peers.py MODEL REPETITIONS TOKENS

Runs in the peers' own environment and knows nothing of palette. Each library edits as its own
documentation shows, through Hugging Face's `generate`; the rounds are interleaved with the unedited
model. The last line is a JSON object: name → seconds of each round.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

ROWS, PROMPT = 32, 16


def main(folder: str, repetitions: int, tokens: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    plain = load(folder)
    ids = torch.randint(5, plain.config.vocab_size, (ROWS, PROMPT))
    layers, hidden = plain.config.num_hidden_layers, plain.config.hidden_size
    asked = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    limits = {"max_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
    rounds: dict[str, Callable] = {"unedited": lambda: plain.generate(**asked, **limits)}
    for add in (repeng, pyvene, pyreft):
        try:
            rounds |= add(folder, layers, hidden, asked, limits)
        except ImportError as error:
            print(f"{add.__name__} is not installed: {error}", file=sys.stderr)
    seconds: dict[str, list[float]] = {name: [] for name in rounds}
    for repetition in range(repetitions + 1):
        for name, run in rounds.items():
            start = time.perf_counter()
            with torch.no_grad():
                run()
            if repetition:  # the first one warms up
                seconds[name].append(time.perf_counter() - start)
    print()
    print(json.dumps(seconds))


def load(folder: str):
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    model.generation_config.eos_token_id = None  # so that every row has all its tokens
    return model


def repeng(folder, layers, hidden, asked, limits) -> dict[str, Callable]:
    """A vector after every layer; its control may hold a vector of every row."""
    from repeng import ControlModel

    model = ControlModel(load(folder), list(range(layers)))

    def run(control):
        model.set_raw_control(control)
        return model.generate(**asked, **limits)

    one = {layer: 0.01 * torch.randn(hidden) for layer in range(layers)}
    many = {layer: 0.01 * torch.randn(ROWS, 1, hidden) for layer in range(layers)}
    return {
        "repeng, no control": lambda: run(None),
        "repeng, one vector": lambda: run(one),
        "repeng, a vector per row": lambda: run(many),
    }


def pyvene(folder, layers, hidden, asked, limits) -> dict[str, Callable]:
    """Its AdditionIntervention on every MLP output; a function of ours for a vector per row."""
    import pyvene as pv

    def edited(intervention: Callable) -> Callable:
        at = [{"layer": i, "component": "mlp_output"} for i in range(layers)]
        model = pv.IntervenableModel(
            [place | {"intervention": intervention()} for place in at], model=load(folder)
        )
        return lambda: model.generate(
            asked, unit_locations=None, intervene_on_prompt=True, **limits
        )

    def one():
        vector = 0.01 * torch.randn(hidden)
        return pv.AdditionIntervention(embed_dim=hidden, source_representation=vector)

    def many():
        vectors = 0.01 * torch.randn(ROWS, 1, hidden)
        return lambda base, source: base + vectors

    return {"pyvene, one vector": edited(one), "pyvene, a vector per row": edited(many)}


def pyreft(folder, layers, hidden, asked, limits) -> dict[str, Callable]:
    """LoReFT of rank 1 on every layer's MLP output, one for all rows."""
    import pyreft as reft

    config = reft.ReftConfig(
        representations=[
            {
                "layer": layer,
                "component": "mlp_output",
                "low_rank_dimension": 1,
                "intervention": reft.LoreftIntervention(
                    embed_dim=hidden, low_rank_dimension=1, dtype=torch.float32
                ),
            }
            for layer in range(layers)
        ]
    )
    model = reft.get_reft_model(load(folder), config)
    model.eval()
    return {
        "pyreft, one LoReFT": lambda: model.generate(
            asked, unit_locations=None, intervene_on_prompt=True, **limits
        )
    }


if __name__ == "__main__":
    if not Path(sys.argv[1]).is_dir():
        sys.exit(f"{sys.argv[1]} is no model directory")
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
