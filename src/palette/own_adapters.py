"""Adapters of one user's own, for a few users: what a team with no portfolio would train.

`per_user` is trained as the members are, at the user's estimated weights. `sft` and `dpo` see what
the edits see, the user's self-generated pairs; how much of them is merged is chosen on select
prompts from as many trials as an edit gets.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl

from palette import policies, tables, tastes
from palette.core import tuning
from palette.fanout import fan_out
from palette.lm import templates
from palette.lm.models import BASE, cached_base, digest
from palette.measuring import Policy
from palette.params import Params, Tuning
from palette.store import Store, key, of
from palette.trials import worth

FOLDER = Path(".palette/baselines")
METHODS = ("sft", "dpo")
SHRUNK = 0.85
"""An edit's trials are of strengths on sets of layers. An adapter has no such sets: its trials
beside the strengths are these again, times this factor once more for each further set."""

Item = tuple[str, str]
"""method, user"""


def few(params: Params) -> list[str]:
    """Some users with history, evenly from all of them."""
    users = tables.read("users").filter(pl.col("rows") > 0)["user_id"].to_list()
    step = max(1, len(users) // max(1, params.baselines.per_user))
    return users[::step][: params.baselines.per_user]


def wanted(params: Params, users: Sequence[str]) -> dict[str, dict[str, float]]:
    """User → trait → weight, in hundredths, of an adapter trained as the members are."""
    weights = tastes.estimated(params.trait_names)
    percents = {user: tastes.round_to_sum(np.array(weights[user]) * 100, 100) for user in users}
    return {
        user: dict(zip(params.trait_names, (own / 100).tolist(), strict=True))
        for user, own in percents.items()
    }


def preferred(params: Params, users: Sequence[str]) -> dict[str, dict[str, Policy]]:
    """`sft` and `dpo`: user → the base with so much of the user's adapter as helps on select.

    A user without pairs, or whom no trial helps, has the base.
    """
    pairs = read_pairs(users)
    trained = train(params, pairs)
    tried = {
        item: [Policy(), *(Policy(((folder, share),)) for share in shares(params.tuning))]
        for item, folder in trained.items()
    }
    whose = {policy: [user] for (_, user), trials in tried.items() for policy in trials[1:]}
    values = policies.worth(
        params, [policy for trials in tried.values() for policy in trials],
        tables.read("prompts").filter(pl.col("split") == "select"), {}, "tuning users' own adapters",
        params.tuning.samples, key=("tuning", params.tuning.seed), whose=whose,
    )  # fmt: skip
    weights = tastes.estimated(params.trait_names)
    found = {
        (method, user): trials[choose(params, trials, values, weights[user])]
        for (method, user), trials in tried.items()
    }
    return {
        method: {user: found.get((method, user), Policy()) for user in users} for method in METHODS
    }


def read_pairs(users: Sequence[str]) -> dict[str, list[tuple[str, str, str]]]:
    """User → prompt, personal and neutral answer of each pair; without users who have none."""
    rows = tables.read("pairs").filter(pl.col("user_id").is_in(users)).sort("user_id", "pair")
    return {
        user: own.select("prompt", "personal", "neutral").rows()
        for (user,), own in rows.group_by("user_id", maintain_order=True)
    }


def train(params: Params, pairs: Mapping[str, list[tuple[str, str, str]]]) -> dict[Item, str]:
    """(method, user) → the directory of an adapter: from the store, or trained now and stored."""
    store, base = Store(params.runtime.store), digest(BASE)
    keys = {
        (method, user): of(adapter_key(params, method, own, base), user)
        for method, (user, own) in product(METHODS, pairs.items())
    }
    missing = [item for item in keys if not store.has(keys[item])]
    work = partial(_train_one, params=params, pairs=pairs)
    for item, files in fan_out(work, missing, params.runtime, "training on users' own pairs"):
        store.save(keys[item], files)
    folders = {}
    for (method, user), found in keys.items():
        folder = FOLDER / f"{method}-{found.rpartition('/')[2][:12]}"  # a user's name is no path
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in store.get(found).items():
            (folder / name).write_bytes(content)
        folders[method, user] = str(folder)
    return folders


def adapter_key(
    params: Params, method: str, pairs: Sequence[tuple[str, str, str]], base: str
) -> str:
    """The store's name of an adapter: what made it, and nothing else."""
    used = ("rank", "learning_rate", "seed")
    settings = {name: getattr(params.adapters, name) for name in used}
    settings |= {"steps": params.baselines.steps}
    if method == "dpo":
        settings |= {"beta": params.objective.beta}
    read: Sequence[tuple[str, ...]] = pairs
    if method != "dpo":  # supervised training never reads what it is not to say
        read = [pair[:2] for pair in pairs]
    return key("own pairs", method, base, templates.question("p"), read, settings)


def shares(settings: Tuning) -> list[float]:
    """How much of an adapter is merged in each trial: as many values as an edit has trials."""
    times = range(len(settings.layers))
    return sorted(strength * SHRUNK**n for n, strength in product(times, settings.strengths))


def choose(
    params: Params, trials: Sequence[Policy], values: pl.DataFrame, weights: Sequence[float]
) -> int:
    """The trial of one user's to keep, the identity first; by J at the user's estimated weights."""
    frames = [values.filter(policy=trial.name).sort("prompt_id") for trial in trials]
    objective = np.array([worth(params, frame, np.array(weights)) for frame in frames])
    return tuning.choose(objective, np.array([frame["broken"].mean() for frame in frames]))


def _train_one(
    item: Item, params: Params, pairs: Mapping[str, list[tuple[str, str, str]]]
) -> tuple[Item, dict[str, bytes]]:
    from palette.lm import preference_training

    method, user = item
    files = preference_training.train(
        cached_base(params.runtime.device), pairs[user], method, params.adapters,
        params.baselines.steps, params.objective.beta,
    )  # fmt: skip
    return item, files
