"""What a model's cost depends on, read from its layers; their weights need not be there."""

from typing import Any

from torch import nn

from palette.core.compute import Shape
from palette.core.editing import text_decoder
from palette.lm.row_lora import layer_sizes


def shape(model: Any) -> Shape:
    """The shape of a causal model, on whatever device. Of experts all count, as if all were asked."""
    config = model.config.get_text_config()
    reads, head = text_decoder(model), model.get_output_embeddings().weight
    passed = {id(weights): weights.numel() for weights in (*reads.parameters(), head)}
    for module in reads.modules():
        if isinstance(module, nn.Embedding) and module.weight is not head:
            passed.pop(id(module.weight), None)  # only looked up
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    grouped = getattr(config, "num_key_value_heads", None) or heads
    return Shape(
        parameters=sum(weights.numel() for weights in model.parameters()),
        passed=sum(passed.values()),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        width=heads * size,
        cached=2 * grouped * size,
        vocabulary=config.vocab_size,
        adapted=sum(a + b for a, b in layer_sizes(model).values()),
    )
