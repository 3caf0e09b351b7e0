"""Stage `insights`: what the base makes of each user's history (CHAMELEON's self-generated data).

    python -m palette.insights

For every user with history: a personal and a neutral insight, pairs of answers under them, and the
base's own answers to the history's prompts, to contrast with what the user wrote or chose. A
finished user is in the store: adding one user generates that user alone, and a run that was killed
goes on where it stopped. Nothing of one user enters another's prompt.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from palette import stage, tables
from palette.core.selection import select_history
from palette.fanout import fan_out
from palette.lm import templates
from palette.lm.activations import embed
from palette.lm.generation import generate, row_uniforms
from palette.lm.models import LanguageModel, cached_base, load_base
from palette.params import Insights, Params
from palette.store import Store, key

USERS_AT_ONCE = 24
RESULT = "result.json"
LIKED = 0.5
"""A row rated below this was disliked; no insight is read from it."""

Rows = dict[str, list[dict[str, Any]]]
"""table → rows"""


@dataclass(frozen=True)
class User:
    """One user's history, and the prompts that this user's pairs are made on."""

    user_id: str
    rows: list[tuple[int, str, str, float | None]]
    """(row, prompt, response, rating)"""
    asked: list[str]


def main(params: Params) -> None:
    users = list(read_users(params))
    results = generate_missing(users, params)
    for table in ("insights", "pairs", "contrasts"):
        rows = [row for result in results for row in result[table]]
        tables.write(table, pl.DataFrame(rows, schema=tables.empty(table).schema))


def read_users(params: Params) -> Iterator[User]:
    """Users with history, each with a few train prompts drawn by the user's name alone."""
    train = tables.read("prompts").filter(pl.col("split") == "train")
    questions = train.sort("prompt_id")["prompt"]
    histories = tables.read("histories").sort("user_id", "row")
    for (user,), rows in histories.group_by("user_id", maintain_order=True):
        rng = np.random.default_rng(_seed("prompts", params.insights.seed, user))
        count = min(params.insights.pairs, len(questions))
        drawn = np.sort(rng.choice(len(questions), count, replace=False))
        content = rows.select("row", "prompt", "response", "rating").rows()
        yield User(user, content, questions.gather(drawn).to_list())


def generate_missing(users: Sequence[User], params: Params) -> list[Rows]:
    """The result of every user: from the store, or generated now and stored at once."""
    store, limit = Store(params.runtime.store), params.rollouts.max_new_tokens
    base, settings = load_base("cpu").digest, params.insights
    keys = {user.user_id: user_key(user, base, settings, limit) for user in users}
    missing = [user for user in users if not store.has(keys[user.user_id])]
    starts = range(0, len(missing), USERS_AT_ONCE)
    chunks = [missing[start : start + USERS_AT_ONCE] for start in starts]
    work = partial(_portray, device=params.runtime.device, settings=settings, limit=limit)
    for results in fan_out(work, chunks, params.runtime, "insights, in groups of users"):
        for user, result in results.items():
            store.save(keys[user], {RESULT: json.dumps(result).encode()})
    return [json.loads(store.load(keys[user.user_id])[RESULT]) for user in users]


def user_key(user: User, base: str, settings: Insights, limit: int) -> str:
    """The store's name of a user's result: what made it, and nothing else."""
    wording = [
        templates.personal_insight([("p", "r")]), templates.neutral_insight([("p", "r")]),
        templates.personal_answer("p", "i"), templates.neutral_answer("p", "i"),
        templates.question("p"),
    ]  # fmt: skip
    made_of = [user.user_id, user.rows, user.asked]
    return key("insights", base, made_of, settings.model_dump(), limit, wording)


def portray(
    lm: LanguageModel, users: Sequence[User], settings: Insights, limit: int
) -> dict[str, Rows]:
    """Generate for some users at once, batched over all of them.

    Args:
        limit: most tokens of an insight and of an answer.

    Returns:
        user → rows of the tables insights, pairs and contrasts.
    """
    items = {user.user_id: select_items(lm, user, settings.items, limit) for user in users}
    told = [user for user in users if items[user.user_id]]
    insights = _insights(lm, told, items, limit)
    pairs = _pairs(lm, told, insights, settings, limit)
    contrasts = _contrasts(lm, users, settings, limit)
    results: dict[str, Rows] = {}
    for user in users:
        name = user.user_id
        results[name] = {"insights": [], "pairs": pairs.get(name, []), "contrasts": contrasts[name]}
        for kind, text in insights.get(name, {}).items():
            row = {"user_id": name, "kind": kind, "insight": text, "items": items[name]}
            results[name]["insights"].append(row)
    return results


