"""Whether exported adapters are the policies that the certificate judged: PEFT's word on a fresh base.

The stage `values` left, for every member, the log-probability of each of the base's certify rollouts,
from which the certificate was computed. The exported files are loaded by PEFT, as any server loads
them, and must give the same numbers.
"""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from palette import tables
from palette.errors import PaletteError
from palette.lm import templates
from palette.lm.models import LanguageModel
from palette.lm.scoring import logprobs
from palette.progress import progress

PROMPTS = 8
"""Certify prompts whose first rollout is looked at."""
TOLERANCE = 0.25
"""Of the differences, in parts of what the adapter changes: no adapter errs by 1, another one by more."""


def check(lm: LanguageModel, adapters: dict[str, Path]) -> dict[str, float]:
    """Load every exported adapter with PEFT on the base, and compare with what the run recorded.

    Args:
        lm: a base that nothing was done to.
        adapters: member → its exported folder.

    Returns:
        answers (of each member), largest (difference of an answer's log-probability, nats) and
        relative (root mean square of a member's differences, in parts of what its adapter changes;
        the largest of all).

    Raises:
        PaletteError: an adapter is not the policy that the certificate judged.
    """
    rollouts = _rollouts()
    if unscored := set(adapters) - set(rollouts["member"]):
        raise PaletteError(f"{min(unscored)} was never scored on certify; run `dvc repro` first")
    largest = relative = 0.0
    with progress("comparing what is exported with the run", total=len(adapters)) as advance:
        for name, folder in adapters.items():
            told = rollouts.filter(member=name)
            recorded, base = told["logprob"].to_numpy(), told["logprob_base"].to_numpy()
            apart = np.abs(_by_peft(lm, folder, told) - recorded)
            error = float(np.sqrt(np.mean(apart**2) / np.mean((recorded - base) ** 2)))
            if not error <= TOLERANCE:
                raise PaletteError(
                    f"the adapter of {name} gives other answers than those that were certified; "
                    "run `dvc repro values` to measure it again"
                )
            largest, relative = max(largest, float(apart.max())), max(relative, error)
            advance(1)
    answers = rollouts["prompt_id"].n_unique()
    return {"answers": answers, "largest": largest, "relative": relative}


def _rollouts() -> pl.DataFrame:
    """member, prompt_id, prompt, tokens, logprob (under the member), logprob_base."""
    prompts = tables.read("prompts").filter(split="certify").sort("prompt_id").head(PROMPTS)
    base = tables.read("rollouts").filter(sample=0).rename({"logprob": "logprob_base"})
    return (
        tables.read("likelihoods")
        .filter(sample=0)
        .join(prompts.select("prompt_id", "prompt"), on="prompt_id")
        .join(base.select("prompt_id", "tokens", "logprob_base"), on="prompt_id")
        .sort("member", "prompt_id")
    )


def _by_peft(lm: LanguageModel, folder: Path, rollouts: pl.DataFrame) -> np.ndarray:
    """(answers,) log-probabilities under the base with one adapter, which is taken off again."""
    from peft import PeftModel

    with warnings.catch_warnings():  # of libraries about each other
        warnings.simplefilter("ignore", FutureWarning)
        adapted: Any = PeftModel.from_pretrained(lm.model, folder)
    try:
        ids = [
            templates.encode(lm.tokenizer, templates.question(prompt))
            for prompt in rollouts["prompt"]
        ]
        return logprobs(replace(lm, model=adapted), ids, rollouts["tokens"].to_list())
    finally:
        adapted.unload()
