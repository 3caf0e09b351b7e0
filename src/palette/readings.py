"""What the base makes of texts, layer by layer: the raw material of directions.

Every user is read alone and kept in the store: one more user reads that user, not the rest, and
nobody's reading hangs on who else is there. Rollouts are read prompt by prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import polars as pl
import torch
from torch import Tensor

from palette import tables, tastes
from palette.fanout import fan_out
from palette.lm import templates
from palette.lm.activations import embed, mlp_outputs
from palette.lm.gradients import score_gradients
from palette.lm.models import LanguageModel, cached_base, load_shape
from palette.params import Params
from palette.store import Store, key, of

USERS_AT_ONCE = 24
PUBLISHED = "published.personal", "published.neutral"
SIDES = "toward", "away"
INSIGHT = "insight"
RESULT = "activations.safetensors"

Reading = dict[str, Tensor]
"""side → (layers, texts, hidden) MLP outputs; INSIGHT → (hidden,) embedding; where there are any"""
Text = tuple[list[int], int]
"""token ids, and the first position of the mean over its end"""


@dataclass(frozen=True)
class Sources:
    """One user's texts, as token ids."""

    insight: str | None
    sides: dict[str, list[Text]]


@dataclass(frozen=True)
class Rollouts:
    """What the base makes of its own answers to the train prompts."""

    mean: Tensor
    """(layers, hidden) mean MLP output where an edit acts, over rollouts, then over prompts"""
    scores: Tensor
    """(rows, layers, hidden) gradients of log-probabilities; no rows unless the method asks"""
    rewards: Tensor
    """(rows, traits)"""
    prompt: Tensor
    """(rows,) number of each row's prompt"""


def read_users(params: Params) -> dict[str, Reading]:
    """Every user's reading: from the store, or made now and stored at once."""
    lm, store = load_shape(), Store(params.runtime.store)
    sources = _sources(lm, params.subspaces.method)
    keys = {
        user: of(key("activations", lm.digest, own.insight, own.sides), user)
        for user, own in sources.items()
    }
    missing = [user for user in sources if not store.has(keys[user])]
    starts = range(0, len(missing), USERS_AT_ONCE)
    chunks = [
        {user: sources[user] for user in missing[start : start + USERS_AT_ONCE]} for start in starts
    ]
    work = partial(_read_chunk, device=params.runtime.device)
    for found in fan_out(work, chunks, params.runtime, "activations, in groups of users"):
        for user, content in found.items():
            store.save(keys[user], {RESULT: content})
    return {user: _load(store, name) for user, name in keys.items()}


def read_rollouts(params: Params) -> Rollouts:
    """The first subspaces.samples rollouts of every train prompt, in the order of prompt_id."""
    settings = params.subspaces
    rows = (
        tables.read_rewards(params.trait_names)
        .filter(pl.col("sample") < settings.samples)
        .join(tables.read("prompts").filter(split="train"), on="prompt_id")
        .sort("prompt_id", "sample")
    )
    asked = [
        (own["prompt"][0], own["tokens"].to_list())
        for _, own in rows.group_by("prompt_id", maintain_order=True)
    ]
    gradients = settings.method == "gradient"
    work = partial(_read_prompt, device=params.runtime.device, gradients=gradients)
    means, scores = zip(*fan_out(work, asked, params.runtime, "rollouts, by prompt"), strict=True)
    names = [f"reward_{trait}" for trait in params.trait_names]
    return Rollouts(
        torch.stack(means).double().mean(0).float(),
        torch.cat(scores),
        torch.from_numpy(rows.select(names).to_numpy().copy()),
        torch.from_numpy(rows["prompt_id"].rank("dense").to_numpy().astype(int)),
    )