def select_items(lm: LanguageModel, user: User, keep: int, limit: int) -> list[int]:
    """The history rows to show: liked, telling, and no more than the model's context holds."""
    liked = [row for row in user.rows if row[3] is None or row[3] >= LIKED]
    if not liked:
        return []
    # One user at a time: what is selected must not hang on who else is in the batch.
    vectors = embed(lm, [f"{prompt}\n{response}" for _, prompt, response, _ in liked]).numpy()
    chosen = [liked[place][0] for place in select_history(vectors, keep)]
    room = (lm.context or np.inf) - limit
    while len(chosen) > 1:
        if len(_encode(lm, templates.neutral_insight(_quoted(user, chosen)))) <= room:
            break
        chosen = chosen[1:]
    return chosen


def _insights(
    lm: LanguageModel, users: Sequence[User], items: dict[str, list[int]], limit: int
) -> dict[str, dict[str, str]]:
    """user → kind → insight, greedily."""
    histories = [_quoted(user, items[user.user_id]) for user in users]
    prompts = [_fitting(lm, templates.personal_insight(history), limit) for history in histories]
    prompts += [_fitting(lm, templates.neutral_insight(history), limit) for history in histories]
    texts = generate(lm, prompts, limit).texts if prompts else []
    both = zip(users, texts[: len(users)], texts[len(users) :], strict=True)
    return {user.user_id: {"personal": p, "neutral": n} for user, p, n in both}


def _pairs(
    lm: LanguageModel,
    users: Sequence[User],
    insights: dict[str, dict[str, str]],
    settings: Insights,
    limit: int,
) -> dict[str, list[dict[str, Any]]]:
    """user → pairs of a personal and a neutral answer, without identical ones."""
    wording = {"personal": templates.personal_answer, "neutral": templates.neutral_answer}
    requests = []
    for user in users:
        for kind, ask in wording.items():
            insight = insights[user.user_id][kind]
            prompts = [_fitting(lm, ask(prompt, insight), limit) for prompt in user.asked]
            requests.append((prompts, ("pairs", settings.seed, user.user_id, kind)))
    answers = iter(_sample(lm, requests, limit))
    pairs = {}
    for user in users:
        both = zip(user.asked, next(answers), next(answers), strict=True)
        pairs[user.user_id] = [
            {"user_id": user.user_id, "pair": pair, "prompt": prompt, "personal": p, "neutral": n}
            for pair, (prompt, p, n) in enumerate(both)
            if p != n
        ]
    return pairs


def _contrasts(
    lm: LanguageModel, users: Sequence[User], settings: Insights, limit: int
) -> dict[str, list[dict[str, Any]]]:
    """user → the base's own answers to each prompt of the history."""
    requests = []
    for user in users:
        asked = [_fitting(lm, templates.question(prompt), limit) for _, prompt, _, _ in user.rows]
        repeated = [ids for ids in asked for _ in range(settings.contrasts)]
        requests.append((repeated, ("contrasts", settings.seed, user.user_id)))
    contrasts = {}
    for user, texts in zip(users, _sample(lm, requests, limit), strict=True):
        contrasts[user.user_id] = [
            {"user_id": user.user_id, "row": user.rows[place // settings.contrasts][0],
             "sample": place % settings.contrasts, "response": text}
            for place, text in enumerate(texts)
        ]  # fmt: skip
    return contrasts


def _sample(
    lm: LanguageModel, requests: Sequence[tuple[list[list[int]], tuple]], limit: int
) -> Iterator[list[str]]:
    """Yield the answers of each request (prompts, key of its random numbers), all in one batch."""
    prompts = [ids for asked, _ in requests for ids in asked]
    if not prompts:
        return
    uniforms = np.concatenate([row_uniforms(len(asked), limit, *name) for asked, name in requests])
    texts = iter(generate(lm, prompts, limit, uniforms).texts)
    for asked, _ in requests:
        yield [next(texts) for _ in asked]


def _portray(users: Sequence[User], device: str, settings: Insights, limit: int) -> dict[str, Rows]:
    return portray(cached_base(device), users, settings, limit)


def _quoted(user: User, chosen: Sequence[int]) -> list[tuple[str, str]]:
    texts = {row: (prompt, response) for row, prompt, response, _ in user.rows}
    return [texts[row] for row in chosen]


def _encode(lm: LanguageModel, messages: templates.Messages) -> list[int]:
    return templates.encode(lm.tokenizer, messages)


def _fitting(lm: LanguageModel, messages: templates.Messages, limit: int) -> list[int]:
    """Token ids; where the context cannot hold them, their middle is left out."""
    ids, room = _encode(lm, messages), lm.context
    if room is None or len(ids) <= room - limit:
        return ids
    head = (room - limit) // 2
    return ids[:head] + ids[len(ids) - (room - limit - head) :]


def _seed(*parts: int | str) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big")


if __name__ == "__main__":
    stage.run(main)
