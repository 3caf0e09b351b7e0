"""Stage `values`: fresh answers of every member to the select, certify and test prompts, scored.

    python -m palette.values

Each answer carries its rewards and its log-probabilities under the member and under the base. The
base's certify rollouts are scored under every member too, so that the verdict may join both samples.
What a member that has not changed answered and scored is taken from the store.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
Task = tuple[str, str]
"""what is made, and of which member"""


@dataclass(frozen=True)
class Job:
    """What is made of every member."""

    work: Callable[[str], pl.DataFrame]
    source: tuple
    """what it is made of, besides the base and the member"""


def main(params: Params) -> None:
    plan = tables.read_json(tables.DATA / "plan" / "plan.json")
    prompts = tables.read("prompts").filter(pl.col("split") != "train")
    names = [member["id"] for member in plan["members"]]
    base = digest(BASE)
    made_by = {name: (base, digest(ADAPTERS / name)) for name in names}
    jobs = {
        "values": _answers(params, prompts),
        "likelihoods": _likelihoods(params, prompts.filter(split="certify")),
    }
    made = {
        what: pl.concat([tables.empty(what), *frames], how="diagonal")
        for what, frames in _stored(params, made_by, jobs).items()
    }
    tables.write("values", _scored(params, made["values"], prompts))
    tables.write("likelihoods", made["likelihoods"])


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


def _answers(params: Params, prompts: pl.DataFrame) -> Job:
    """The answers of a member to the prompts of select, certify and test."""
    settings = [params.values.model_dump(), params.rollouts.max_new_tokens]
    asked = prompts.select("prompt_id", "prompt", "split").rows()
    return Job(partial(_answer, params=params, prompts=prompts), (settings, asked))


def _likelihoods(params: Params, prompts: pl.DataFrame) -> Job:
    """The base's rollouts for the certify prompts, scored under a member."""
    rollouts = tables.read("rollouts").join(prompts, on="prompt_id", maintain_order="left")
    asked = rollouts.select("prompt_id", "prompt", "sample", "tokens")
    return Job(partial(_likelihood, params=params, rollouts=asked), (key(asked.rows()),))


def _stored(
    params: Params, made_by: MadeBy, jobs: Mapping[str, Job]
) -> dict[str, list[pl.DataFrame]]:
    """Every job done for each member, taken from the store where neither it nor its source changed."""
    store = Store(params.runtime.store)
    keys = {
        (what, name): key(what, *made, *job.source)
        for what, job in jobs.items()
        for name, made in made_by.items()
    }
    missing = [task for task in keys if not store.has(keys[task])]
    work = partial(_do, jobs=jobs)
    for task, frame in fan_out(work, missing, params.runtime, "members' answers and likelihoods"):
        content = io.BytesIO()
        frame.write_parquet(content)
        store.save(keys[task], {FILE: content.getvalue()})
    found: dict[str, list[pl.DataFrame]] = {what: [] for what in jobs}
    for (what, name), kept in keys.items():
        frame = pl.read_parquet(io.BytesIO(store.get(kept)[FILE]))
        found[what].append(frame.with_columns(member=pl.lit(name)))
    return found


def _do(task: Task, jobs: Mapping[str, Job]) -> tuple[Task, pl.DataFrame]:
    what, name = task
    return task, jobs[what].work(name)


def _answer(name: str, params: Params, prompts: pl.DataFrame) -> pl.DataFrame:
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
    return pl.DataFrame({
        "prompt_id": np.repeat(prompts["prompt_id"].to_numpy(), counts),
        "split": np.repeat(prompts["split"].to_numpy(), counts),
        "sample": np.concatenate([np.arange(count) for count in counts]),
        "response": answers.texts, "logprob": answers.logprobs,
        "logprob_base": logprobs(base, ids, answers.tokens),
    })  # fmt: skip


def _likelihood(name: str, params: Params, rollouts: pl.DataFrame) -> pl.DataFrame:
    base = cached_base(params.runtime.device)
    member = with_adapters(base, {ADAPTERS / name: 1.0})
    encoded = {
        prompt: templates.encode(base.tokenizer, templates.question(prompt))
        for prompt in rollouts["prompt"].unique()
    }
    ids = [encoded[prompt] for prompt in rollouts["prompt"]]
    scores = logprobs(member, ids, rollouts["tokens"].to_list())
    return rollouts.select("prompt_id", "sample").with_columns(logprob=scores)


if __name__ == "__main__":
    stage.run(main)
