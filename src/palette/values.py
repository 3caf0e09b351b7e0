"""Stage `values`: fresh answers of every member to the select, certify and test prompts, scored.

    python -m palette.values

Each answer carries its rewards and its log-probabilities under the member and under the base. The
base's certify rollouts are scored under every member too, so that the verdict may join both samples.
What a member that has not changed answered and scored is taken from the store.
"""

import io
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import polars as pl

from palette import scores, stage, tables
from palette.adapters import ADAPTERS
from palette.fanout import fan_out
from palette.lm import templates
from palette.lm.generation import generate, row_uniforms
from palette.lm.models import BASE, cached_base, digest, with_adapters
from palette.lm.scoring import logprobs
from palette.params import Params
from palette.store import Store, key

FILE = "answers.parquet"

MadeBy = dict[str, tuple[str, str]]
"""member → digests of the base and of the adapter"""


def main(params: Params) -> None:
    plan = tables.read_json(tables.DATA / "plan" / "plan.json")
    prompts = tables.read("prompts").filter(pl.col("split") != "train")
    names = [member["id"] for member in plan["members"]]
    base = digest(BASE)
    made_by = {name: (base, digest(ADAPTERS / name)) for name in names}
    tables.write("values", _scored(params, _answers(params, made_by, prompts), prompts))
    tables.write("likelihoods", _likelihoods(params, made_by, prompts.filter(split="certify")))


def _scored(params: Params, answers: pl.DataFrame, prompts: pl.DataFrame) -> pl.DataFrame:
    """Answers with one column `reward_TRAIT` per trait."""
    rows = answers.join(prompts, on="prompt_id", how="left", maintain_order="left")
    parts = rows.partition_by("member", maintain_order=True) or [rows]
    # Member by member, so that scores that are kept stay what they are when another one comes.
    rewards = np.concatenate([
        scores.score(params, own["prompt"].to_list(), own["response"].to_list()) for own in parts
    ])  # fmt: skip
    columns = {f"reward_{t}": rewards[:, i] for i, t in enumerate(params.trait_names)}
    return rows.with_columns(**columns)


def _answers(params: Params, made_by: MadeBy, prompts: pl.DataFrame) -> pl.DataFrame:
    """The answers of each member to the prompts of select, certify and test."""
    settings = [params.values.model_dump(), params.rollouts.max_new_tokens]
    asked = prompts.select("prompt_id", "prompt", "split").rows()
    work = partial(_answer, params=params, prompts=prompts)
    made = _stored(params, made_by, work, ("values", settings, asked), "values of members")
    return pl.concat([tables.empty("values"), *made], how="diagonal")


def _likelihoods(params: Params, made_by: MadeBy, prompts: pl.DataFrame) -> pl.DataFrame:
    """The base's rollouts for the certify prompts, scored under each member."""
    rollouts = tables.read("rollouts").join(prompts, on="prompt_id", maintain_order="left")
    asked = rollouts.select("prompt_id", "prompt", "sample", "tokens")
    work = partial(_likelihood, params=params, rollouts=asked)
    source = ("likelihoods", key(asked.rows()))
    made = _stored(params, made_by, work, source, "likelihoods under members")
    return pl.concat([tables.empty("likelihoods"), *made], how="diagonal")


def _stored(
    params: Params, made_by: MadeBy, work: Callable, source: tuple, words: str
) -> Iterator[pl.DataFrame]:
    """`work` of each member, taken from the store where neither it nor its source has changed.

    Args:
        source: what is made, and of what besides the base and the member.
    """
    store, (what, *of) = Store(params.runtime.store), source
    keys = {name: key(what, *made, *of) for name, made in made_by.items()}
    missing = [name for name in keys if not store.has(keys[name])]
    for name, frame in fan_out(work, missing, params.runtime, words):
        content = io.BytesIO()
        frame.write_parquet(content)
        store.save(keys[name], {FILE: content.getvalue()})
    for name in keys:
        frame = pl.read_parquet(io.BytesIO(store.get(keys[name])[FILE]))
        yield frame.with_columns(member=pl.lit(name))


def _answer(name: str, params: Params, prompts: pl.DataFrame) -> tuple[str, pl.DataFrame]:
    base = cached_base(params.runtime.device, params.runtime.backend)
    member = with_adapters(base, {ADAPTERS / name: 1.0})
    samples = params.values.samples.model_dump()
    counts = [samples[split] for split in prompts["split"]]
    limit = params.rollouts.max_new_tokens
    ids, uniforms = [], []
    for row, count in zip(prompts.iter_rows(named=True), counts, strict=True):
        encoded = templates.encode(base.tokenizer, templates.question(row["prompt"]))
        ids += [encoded] * count
        # The same numbers for every member: differences between members are then paired.
        uniforms.append(row_uniforms(count, limit, "values", params.values.seed, row["prompt_id"]))
    answers = generate(member, ids, limit, np.concatenate(uniforms))
    return name, pl.DataFrame({
        "prompt_id": np.repeat(prompts["prompt_id"].to_numpy(), counts),
        "split": np.repeat(prompts["split"].to_numpy(), counts),
        "sample": np.concatenate([np.arange(count) for count in counts]),
        "response": answers.texts, "logprob": answers.logprobs,
        "logprob_base": logprobs(base, ids, answers.tokens),
    })  # fmt: skip


def _likelihood(name: str, params: Params, rollouts: pl.DataFrame) -> tuple[str, pl.DataFrame]:
    base = cached_base(params.runtime.device)
    member = with_adapters(base, {ADAPTERS / name: 1.0})
    encoded = {
        prompt: templates.encode(base.tokenizer, templates.question(prompt))
        for prompt in rollouts["prompt"].unique()
    }
    ids = [encoded[prompt] for prompt in rollouts["prompt"]]
    scores = logprobs(member, ids, rollouts["tokens"].to_list())
    return name, rollouts.select("prompt_id", "sample").with_columns(logprob=scores)


if __name__ == "__main__":
    stage.run(main)
