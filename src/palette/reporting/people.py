"""The users whom the page may show: what is read here of anybody else goes no further.

Of public users it shows the history, the insight, the estimated weights, the route, and what every
method answers them and is worth to them.
"""

from typing import Any

import polars as pl

from palette import shown, tables
from palette.params import Params
from palette.routes import estimates

ROWS = 8
"""History rows of one user that are shown."""
LETTERS = 500
"""Of one text: a history may hold whole documents."""
LARGEST = 2_000_000
"""Bytes that users may take of the page: who does not fit is left out."""

Person = dict[str, Any]


def read(params: Params) -> list[Person]:
    """The public users who were answered and fit into the page, sorted by name; texts are cut.

    Weights are in the order of the traits: (mean, low, high) each, and `judged` by what judges the
    methods. `worth` and `answers` are by method; answers are in the order of the test prompts.
    """
    from jinja2.utils import htmlsafe_json_dumps

    answers = pl.concat([tables.read("baseline_answers"), tables.read("answers")])
    order = pl.DataFrame({"user_id": shown.users(answers)}, schema={"user_id": pl.String})
    order = order.join(answers, on="user_id", how="semi", maintain_order="left")
    people = told(params, order, answers)
    found, size = [], 0
    for user in order["user_id"]:
        size += len(htmlsafe_json_dumps(people[user], ensure_ascii=False).encode())
        if size > LARGEST:
            break
        found.append(people[user])
    return sorted(found, key=lambda person: person["id"])


def told(params: Params, users: pl.DataFrame, answers: pl.DataFrame) -> dict[str, Person]:
    """User → what the page shows of them.

    Args:
        users: those who may be shown; of all other rows nothing is kept.
        answers: rows of the tables `baseline_answers` and `answers`.
    """

    def own(name: str) -> dict[str, pl.DataFrame]:
        return _by_user(tables.read(name).join(users, on="user_id", how="semi"))

    histories, insights, worth = own("histories"), own("insights"), own("evaluation")
    answered = _by_user(answers.join(users, on="user_id", how="semi").sort("prompt_id"))
    routes = {user: rows.row(0, named=True) for user, rows in own("routes").items()}
    names, ends = estimates(params.trait_names)
    weights = {
        name: list(zip(*rows, strict=True)) for name, *rows in zip(names, *ends, strict=True)
    }
    judging = [f"w_{name}" for name in params.trait_names]
    people = {}
    for user in users["user_id"]:
        judged = worth[user]
        people[user] = {
            "id": user,
            "group": judged["group"][0],
            "history": _history(histories.get(user)),
            "rows": len(histories.get(user, ())),
            "insight": _insight(insights.get(user)),
            "weights": [[round(float(end), 6) for end in row] for row in weights[user]],
            "judged": [round(w, 6) for w in judged.select(judging).row(0)],
            "route": _route(user, routes[user]),
            "base": round(judged["base"][0], 6),
            "ideal": round(judged["ideal"][0], 6),
            "worth": {
                method: round(objective, 6)
                for method, objective in judged.select("method", "objective").iter_rows()
            },
            "answers": {
                method: [cut(text) for text in rows["response"]]
                for (method,), rows in answered[user].group_by("method", maintain_order=True)
            },
        }
    return people


def cut(text: str) -> str:
    """A text of LETTERS at most."""
    text = text.strip()
    return text if len(text) <= LETTERS else text[: LETTERS - 1].rstrip() + "…"


def _by_user(frame: pl.DataFrame) -> dict[str, pl.DataFrame]:
    return {user: rows for (user,), rows in frame.group_by("user_id", maintain_order=True)}


def _history(rows: pl.DataFrame | None) -> list[tuple[str, str, float | None]]:
    """(prompt, response, rating) of the first rows."""
    if rows is None:
        return []
    first = rows.sort("row").head(ROWS).select("prompt", "response", "rating")
    return [(cut(prompt), cut(response), rating) for prompt, response, rating in first.iter_rows()]


def _insight(rows: pl.DataFrame | None) -> str | None:
    """The personal one."""
    personal = [] if rows is None else rows.filter(kind="personal")["insight"].to_list()
    return cut(personal[0]) if personal else None


def _route(user: str, route: dict[str, Any]) -> Person:
    """The row of `routes`; whose directions the edit has, in words that name no other user."""
    numbers = {key: round(route[key], 6) for key in ("regret", "worst_regret", "strength")}
    said = {key: route[key] for key in ("member", "robust", "layers", "uncertain", "moved")}
    return numbers | said | {"own": route["edit"] == user}
