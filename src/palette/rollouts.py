"""Stage `rollouts`: answers of the base to the shared prompts, with log-probabilities.

python -m palette.rollouts
"""

from collections.abc import Iterator
from functools import partial

import polars as pl

from palette import stage, tables
from palette.fanout import fan_out
from palette.lm import templates
from palette.lm.generation import generate, row_uniforms
from palette.lm.models import cached_base
from palette.params import Params, Rollouts, Runtime


def main(params: Params) -> None:
    prompts = tables.read("prompts")
    work = partial(_answer, settings=params.rollouts, runtime=params.runtime)
    frames = fan_out(
        work, _chunks(prompts, params.rollouts), params.runtime, "rollouts of the base"
    )
    tables.write("rollouts", pl.concat(frames))


def _chunks(prompts: pl.DataFrame, settings: Rollouts) -> Iterator[tuple[str, str, int]]:
    """(prompt_id, prompt, samples) of every prompt."""
    samples = settings.samples.model_dump()
    for row in prompts.iter_rows(named=True):
        yield row["prompt_id"], row["prompt"], samples[row["split"]]


def _answer(item: tuple[str, str, int], settings: Rollouts, runtime: Runtime) -> pl.DataFrame:
    prompt_id, prompt, samples = item
    base = cached_base(runtime.device, runtime.backend)
    ids = templates.encode(base.tokenizer, templates.question(prompt))
    uniforms = row_uniforms(samples, settings.max_new_tokens, "rollouts", settings.seed, prompt_id)
    answers = generate(base, [ids] * samples, settings.max_new_tokens, uniforms)
    return pl.DataFrame({
        "prompt_id": [prompt_id] * samples, "sample": range(samples), "response": answers.texts,
        "tokens": answers.tokens, "logprob": answers.logprobs,
    })  # fmt: skip


if __name__ == "__main__":
    stage.run(main)
