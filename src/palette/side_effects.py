"""What a policy does besides: how surprising the base finds its answers, and how many are broken.

Of the policies that were sampled long before they are judged: the base and the members. All others
are measured where they are sampled, by `policies.worth`.
"""

from collections.abc import Sequence

import polars as pl

from palette import tables
from palette.core.answers import complaint
from palette.lm.models import cached_base
from palette.params import Params


def of_unedited(params: Params, prompts: pl.DataFrame, members: Sequence[str]) -> pl.DataFrame:
    """Means over prompts: member, surprise (nats per token under the base), broken (a share).

    Args:
        prompts: rows of the table `prompts`.
        members: whom to measure beside the base, which goes first.
    """
    order = pl.DataFrame({"member": ["base", *members]})
    answers = pl.concat([of_base(params), of_members(params)]).join(order, on="member", how="semi")
    answers = answers.join(prompts.select("prompt_id", "prompt"), on="prompt_id", how="inner")
    # Of joins whose order is left open, the mean would be of other bits each time.
    answers = answers.sort("member", "prompt_id", "sample")
    complaints = [
        complaint(prompt, response) is not None
        for prompt, response in answers.select("prompt", "response").iter_rows()
    ]
    broken = pl.col("cut") | pl.Series("broken", complaints, dtype=pl.Boolean)
    surprise = -pl.col("logprob") / pl.col("length")
    per_prompt = (
        answers.with_columns(broken=broken.cast(pl.Float64), surprise=surprise)
        .group_by("member", "prompt_id", maintain_order=True)
        .agg(pl.col("surprise", "broken").mean())
    )
    means = per_prompt.group_by("member", maintain_order=True).agg(
        pl.col("surprise", "broken").mean()
    )
    return order.join(means, on="member", how="left", maintain_order="left")


def of_base(params: Params) -> pl.DataFrame:
    """member, prompt_id, sample, response, logprob, length (tokens), cut (before it ended): per answer."""
    ends = sorted(cached_base(params.runtime.device).eos)
    return tables.read("rollouts").select(
        "prompt_id", "sample", "response", "logprob",
        member=pl.lit("base"), length=pl.col("tokens").list.len().cast(pl.Int64),
        cut=~pl.col("tokens").list.last().is_in(ends),
    ).select(COLUMNS)  # fmt: skip


def of_members(params: Params) -> pl.DataFrame:
    """The same of the table `values`, whose answers are texts: the tokenizer counts their tokens.

    A text is not always split as it was sampled. Measured on 20,000 rollouts of the sandbox's base,
    whose tokens are known: the same number for 99.6% of them, and the same verdict on what was cut
    for all.
    """
    rows = tables.read("values").filter(split="test")
    texts, limit = rows["response"].to_list(), params.rollouts.max_new_tokens
    tokenizer = cached_base(params.runtime.device).tokenizer
    plain = {"add_special_tokens": False, "split_special_tokens": True}
    ids = tokenizer(texts, **plain)["input_ids"] if texts else []
    length = pl.Series("length", [len(own) for own in ids], dtype=pl.Int64)
    cut = length >= limit
    return rows.with_columns(
        logprob=pl.col("logprob_base"), length=length + (~cut).cast(pl.Int64), cut=cut
    ).select(COLUMNS)


COLUMNS = ["member", "prompt_id", "sample", "response", "logprob", "length", "cut"]
