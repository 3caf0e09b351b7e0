"""Stage `baselines`: what a team would do instead, whatever the portfolio; on the test prompts.

    python -m palette.baselines

Words in the prompt, edits and their controls, the family itself at every user's weights, the soup of one
adapter per trait, and for a few users adapters of their own.
"""

from collections.abc import Mapping

import numpy as np
import polars as pl

from palette import edits as books
from palette import (
    family,
    members,
    own_adapters,
    policies,
    shared,
    shown,
    stage,
    tables,
    tastes,
    tuning,
)
from palette.core.editing import Edit
from palette.core.region import Region
from palette.lm import templates
from palette.lm.activations import embed
from palette.lm.generation import row_uniforms
from palette.lm.models import LanguageModel, cached_base
from palette.measuring import Policy, Quotes
from palette.own_adapters import FOLDER
from palette.params import Params

TENTHS = 10
"""The family and the soup are taken at each user's weights in tenths, so that users can share one."""


def main(params: Params) -> None:
    known = tables.read("prompts")
    prompts = known.filter(pl.col("split") == "test")
    users = tables.read("users")["user_id"].to_list()
    quotes = nearest(params, prompts, known.filter(pl.col("split") == "train"))
    edits, edited = editing(params, users)
    chosen = {
        "prompt": prompting(users),
        "retrieval": retrieving(users, quotes),
        **edited,
        **unrouted(params, users),
        **trained(params, users),
    }
    values = shared.worth(params, chosen, prompts, edits, "baselines", quotes)
    table = pl.concat(
        policies.assign(of_user, values, method) for method, of_user in chosen.items()
    )
    tables.write("baselines", table)
    tables.write("baseline_answers", shown.answers(table))


def prompting(users: list[str]) -> dict[str, Policy]:
    """User → the base with the user's personal insight in the prompt; without one, the base."""
    rows = tables.read("insights").filter(pl.col("kind") == "personal")
    insights = dict(rows.select("user_id", "insight").rows())
    return {user: Policy(insight=insights.get(user, "")) for user in users}


def retrieving(users: list[str], quotes: Quotes) -> dict[str, Policy]:
    """User → the base with a row of the user's history before the question; without any, the base."""
    return {user: Policy(quoting=user if user in quotes else "") for user in users}


def nearest(
    params: Params, prompts: pl.DataFrame, shared_by_all: pl.DataFrame
) -> dict[str, dict[str, tuple[str, str]]]:
    """User → prompt_id → the liked row of the user's history whose question is most alike.

    Alike is the cosine between the base's embeddings of the two questions, less what questions have
    in common; of equal ones the earlier row. Rows that the model's context has no room for are left
    out, and so are users who have no row.

    Args:
        shared_by_all: prompts whose mean embedding is what questions have in common: no user's own.
    """
    base = cached_base(params.runtime.device)
    mean = embed(base, shared_by_all["prompt"].to_list()).double().mean(0).numpy()

    def vectors(texts: list[str]) -> np.ndarray:
        """(texts, hidden) of length one"""
        centred = embed(base, texts).double().numpy() - mean
        return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)

    names, texts = prompts["prompt_id"].to_list(), prompts["prompt"].to_list()
    asked, longest = vectors(texts), of_most_tokens(base, texts)
    rows = tables.read("histories").sort("user_id", "row")
    rows = rows.filter(pl.col("rating").is_null() | (pl.col("rating") >= tastes.LIKED))
    found = {}
    # One user at a time: what is quoted must not hang on who else is in the batch.
    for (user,), own in rows.group_by("user_id", maintain_order=True):
        fit = fitting(params, own.select("prompt", "response").rows(), longest)
        first = {question: (question, answer) for question, answer in reversed(fit)}
        if first:
            best = (asked @ vectors(list(first)).T).argmax(axis=1)
            known = list(first.values())
            found[user] = {name: known[row] for name, row in zip(names, best, strict=True)}
    return found


def fitting(params: Params, rows: list[tuple[str, str]], longest: str) -> list[tuple[str, str]]:
    """The rows that can be quoted before the longest question, with room left for the answer."""
    base = cached_base(params.runtime.device)
    if base.context is None:
        return rows
    room = base.context - params.rollouts.max_new_tokens
    return [
        row for row in rows
        if len(templates.encode(base.tokenizer, templates.quoting(longest, row))) <= room
    ]  # fmt: skip


def of_most_tokens(base: LanguageModel, texts: list[str]) -> str:
    """The question of the most tokens, where it stands behind a quoted row."""
    return max(
        texts,
        key=lambda text: len(templates.encode(base.tokenizer, templates.quoting(text, ("", "")))),
    )


