"""Policies that a user can be given, and their worth: adapters, an edit, words before the question.

A policy's answers do not depend on whom it serves: users with the same policy share them. What was
measured of a policy is in the store, by what it is made of and what it was asked: one user more
measures that user's policies, not the rest.
"""

import io
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import polars as pl

from palette import traits
from palette.core.editing import Edit
from palette.fanout import fan_out
from palette.lm import templates
from palette.lm.models import BASE, digest
from palette.measuring import Asked, Policy, Quotes, Task, measure, told
from palette.params import Params
from palette.store import Store, key, of

HANDED = 24
"""Policies of one set of adapters that a worker is handed at once, about."""
VERSION = 2
"""Raised when the same answers come to be sampled, scored or judged otherwise."""
FILE = "worth.parquet"
SEVERAL = ("one", "another")  # where nobody says whom a policy serves


def worth(
    params: Params,
    policies: Iterable[Policy],
    prompts: pl.DataFrame,
    edits: Mapping[str, Edit],
    words: str,
    samples: int | None = None,
    quotes: Quotes | None = None,
    key: tuple[str, int] | None = None,
    whose: Mapping[Policy, Collection[str]] | None = None,
    together: Mapping[Policy, str] | None = None,
) -> pl.DataFrame:
    """Mean rewards, KL to the base and side effects of each distinct policy on each prompt.

    A policy is measured alone, or with those that it is always measured with, so that a store that
    holds some of the others changes no bit of it.

    Args:
        prompts: rows of the table `prompts`.
        edits: by the names that the policies give them.
        words: what the progress bar says.
        samples: answers per policy and prompt; baselines.samples unless told.
        quotes: for policies that quote.
        key: names random numbers that are the same for all policies, for choices among few of
            them. Unless told each policy has its own: the luck of common ones would be common to all
            users, where no interval over users could see it.
        whose: whom a policy serves, of those made of users' data: what is measured of one that serves
            one user alone is kept in that user's folder of the store.
        together: what policies of the same adapters that are asked together are called: a change of one
            of them measures all of them anew.

    Returns:
        policy, prompt_id, response (the first answer), kl (nats), surprise (nats per token under
        the base), broken (share of answers that were cut off or that core/answers.py complains of)
        and reward_TRAIT.
    """
    policies = sorted(set(policies))
    if not policies:
        return pl.DataFrame(schema={"policy": pl.String})
    asked = Asked(
        prompts.select("prompt_id", "prompt").rows(),
        samples or params.baselines.samples, params.rollouts.max_new_tokens,
        key or ("policies", params.baselines.seed), key is not None,
    )  # fmt: skip
    # Each policy travels with its own edit: all of them are large where users have their own.
    tasks = [
        (policy, edits[policy.edit] if policy.edit else None, told(policy, asked, quotes or {}))
        for policy in policies
    ]
    batches = _batches(tasks, together or {})
    store, keys = Store(params.runtime.store), _keys(params, batches, asked, whose or {})
    missing = [own for own in batches if not all(store.has(keys[task[0]]) for task in own)]
    work = partial(measure, params=params, asked=asked)
    chunks = list(_chunks(missing))
    for made in fan_out(work, chunks, params.runtime, words):
        for policy, frame in made.items():
            content = io.BytesIO()
            frame.write_parquet(content)
            store.save(keys[policy], {FILE: content.getvalue()})
    return pl.concat(
        pl.read_parquet(io.BytesIO(store.get(keys[policy])[FILE])).select(
            pl.lit(policy.name).alias("policy"), pl.all()
        )
        for policy in policies
    )


def assign(chosen: Mapping[str, Policy], values: pl.DataFrame, method: str) -> pl.DataFrame:
    """The worth of each user's policy, with columns method and user_id."""
    users = pl.DataFrame(
        [{"user_id": user, "policy": policy.name} for user, policy in chosen.items()],
        schema={"user_id": pl.String, "policy": pl.String},
    )
    return users.with_columns(method=pl.lit(method)).join(
        values, on="policy", how="inner", maintain_order="left_right"
    )


def _batches(tasks: Sequence[Task], together: Mapping[Policy, str]) -> list[list[Task]]:
    """Those that are asked together, in the order of the policies; each of the others by itself."""
    batches: dict[Any, list[Task]] = {}
    for task in tasks:
        policy = task[0]
        name = (policy.adapters, together[policy]) if policy in together else policy
        batches.setdefault(name, []).append(task)
    return list(batches.values())


def _chunks(batches: Sequence[list[Task]]) -> Iterator[list[list[Task]]]:
    """What a worker is handed at once."""
    for _, group in groupby(batches, key=lambda tasks: tasks[0][0].adapters):
        handed: list[list[Task]] = []
        for tasks in group:
            if handed and sum(map(len, handed)) + len(tasks) > HANDED:
                yield handed
                handed = []
            handed.append(tasks)
        yield handed


def _keys(
    params: Params,
    batches: Sequence[Sequence[Task]],
    asked: Asked,
    whose: Mapping[Policy, Collection[str]],
) -> dict[Policy, str]:
    """The store's name of each policy's worth: what made it, and nothing else."""
    common = key(
        "worth", VERSION, digest(BASE), _judges(params), asked.prompts, asked.samples, asked.limit,
        told(Policy(), asked, {}), templates.PLAIN,
    )  # fmt: skip
    policies = [policy for tasks in batches for policy, _, _ in tasks]
    folders = {folder for policy in policies for folder, _ in policy.adapters}
    adapters = {folder: digest(Path(folder)) for folder in folders}
    names = {}
    for tasks in batches:
        made_of = [
            [
                [(adapters[folder], share) for folder, share in policy.adapters],
                edit.digest if edit else None, messages, asked.names(policy),
            ]
            for policy, edit, messages in tasks
        ]  # fmt: skip
        beside = [key(*made_of)] if len(tasks) > 1 else []
        for (policy, _, _), own in zip(tasks, made_of, strict=True):
            users = whose.get(policy, SEVERAL if policy.personal else ())
            names[policy] = of(key(common, *own, *beside), *users)
    return names


def _judges(params: Params) -> list[Any]:
    """The traits in order, each with its parameters, its files and its code."""
    return [
        (name, trait.makes, traits.code(trait), *filter(None, [traits.files(name, trait)]))
        for name, trait in params.trained.items()
    ]
