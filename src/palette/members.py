"""Training of what is not in the store yet: members' adapters, or the family that members are points of."""

import io
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from palette import tables, traits
from palette.fanout import fan_out, lent
from palette.lm import templates
from palette.lm.models import BASE, cached_base, load_shape
from palette.lm.models import digest as digest_of
from palette.params import Adapters, Params
from palette.passes import Pass, Reckoned, announce, foretell, is_long, reckon, split
from palette.progress import progress
from palette.store import Store, key, of
from palette.training_data import Rollouts, adapter_key, family_key, read_rollouts

LOG = "training.parquet"


def train(
    params: Params, wanted: Mapping[str, Mapping[str, float]], words: str,
    settings: Adapters | None = None, users: Mapping[str, str] | None = None,
) -> dict[str, dict[str, bytes]]:  # fmt: skip
    """The files of every wanted adapter: from the store, or trained now and stored at once.

    Those that are missing are split over the workers, and each worker trains its own in one pass.

    Args:
        wanted: adapter → trait → weight; all adapters of one name are one adapter.
        settings: of the training; those of params unless given.
        users: adapter → the user whose own it is; the others are nobody's.
    """
    settings, users = settings or params.adapters, users or {}
    store, rollouts = Store(params.runtime.store), read_rollouts(params)
    base = digest_of(BASE)
    keys = {
        name: of(adapter_key(params, rollouts, weights, base, settings), *_named(users.get(name)))
        for name, weights in wanted.items()
    }
    missing = [name for name in wanted if not store.has(keys[name])]
    vectors = {name: [wanted[name][trait] for trait in params.trait_names] for name in missing}
    # Split before what is finished is left out, so that an interrupted pass is met again.
    passes = [
        Pass([name for name in part if name in vectors], [keys[name] for name in part])
        for part in split(list(wanted), params.runtime.workers)
        if any(name in vectors for name in part)
    ]
    common: dict[str, Any] = {
        "params": params, "rollouts": rollouts, "weights": vectors, "settings": settings
    }  # fmt: skip
    if passes:
        announce(settings, passes, words, _reckoned(params, rollouts, settings, len(missing)))
    if is_long(settings):
        rehearsal = fan_out(partial(_rehearse, **common), passes, params.runtime, "rehearsing")
        foretell(list(rehearsal), params.runtime.workers)
    work = partial(_train_some, **common)
    for some, trained in zip(passes, fan_out(work, passes, params.runtime, words), strict=True):
        for name, files in trained.items():
            store.save(keys[name], files)
        _checkpoint(params, some.keys).clear()
    return {name: store.get(found) for name, found in keys.items()}


def _named(user: str | None) -> list[str]:
    return [] if user is None else [user]


def train_family(params: Params) -> dict[str, bytes]:
    """The files of the family: from the store, or trained now and stored."""
    store, rollouts = Store(params.runtime.store), read_rollouts(params)
    name = family_key(params, rollouts, digest_of(BASE))
    if not store.has(name):
        from palette.lm.rehearsal import rehearse
        from palette.lm.training import train_family as train_for_all

        settings, words = params.adapters, "training the family"
        family = [Pass(["the family"], [name])]
        announce(settings, family, words, _reckoned(params, rollouts, settings))
        checkpoint = _checkpoint(params, [name])
        with lent(params.runtime):
            base, task = cached_base(params.runtime.device), _task(params, rollouts)
            share = None
            if is_long(settings):
                forecast = rehearse(base, task, None, settings)
                foretell([forecast], workers=1)
                share = forecast.share
            with progress(words, settings.steps + settings.rloo_steps, share) as advance:
                files, log = train_for_all(base, task, settings, advance, checkpoint)
        store.save(name, files | {LOG: _table(log)})
        checkpoint.clear()
    return store.get(name)


def _reckoned(params: Params, rollouts: Rollouts, settings: Adapters, trained: int = 1) -> Reckoned:
    """What so many members, or a family, will pass through the base."""
    tokenizer = load_shape().tokenizer
    asked = [templates.encode(tokenizer, templates.question(text)) for text in rollouts.questions]
    question, answer = sum(map(len, asked)) / len(asked), params.rollouts.max_new_tokens
    return reckon(settings, question, answer, len(params.trained), trained)


def _checkpoint(params: Params, keys: Sequence[str]) -> Any:
    from palette.lm.checkpoints import Checkpoint

    return Checkpoint(Store(params.runtime.store), key("pass", sorted(keys)))


def _task(params: Params, rollouts: Rollouts) -> Any:
    from palette.lm.training import Task

    tokenizer = cached_base(params.runtime.device).tokenizer
    return Task(
        prompts=[templates.encode(tokenizer, templates.question(q)) for q in rollouts.questions],
        questions=rollouts.questions,
        answers=rollouts.answers,
        rewards=rollouts.rewards,
        reward=partial(traits.score, params.trained, device=params.runtime.device),
        beta=params.objective.beta,
        max_new_tokens=params.rollouts.max_new_tokens,
        floor=np.array(params.floor),
    )


def _rehearse(
    some: Pass, params: Params, rollouts: Rollouts, weights: Mapping[str, list[float]],
    settings: Adapters,
) -> Any:  # fmt: skip
    from palette.lm.rehearsal import rehearse

    vectors = np.array([weights[name] for name in some.names])
    base = cached_base(params.runtime.device)
    return rehearse(base, _task(params, rollouts), vectors, settings)


def _train_some(
    some: Pass, params: Params, rollouts: Rollouts, weights: Mapping[str, list[float]],
    settings: Adapters,
) -> dict[str, dict[str, bytes]]:  # fmt: skip
    from palette.lm.training import train_members

    vectors = np.array([weights[name] for name in some.names])
    made = train_members(
        cached_base(params.runtime.device), _task(params, rollouts), vectors, settings,
        checkpoint=_checkpoint(params, some.keys),
    )  # fmt: skip
    return {
        name: files | {LOG: _table(log)}
        for name, (files, log) in zip(some.names, made, strict=True)
    }


def _table(log: list[tuple[str, int, float]]) -> bytes:
    rows = pl.DataFrame(
        log, schema={"phase": pl.String, "step": pl.Int64, "loss": pl.Float64}, orient="row"
    )
    content = io.BytesIO()
    rows.write_parquet(content)
    return content.getvalue()


def write(files: Mapping[str, bytes], folder: Path) -> pl.DataFrame:
    """Write an adapter as an ordinary PEFT directory; hands back its training log, if it has one."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if name != LOG:
            (folder / name).write_bytes(content)
    return (
        pl.read_parquet(io.BytesIO(files[LOG])) if LOG in files else tables.empty("family_training")
    )
