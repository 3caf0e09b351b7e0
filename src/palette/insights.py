"""Stage `insights`: what the base makes of each user's history (CHAMELEON's self-generated data).

    python -m palette.insights

For every user with history: a personal and a neutral insight, pairs of answers under them, and the
base's own answers to the history's prompts, to contrast with what the user wrote or chose. A
finished user is in the store: adding one user generates that user alone, and a run that was killed
goes on where it stopped. Nothing of one user enters another's prompt.
"""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from palette import embedding, pairs, stage, tables, tastes
from palette.asking import Request, fitting, sample
from palette.core.selection import select_history
from palette.embedding import Embedder
from palette.fanout import fan_out
from palette.lm import templates
from palette.lm.generation import generate
from palette.lm.models import BASE, LanguageModel, cached_base, digest
from palette.params import Insights, Params, Runtime
from palette.store import Store, key, of

USERS_AT_ONCE = 24
RESULT = "result.json"
TABLES = ("insights", "pairs", "dropped", "contrasts")

Rows = dict[str, list[dict[str, Any]]]
"""table → rows"""


@dataclass(frozen=True)
class User:
    """One user's history, and the prompts that this user's pairs are tried on."""

    user_id: str
    rows: list[tuple[int, str, str, float | None]]
    """(row, prompt, response, rating)"""
    asked: list[str]


def main(params: Params) -> None:
    users = list(read_users(params))
    results = generate_missing(users, params)
    for table in TABLES:
        rows = [row for result in results for row in result[table]]
        tables.write(table, pl.DataFrame(rows, schema=tables.empty(table).schema))
    print(outcome(users, results), file=sys.stderr, flush=True)


def outcome(users: Sequence[User], results: Sequence[Rows]) -> str:
    """A line on the pairs that were tried, dropped by reason, and kept."""
    told = {row["user_id"] for result in results for row in result["insights"]}
    tried = sum(len(user.asked) for user in users if user.user_id in told)
    counted = Counter(row["reason"] for result in results for row in result["dropped"])
    dropped = ", ".join(f"{counted[reason]} {reason}" for reason in pairs.REASONS)
    kept = sum(len(result["pairs"]) for result in results)
    return f"insights: {tried} pairs tried, dropped {dropped}; the {kept} most telling kept"


def read_users(params: Params) -> Iterator[User]:
    """Users with history, each with a few train prompts drawn by the user's name alone.

    With insights.users no more than so many, by the hashes of their names: a user who comes or goes
    moves at most one other.
    """
    train = tables.read("prompts").filter(pl.col("split") == "train")
    questions = train.sort("prompt_id")["prompt"].unique(maintain_order=True)
    histories = (
        tables.read_users("histories", drawn_users(params.insights.users))
        if params.insights.users
        else tables.read("histories")
    ).sort("user_id", "row")
    for (user,), rows in histories.group_by("user_id", maintain_order=True):
        rng = np.random.default_rng(_seed("prompts", params.insights.seed, user))
        count = min(params.insights.candidates, len(questions))
        drawn = np.sort(rng.choice(len(questions), count, replace=False))
        content = rows.select("row", "prompt", "response", "rating").rows()
        yield User(user, content, questions.gather(drawn).to_list())


def drawn_users(most: int) -> pl.Series:
    """At most so many users with history, sorted."""
    users = pl.scan_parquet(tables.path("histories")).select("user_id").unique().collect()
    draw = [hashlib.sha256(f"asked about {user}".encode()).digest() for user in users["user_id"]]
    drawn = users.with_columns(draw=pl.Series(draw, dtype=pl.Binary)).sort("draw").head(most)
    return drawn["user_id"].sort()


def generate_missing(users: Sequence[User], params: Params) -> list[Rows]:
    """The result of every user: from the store, or generated now and stored at once."""
    store, limit = Store(params.runtime.store), params.rollouts.max_new_tokens
    base, settings = digest(BASE), params.insights
    embedder = embedding.find(settings.embedder)
    keys = {user.user_id: user_key(user, base, embedder, settings, limit) for user in users}
    missing = [user for user in users if not store.has(keys[user.user_id])]
    starts = range(0, len(missing), USERS_AT_ONCE)
    chunks = [missing[start : start + USERS_AT_ONCE] for start in starts]
    work = partial(
        _portray, runtime=params.runtime, embedder=embedder, settings=settings, limit=limit
    )
    for results in fan_out(work, chunks, params.runtime, "insights, in groups of users"):
        for user, result in results.items():
            store.save(keys[user], {RESULT: json.dumps(result).encode()})
    return [json.loads(store.get(keys[user.user_id])[RESULT]) for user in users]


