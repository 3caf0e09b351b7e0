"""What a number of tokens costs on a model of some shape: operations, bytes that must move, time, memory.

Operations are multiplications and additions of matrices, a multiply-add counted as two. With P the
parameters that a token passes, a token costs 2·P forward. Back through a frozen base, whose weights have
no gradient, it costs 2·P once more (Hu et al., arXiv 2106.09685: adapters alone are trained); an
adapter's own matrices cost 2·p forward and 4·p back. Attention adds 4·layers·width for each position
that a token attends to, and twice that going back.

Decoding reads every weight once a step, whatever the batch: time is the larger of operations at the
peak rate and bytes at the peak bandwidth (the roofline), over a utilisation that has to be assumed.
"""

from dataclasses import dataclass

HALF, FULL = 2, 4
"""bytes of a number in half and in single precision"""
COPIES = 3
"""Of a part's logits in training: themselves, their log-softmax and its gradient."""
KEPT = 34
"""Bytes a token, layer and unit of width that a training step keeps in half precision without
recomputing (Korthikanti et al., arXiv 2205.05198, equation 1, whose attention scores are never kept whole
by today's kernels)."""


@dataclass(frozen=True)
class Accelerator:
    """What its maker publishes: dense matrix rate in bfloat16, without sparsity."""

    name: str
    flops: float
    """operations a second"""
    bandwidth: float
    """bytes a second"""
    memory: float
    """bytes"""


ACCELERATORS = {
    found.name: found
    for found in (
        # NVIDIA A100 80 GB SXM data sheet: 312 TFLOPS, 2,039 GB/s.
        Accelerator("A100", 312e12, 2.039e12, 80e9),
        # NVIDIA H100 SXM data sheet: 1,979 TFLOPS with sparsity, half of it without; 3.35 TB/s.
        Accelerator("H100", 989e12, 3.35e12, 80e9),
        # NVIDIA H200 SXM data sheet: the same rate; 141 GB at 4.8 TB/s.
        Accelerator("H200", 989e12, 4.8e12, 141e9),
        # NVIDIA B200 SXM data sheet: 4.5 PFLOPS with sparsity, half of it without; 180 GB at 8 TB/s.
        Accelerator("B200", 2.25e15, 8e12, 180e9),
        # AMD Instinct MI300X data sheet: 1,307.4 TFLOPS; 192 GB at 5.3 TB/s.
        Accelerator("MI300X", 1307.4e12, 5.3e12, 192e9),
    )
}


@dataclass(frozen=True)
class Shape:
    """What of a model's make its cost depends on."""

    parameters: int
    """all of them, each once"""
    passed: int
    """those that every token is multiplied by: without an embedding that is only looked up"""
    layers: int
    hidden: int
    width: int
    """heads × size of a head"""
    cached: int
    """numbers a token that one layer's cache keeps: keys and values"""
    vocabulary: int
    adapted: int
    """Σ (in + out) of the adapted layers: an adapter has so many parameters for each of its ranks"""


@dataclass(frozen=True)
class Tokens:
    """What passes through a model."""

    answers: float = 0.0
    """answers generated"""
    generated: float = 0.0
    """their tokens, one decoding step each"""
    read: float = 0.0
    """tokens passed forward many at once: prompts, and answers that are scored"""
    traced: float = 0.0
    """tokens passed forward and back with nothing trained"""
    trained: float = 0.0
    """tokens passed forward and back, with adapters in training"""
    together: float = 1.0
    """answers that are decoded in one batch, at most"""


def operations(shape: Shape, tokens: Tokens, context: float, rank: int) -> float:
    """Operations that the tokens cost, attention included.

    Args:
        context: positions that a token attends to, on average.
        rank: of the adapters in training.
    """
    attention = 4 * shape.layers * shape.width * context
    forward = 2 * shape.passed + attention
    back = 2 * shape.passed + 2 * attention
    own = 6 * rank * shape.adapted
    forwards = tokens.generated + tokens.read + tokens.traced + tokens.trained
    return (
        forward * forwards + back * (tokens.traced + tokens.trained) + own * tokens.trained
    )  # fmt: skip


def moved(shape: Shape, tokens: Tokens, context: float) -> float:
    """Bytes that decoding has to read: the weights once a step of a batch, each row's cache at each."""
    steps = tokens.generated / max(tokens.together, 1.0)
    cache = HALF * shape.layers * shape.cached * context
    return HALF * shape.passed * steps + cache * tokens.generated


def seconds(
    shape: Shape, tokens: Tokens, context: float, rank: int, on: Accelerator, utilisation: float
) -> float:
    """Time on one accelerator.

    Args:
        utilisation: the share of what the roofline allows that is really reached: an assumption.
    """
    decoding = Tokens(generated=tokens.generated, together=tokens.together)
    rest = Tokens(read=tokens.read, traced=tokens.traced, trained=tokens.trained)
    decode = max(
        operations(shape, decoding, context, rank) / on.flops,
        moved(shape, decoding, context) / on.bandwidth,
    )
    return (decode + operations(shape, rest, context, rank) / on.flops) / utilisation


def held_to_generate(shape: Shape, rows: int, context: float) -> float:
    """Bytes while a member answers: base and merged copy, the cache of a batch and its logits."""
    cache = HALF * shape.layers * shape.cached * context * rows
    return 2 * HALF * shape.parameters + cache + FULL * rows * shape.vocabulary


def held_to_train(
    shape: Shape, rank: int, adapters: int, cells: float, context: float
) -> float:  # fmt: skip
    """Bytes while adapters are trained: base; adapters, gradients, two moments; a part's pass.

    Args:
        adapters: trained at once.
        cells: logits of a part, tokens × vocabulary.
        context: tokens of a row.
    """
    tokens = max(cells / shape.vocabulary, context)
    own = 4 * FULL * rank * shape.adapted * adapters
    kept = KEPT * shape.layers * shape.hidden * tokens
    return HALF * shape.parameters + own + kept + COPIES * FULL * tokens * shape.vocabulary