def _sources(lm: LanguageModel, method: str) -> dict[str, Sources]:
    """User → texts. What no method but another reads is left out."""
    pairs = tables.read("pairs").sort("user_id", "pair")
    insights = tables.read("insights").sort("user_id", "kind")
    told = {(user, kind): text for user, kind, text, _ in insights.iter_rows()}
    users: dict[str, Sources] = {
        user: Sources(told[user, kind], {}) for user, kind in told if kind == "personal"
    }

    def add(user: str, side: str, messages: templates.Messages, answer: str) -> None:
        own = users.setdefault(user, Sources(None, {}))
        first, ids = _written(lm, messages, answer)
        last = len(ids) - 1
        own.sides.setdefault(side, []).append((ids, last if side in PUBLISHED else first))

    for user, _, prompt, *answers in pairs.iter_rows():
        for side, answer in zip(PUBLISHED, answers, strict=True):
            add(user, side, templates.question(prompt), answer)
        if method.startswith("contrast") and (user, "personal") in told:
            wordings = (
                templates.personal_answer(prompt, told[user, "personal"]),
                templates.neutral_answer(prompt, told[user, "neutral"]),
            )
            for side, messages, answer in zip(SIDES, wordings, answers, strict=True):
                add(user, side, messages, answer)
    if method == "style-vector":
        for user, prompt, response, other in _liked().iter_rows():
            for side, answer in zip(SIDES, (response, other), strict=True):
                if answer is not None:
                    add(user, side, templates.question(prompt), answer)
    return users


def _liked() -> pl.DataFrame:
    """user_id, prompt, response, other: liked rows, then the base's own answers to their prompts.

    One of `response` and `other` is null in every row.
    """
    rows = tables.read("histories").filter(pl.col("rating").fill_null(1.0) >= tastes.LIKED)
    columns = "user_id", "row", "sample", "prompt", "response", "other"
    null = pl.lit(None, pl.String)
    own = rows.with_columns(sample=pl.lit(-1, pl.Int64), other=null).select(columns)
    others = tables.read("contrasts").rename({"response": "other"})
    base = rows.drop("response").join(others, on=["user_id", "row"]).with_columns(response=null)
    both = pl.concat([own, base.select(columns)]).sort("user_id", "row", "sample")
    return both.drop("row", "sample")


def _written(lm: LanguageModel, messages: templates.Messages, answer: str) -> tuple[int, list[int]]:
    """Last position of the prompt, and the token ids of prompt and answer.

    Where the context cannot hold them, an answer's end and a prompt's middle are left out. A control
    token spelt in an answer is read as the characters it is written with, as in a prompt.
    """
    asked = templates.encode(lm.tokenizer, messages)
    answered = lm.tokenizer(answer, add_special_tokens=False, split_special_tokens=True)[
        "input_ids"
    ]
    if lm.context is not None:
        answered = answered[: lm.context // 2]
        room = lm.context - len(answered)
        if len(asked) > room:
            asked = asked[: room // 2] + asked[len(asked) - (room - room // 2) :]
    return len(asked) - 1, asked + answered


def _read_chunk(chunk: Mapping[str, Sources], device: str) -> dict[str, bytes]:
    """User → reading, as the bytes of a safetensors file."""
    from safetensors.torch import save

    lm = cached_base(device)
    return {user: save(_read_user(lm, own)) for user, own in chunk.items()}


def _read_user(lm: LanguageModel, own: Sources) -> Reading:
    texts = [text for side in own.sides.values() for text in side]
    reading = {} if own.insight is None else {INSIGHT: embed(lm, [own.insight])[0]}
    if texts:
        states = mlp_outputs(lm, [ids for ids, _ in texts], [first for _, first in texts])
        sizes = [len(side) for side in own.sides.values()]
        parts = states.split(sizes, dim=1)
        reading |= {side: part.contiguous() for side, part in zip(own.sides, parts, strict=True)}
    return reading


def _load(store: Store, name: str) -> Reading:
    from safetensors.torch import load

    return load(store.get(name)[RESULT])


def _read_prompt(
    item: tuple[str, Sequence[Sequence[int]]], device: str, gradients: bool
) -> tuple[Tensor, Tensor]:
    """Of one prompt's rollouts: mean MLP output (layers, hidden), gradients (rows, layers, hidden)."""
    question, answers = item
    lm = cached_base(device)
    asked = templates.encode(lm.tokenizer, templates.question(question))
    states = mlp_outputs(lm, [asked + list(a) for a in answers], [len(asked) - 1] * len(answers))
    mean = states.mean(1)
    if not gradients:
        return mean, mean.new_zeros(0, *mean.shape)
    return mean, score_gradients(lm, [asked] * len(answers), answers)
