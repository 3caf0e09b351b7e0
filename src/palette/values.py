"""Stage `values`: fresh answers of every member to the select, certify and test prompts, scored.

    python -m palette.values

Each answer carries its rewards and its KL to the base; an answer of a member that has not changed is
taken from the store.
"""

import io
from functools import partial

import numpy as np
import polars as pl

from palette import stage, tables, traits
from palette.adapters import ADAPTERS
from palette.fanout import fan_out
from palette.lm import templates
from palette.lm.generation import generate, row_uniforms
from palette.lm.models import cached_base, digest, load_base, with_adapters
from palette.lm.scoring import score
from palette.params import Params
from palette.store import Store, key

ANSWERS = "answers.parquet"


def main(params: Params) -> None:
    plan = tables.read_json(tables.DATA / "plan" / "plan.json")
    prompts = tables.read("prompts").filter(pl.col("split") != "train")
    names = [member["id"] for member in plan["members"]]
    answers = pl.concat(_answers(params, names, prompts)) if names else tables.empty("values")
    rows = answers.join(prompts, on="prompt_id", how="left", maintain_order="left")
    rewards = traits.score(params.traits, rows["prompt"].to_list(), rows["response"].to_list())
    columns = {f"reward_{t}": rewards[:, i] for i, t in enumerate(params.trait_names)}
    tables.write("values", rows.with_columns(**columns))


def _answers(params: Params, names: list[str], prompts: pl.DataFrame) -> list[pl.DataFrame]:
    """The answers of each member, sampled where the store does not have them."""
    store, base = Store(params.runtime.store), load_base("cpu").digest
    settings = [params.values.model_dump(), params.rollouts.max_new_tokens]
    asked = prompts.select("prompt_id", "prompt", "split").rows()
    keys = {name: key("values", base, digest(ADAPTERS / name), settings, asked) for name in names}
    missing = [name for name in names if not store.has(keys[name])]
    work = partial(_answer, params=params, prompts=prompts)
    for name, frame in fan_out(work, missing, params.runtime, "values of members"):
        content = io.BytesIO()
        frame.write_parquet(content)
        store.save(keys[name], {ANSWERS: content.getvalue()})
    frames = (pl.read_parquet(io.BytesIO(store.load(keys[name])[ANSWERS])) for name in names)
    return [frame.with_columns(member=pl.lit(n)) for n, frame in zip(names, frames, strict=True)]


def _answer(name: str, params: Params, prompts: pl.DataFrame) -> tuple[str, pl.DataFrame]:
    base = cached_base(params.runtime.device)
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
    scores = score(member, ids, answers.tokens, base)
    return name, pl.DataFrame({
        "prompt_id": np.repeat(prompts["prompt_id"].to_numpy(), counts),
        "split": np.repeat(prompts["split"].to_numpy(), counts),
        "sample": np.concatenate([np.arange(count) for count in counts]),
        "response": answers.texts, "kl": scores.kl,
        "logprob": scores.logprob, "logprob_base": scores.logprob_reference,
    })  # fmt: skip


if __name__ == "__main__":
    stage.run(main)
