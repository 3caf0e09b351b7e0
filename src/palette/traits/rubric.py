"""Rubric: the base judges a sentence on the answer, by the log-odds of yes and no.

funny: {kind: rubric, sentence: the answer is funny}

A model that is offered "yes or no" may lean to what comes first, or last: both orders are asked, and
their log-odds averaged. A sentence that ends in a question mark is asked as it stands.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from palette.errors import PaletteError

if TYPE_CHECKING:
    from palette.lm.models import LanguageModel

YES, NO = ("yes", "Yes", "YES"), ("no", "No", "NO")


def reward(
    prompts: Sequence[str], responses: Sequence[str], device: str, sentence: str,
    output: str = "sigmoid",
) -> np.ndarray:  # fmt: skip
    """(rows,) The probability of yes, of the two; or the log-odds.

    Args:
        output: `sigmoid` or `raw`.

    Raises:
        ValueError: the output is neither.
        PaletteError: the base cannot say yes and no in different tokens, or a row does not fit it.
    """
    from palette.lm import templates
    from palette.lm.models import cached_base

    if output not in ("sigmoid", "raw"):
        raise ValueError(f"output is '{output}', but must be sigmoid or raw")
    lm = cached_base(device)
    asked = [
        templates.encode(lm.tokenizer, templates.rubric(*row, sentence, order))
        for order in (("yes", "no"), ("no", "yes"))
        for row in zip(prompts, responses, strict=True)
    ]
    odds = log_odds(lm, asked).reshape(2, -1).mean(axis=0)
    return odds if output == "raw" else 1 / (1 + np.exp(-odds))


def log_odds(lm: "LanguageModel", prompts: Sequence[Sequence[int]]) -> np.ndarray:
    """(rows,) log P(yes …) − log P(no …) of the first token of a reply, however it is spelt."""
    import torch

    from palette.lm.activations import batches

    longest = max(map(len, prompts))
    if lm.context is not None and longest > lm.context:
        raise PaletteError(
            f"a rubric of {longest} tokens is longer than the base's context of {lm.context}; "
            "shorten the sentence, or lower rollouts.max_new_tokens"
        )
    affirms, denies = (first_tokens(lm.tokenizer, words) for words in (YES, NO))
    if not (affirms - denies and denies - affirms):
        raise PaletteError("the base's tokenizer begins yes and no alike: it can judge no rubric")
    yes, no = sorted(affirms - denies), sorted(denies - affirms)
    found = np.zeros(len(prompts))
    with torch.inference_mode():
        for rows, inputs in batches(lm, prompts):
            logits = lm.model(**inputs, logits_to_keep=1).logits[:, -1].double()
            found[rows] = (logits[:, yes].logsumexp(1) - logits[:, no].logsumexp(1)).cpu().numpy()
    return found


def first_tokens(tokenizer: Any, words: Sequence[str]) -> set[int]:
    """What a reply of one of these words may begin with, after a space or not."""
    spelt = [text for word in words for text in (word, f" {word}")]
    ids = tokenizer(spelt, add_special_tokens=False)["input_ids"]
    return {own[0] for own in ids if own}
