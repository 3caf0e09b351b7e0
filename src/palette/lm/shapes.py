"""What a model's cost depends on, read from its layers; their weights need not be there."""

from typing import Any

from torch import nn

from palette.core.compute import Shape
from palette.lm.row_lora import layer_sizes


def shape(model: Any) -> Shape:
    """The shape of a causal model, on whatever device. Of experts all count, as if all were asked."""
    config = model.config.get_text_config()
    parameters = sum(weights.numel() for weights in model.parameters())
    head = model.get_output_embeddings()
    looked_up = sum(
        module.weight.numel()
        for module in model.modules()
        if isinstance(module, nn.Embedding) and (head is None or module.weight is not head.weight)
    )
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    grouped = getattr(config, "num_key_value_heads", None) or heads
    return Shape(
        parameters=parameters,
        passed=parameters - looked_up,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        width=heads * size,
        cached=2 * grouped * size,
        vocabulary=config.vocab_size,
        adapted=sum(a + b for a, b in layer_sizes(model).values()),
    )
