"""Whether a causal model can be a base: what later stages ask of one, tried on three short questions.

Families differ in what they call their layers, how they count positions and what their caches can do, and
their names do not tell. So it is measured, before anything else runs: a batch whose rows differ in length
must give what each row gives alone, read whole and without a cache.
"""

from typing import Any

from palette.core.editing import find_layers
from palette.errors import PaletteError
from palette.lm import templates
from palette.lm.activations import embed, mlp_outputs
from palette.lm.backends import SAME, alone
from palette.lm.generation import generate, row_uniforms
from palette.lm.models import LanguageModel

QUESTIONS = ("Why?", "How do I take the lid off a jar that does not want to open?", "Why?")
TOKENS = 6


def require_shape(model: Any) -> None:
    """Make sure of what a model's config tells, before its weights are fetched or read.

    Raises:
        PaletteError: it is quantised, an encoder, or has layers that no edit can act on.
    """
    name = type(model).__name__
    if getattr(model.config, "quantization_config", None) is not None:
        raise _unfit(
            name, "is quantised, and no adapter can be merged into it; name the model as trained"
        )
    if model.config.is_encoder_decoder:
        raise _unfit(name, "reads with an encoder; name a model that only decodes")
    try:
        find_layers(model)
    except ValueError as error:
        raise PaletteError(f"base.model cannot be edited: {error}; name another model") from None


def require_fit(lm: LanguageModel) -> None:
    """Make sure that the chain can run on a model.

    Raises:
        PaletteError: it cannot, and why.
    """
    require_shape(lm.model)
    name = type(lm.model).__name__
    if not lm.eos:
        raise _unfit(name, "names no token that ends an answer; set eos_token in its tokenizer")
    try:
        asked = [templates.encode(lm.tokenizer, templates.question(text)) for text in QUESTIONS]
    except Exception as error:  # a template is a program of its makers
        raise _unfit(
            name, f"has a chat template that refuses a question ({_first(error)})"
        ) from None
    try:
        apart = _apart(lm, asked)
        shapes = embed(lm, QUESTIONS), mlp_outputs(lm, asked)
    except PaletteError:
        raise
    except Exception as error:  # of whatever kind a family's own code raises
        raise _unfit(name, f"does not run in batches with a cache ({_first(error)})") from None
    if not all(shape.isfinite().all() for shape in shapes):
        raise _unfit(name, "computes what is no number; its files may be damaged")
    if not apart <= SAME:
        raise _unfit(
            name,
            f"gives other answers in a batch than alone (by {apart:.2g} nats a token); name another",
        )


def _apart(lm: LanguageModel, asked: list[list[int]]) -> float:
    """The largest difference, in nats a token, between answers made in a batch and read alone."""
    made = generate(lm, asked, TOKENS, row_uniforms(len(asked), TOKENS, "fitness"))
    found = []
    for prompt, tokens, logprob in zip(asked, made.tokens, made.logprobs, strict=True):
        found.append(abs(alone(lm, prompt, tokens) - float(logprob)) / len(tokens))
    return max(found)


def _unfit(name: str, why: str) -> PaletteError:
    return PaletteError(f"base.model ({name}) {why}")


def _first(error: Any) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
