"""The operations that are reckoned, beside those that PyTorch counts."""

from dataclasses import replace

import pytest
import torch
import transformers
from tiny_models import tiny
from torch.utils.flop_counter import FlopCounterMode

from palette.core import compute
from palette.core.compute import ACCELERATORS, Shape, Tokens
from palette.lm.row_lora import Stacked, layer_sizes
from palette.lm.shapes import shape

ROWS, WIDTH, RANK = 4, 24, 8


def model(family: str):
    """Deep enough that what only the first layer spares does not count."""
    size = {"num_hidden_layers": 8, "hidden_size": 64, "intermediate_size": 160,
            "num_attention_heads": 4, "vocab_size": 97}  # fmt: skip
    if family == "gpt2":
        size = {"n_layer": 8, "n_embd": 64, "n_head": 4, "vocab_size": 97}
    if family in ("qwen2", "llama"):
        size |= {"num_key_value_heads": 2}
    config = transformers.AutoConfig.for_model(family, attn_implementation="eager", **size)
    return transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def counted(work) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "gpt_neox"])
def test_operations_are_those_that_pytorch_counts(family):
    lm, ids = model(family), torch.zeros(ROWS, WIDTH, dtype=torch.long)
    own, tokens = shape(lm), ROWS * WIDTH
    with torch.no_grad():
        forward = counted(lambda: lm(input_ids=ids, use_cache=False))
    expected = compute.operations(own, Tokens(read=tokens), WIDTH, RANK)
    assert expected == pytest.approx(forward, rel=0.03)

    rows = Stacked(layer_sizes(lm), RANK, 1, seed=0)
    rows.attach(lm)
    rows.focus(torch.zeros(ROWS, dtype=torch.long))
    both = counted(lambda: lm(input_ids=ids, use_cache=False).logits.sum().backward())
    expected = compute.operations(own, Tokens(trained=tokens), WIDTH, RANK)
    assert expected == pytest.approx(both, rel=0.05)
    assert both < 2.7 * forward, "of the weights no gradient is made"


def test_a_shape_is_read_without_weights():
    config = transformers.LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8,
    )  # fmt: skip
    with torch.device("meta"):
        large = transformers.AutoModelForCausalLM.from_config(config)
    own = shape(large)
    assert own.parameters == 8_030_261_248  # what Llama 3.1 8B says of itself
    assert own.passed == own.parameters - 128256 * 4096
    assert (own.layers, own.width, own.cached) == (32, 4096, 2 * 8 * 128)
    assert own.adapted == 32 * (2 * 8192 + 2 * 5120 + 3 * (4096 + 14336))


def test_a_head_that_is_tied_counts_once_and_positions_that_are_looked_up_not_at_all():
    lm = tiny("gpt2").model
    own = shape(lm)
    assert own.parameters == lm.num_parameters()
    assert own.passed == own.parameters - lm.transformer.wpe.weight.numel()
    llama = shape(tiny("llama").model)
    assert llama.passed == llama.parameters - tiny("llama").model.model.embed_tokens.weight.numel()


def large() -> Shape:
    return Shape(int(8e9), int(7.5e9), 32, 4096, 4096, 2048, 128256, 32 * 80_000)


def test_decoding_few_rows_takes_the_time_of_reading_the_weights():
    on = ACCELERATORS["H100"]
    alone = Tokens(generated=1000, together=1)
    many = replace(alone, together=512)
    weights = 1000 * 2 * 7.5e9 / 3.35e12
    assert compute.seconds(large(), alone, 100, 16, on, 1.0) == pytest.approx(weights, rel=0.01)
    assert compute.seconds(large(), many, 100, 16, on, 1.0) < weights / 100
    assert compute.seconds(large(), alone, 100, 16, on, 0.25) == pytest.approx(
        4 * weights, rel=0.01
    )
    faster = ACCELERATORS["H200"]
    assert compute.seconds(large(), alone, 100, 16, faster, 1.0) == pytest.approx(
        weights * 3.35 / 4.8, rel=0.01
    )


def test_training_takes_its_operations_at_the_published_rate():
    on, tokens = ACCELERATORS["A100"], Tokens(trained=1e6)
    least = 4 * 7.5e9 * 1e6 / 312e12
    assert least < compute.seconds(large(), tokens, 100, 16, on, 1.0) < 1.1 * least


def test_memory_holds_the_base_twice_to_generate_and_once_to_train():
    base = 2 * 8e9
    assert 2 * base < compute.held_to_generate(large(), 512, 100) < 2.5 * base
    one = compute.held_to_train(large(), 16, 1, 1e6, 100)
    assert base < one < 1.3 * base
    more = compute.held_to_train(large(), 16, 16, 1e6, 100)
    assert more - one == pytest.approx(15 * 16 * 16 * 32 * 80_000)