def user_key(user: User, base: str, embedder: Embedder, settings: Insights, limit: int) -> str:
    """The store's name of a user's result: what made it, and nothing else."""
    wording = [
        templates.personal_insight([("p", "r")]), templates.neutral_insight([("p", "r")]),
        templates.personal_answer("p", "i"), templates.neutral_answer("p", "i"),
        templates.question("p"),
    ]  # fmt: skip
    made_of = [user.user_id, user.rows, user.asked]
    # A directory is what it holds, wherever it lies.
    chosen = settings.model_dump(exclude={"embedder", "users"}) | {"embedder": embedder.digest}
    return of(key("insights", base, made_of, chosen, limit, wording), user.user_id)


def portray(
    lm: LanguageModel, users: Sequence[User], embedder: Embedder, settings: Insights, limit: int
) -> dict[str, Rows]:
    """Generate for some users at once, batched over all of them.

    Args:
        limit: most tokens of an insight and of an answer.

    Returns:
        user → rows of each of TABLES.
    """
    items = {
        user.user_id: select_items(lm, user, embedder, settings.items, limit) for user in users
    }
    told = [user for user in users if items[user.user_id]]
    insights = _insights(lm, told, items, limit)
    made = pairs.make(lm, {user.user_id: user.asked for user in told}, insights, settings, limit)
    contrasts = _contrasts(lm, users, settings, limit)
    nothing = pairs.Pairs([], [])
    return {
        name: {
            "insights": [
                {"user_id": name, "kind": kind, "insight": text, "items": items[name]}
                for kind, text in insights.get(name, {}).items()
            ],
            "pairs": made.get(name, nothing).kept,
            "dropped": made.get(name, nothing).dropped,
            "contrasts": contrasts[name],
        }
        for name in items
    }


def select_items(
    lm: LanguageModel, user: User, embedder: Embedder, keep: int, limit: int
) -> list[int]:
    """The history rows to show: liked, telling, and no more than the model's context holds."""
    liked = [row for row in user.rows if row[3] is None or row[3] >= tastes.LIKED]
    if not liked:
        return []
    # One user at a time: what is selected must not hang on who else is in the batch.
    texts = [f"{prompt}\n{response}" for _, prompt, response, _ in liked]
    vectors = embedding.embed(embedder, lm, texts)
    chosen = [liked[place][0] for place in select_history(vectors, keep)]
    room = (lm.context or np.inf) - limit
    while len(chosen) > 1:
        asked = templates.neutral_insight(_quoted(user, chosen))
        if len(templates.encode(lm.tokenizer, asked)) <= room:
            break
        chosen = chosen[1:]
    return chosen


def _insights(
    lm: LanguageModel, users: Sequence[User], items: dict[str, list[int]], limit: int
) -> dict[str, dict[str, str]]:
    """user → kind → insight, greedily."""
    histories = [_quoted(user, items[user.user_id]) for user in users]
    prompts = [fitting(lm, templates.personal_insight(history), limit) for history in histories]
    prompts += [fitting(lm, templates.neutral_insight(history), limit) for history in histories]
    texts = generate(lm, prompts, limit).texts if prompts else []
    both = zip(users, texts[: len(users)], texts[len(users) :], strict=True)
    return {user.user_id: {"personal": p, "neutral": n} for user, p, n in both}


def _contrasts(
    lm: LanguageModel, users: Sequence[User], settings: Insights, limit: int
) -> dict[str, list[dict[str, Any]]]:
    """user → the base's own answers to each prompt of the history."""
    requests = []
    for user in users:
        asked = [fitting(lm, templates.question(prompt), limit) for _, prompt, _, _ in user.rows]
        repeated = [ids for ids in asked for _ in range(settings.contrasts)]
        requests.append(Request(repeated, ("contrasts", settings.seed, user.user_id)))
    contrasts = {}
    for user, made in zip(users, sample(lm, requests, limit), strict=True):
        contrasts[user.user_id] = [
            {"user_id": user.user_id, "row": user.rows[place // settings.contrasts][0],
             "sample": place % settings.contrasts, "response": text}
            for place, text in enumerate(made.texts)
        ]  # fmt: skip
    return contrasts


def _portray(
    users: Sequence[User], runtime: Runtime, embedder: Embedder, settings: Insights, limit: int
) -> dict[str, Rows]:
    return portray(cached_base(runtime.device, runtime.backend), users, embedder, settings, limit)


def _quoted(user: User, chosen: Sequence[int]) -> list[tuple[str, str]]:
    texts = {row: (prompt, response) for row, prompt, response, _ in user.rows}
    return [texts[row] for row in chosen]


def _seed(*parts: int | str) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big")


if __name__ == "__main__":
    stage.run(main)