def editing(
    params: Params, users: list[str]
) -> tuple[dict[str, Edit], dict[str, dict[str, Policy]]]:
    """The edits by name; and per method, user → the base under an edit.

    The edit and its controls are as strong, on such layers, as was tuned for each user's cluster.
    `chameleon` is the published rule, one for all, of strength 1 on its own layers.
    """
    book, choices = books.read(params), tuning.chosen()
    edits: dict[str, Edit] = {}
    chosen = {
        method: {user: tuning.policy(book, user, method, choices, edits) for user in users}
        for method in tuning.TUNED
    }
    groups = {user: book.group(user) for user in users}
    chosen["edit_other"] = someone_else(chosen["edit"], groups, params.baselines.seed)
    if users:
        edits["chameleon"] = book.edit(users[0], "chameleon")
    chosen["chameleon"] = dict.fromkeys(users, Policy(edit="chameleon"))
    return edits, chosen


def someone_else(
    edited: Mapping[str, Policy], groups: Mapping[str, str], seed: int
) -> dict[str, Policy]:
    """User → the tuned edit of a user of another group: the control of `edit`.

    Of all the others the one with the largest random number of this user's name and theirs: a user
    who comes is drawn by some, and leaves the rest as they were (rendezvous hashing). Where all are
    of one group, everyone's own edit is all there is.
    """
    chosen = {}
    for user, own in edited.items():
        others = [other for other in sorted(edited) if groups[other] != groups[user]]
        draws = [row_uniforms(1, 1, "someone else", seed, user, other)[0, 0] for other in others]
        chosen[user] = edited[others[int(np.argmax(draws))]] if others else own
    return chosen


def unrouted(params: Params, users: list[str]) -> dict[str, dict[str, Policy]]:
    """`family`, where there is one: user → its point at the user's estimated weights."""
    if params.adapters.kind != "family":
        return {}
    weights = tastes.estimated(params.trait_names)
    tenths = {user: tuple(map(int, in_tenths(weights[user]))) for user in users}
    distinct = sorted(set(tenths.values()))
    made = family.points(params, np.array(distinct).reshape(-1, len(params.trait_names)) / TENTHS)
    called = {own: f"family-{'-'.join(map(str, own))}" for own in distinct}
    folders = written(dict(zip(called.values(), made, strict=True)))
    return {"family": {user: Policy(((folders[called[tenths[user]]], 1.0),)) for user in users}}


def trained(params: Params, users: list[str]) -> dict[str, dict[str, Policy]]:
    """The soup of one adapter per trait, for all users, and for a few users adapters of their own."""
    names, corners = params.trait_names, Region(tuple(params.floor)).vertices()
    few = own_adapters.few(params)
    called = {user: f"user-{number}" for number, user in enumerate(few)}  # a user's name is no path
    wanted = {called[user]: own for user, own in own_adapters.wanted(params, few).items()}
    made: dict[str, Mapping[str, bytes]] = {}
    if params.adapters.kind == "family":
        made |= zip(names, family.points(params, corners), strict=True)
    else:
        wanted |= {
            name: dict(zip(names, own, strict=True))
            for name, own in zip(names, corners.tolist(), strict=True)
        }
    settings = params.adapters.model_copy(
        update={"steps": params.baselines.training, "rloo_steps": 0}
    )
    whose = {name: user for user, name in called.items()}
    made |= members.train(params, wanted, "training baselines' adapters", settings, whose)
    folders = written(made)
    return {
        "soup": soups(params, users, folders),
        "per_user": {user: Policy(((folders[called[user]], 1.0),)) for user in few},
        **own_adapters.preferred(params, few),
    }


def written(made: Mapping[str, Mapping[str, bytes]]) -> dict[str, str]:
    """The folders of adapters, by name, now that their files lie there."""
    for name, files in made.items():
        members.write(files, FOLDER / name)
    return {name: str(FOLDER / name) for name in made}


def soups(params: Params, users: list[str], folders: Mapping[str, str]) -> dict[str, Policy]:
    """User → the interpolation of the adapters at the corners of W that gives the user's weights."""
    weights, region = tastes.estimated(params.trait_names), Region(tuple(params.floor))
    shares = {user: region.shares(np.array(weights[user])).tolist() for user in users}
    return {user: soup(params.trait_names, own, folders) for user, own in shares.items()}


def soup(names: list[str], shares: list[float], folders: Mapping[str, str]) -> Policy:
    """The interpolation of one adapter per trait."""
    parts = zip(names, in_tenths(shares), strict=True)
    return Policy(tuple((folders[name], n / TENTHS) for name, n in parts if n > 0))


def in_tenths(weights: list[float]) -> np.ndarray:
    return tastes.round_to_sum(np.array(weights) * TENTHS, TENTHS)


if __name__ == "__main__":
    stage.run(main)
