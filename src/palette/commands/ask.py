"""`palette ask`: what users would be answered, and what the base and every member would say.

palette ask --user u0007 "How do I clean a kettle?"
palette ask --user u0007 --user u0011 --all-members --samples 2 "How do I clean a kettle?"
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from palette.commands import completing, screen
from palette.errors import PaletteError

if TYPE_CHECKING:
    import numpy as np

    from palette.core.editing import Edit
    from palette.lm.generation import Answers
    from palette.lm.models import LanguageModel
    from palette.measuring import Policy
    from palette.params import Params


@dataclass(frozen=True)
class Said:
    """One sampled answer."""

    question: str
    policy: str
    """who answered, in words"""
    answer: str
    tokens: int
    ended: bool
    """False: cut off at rollouts.max_new_tokens"""


def ask(
    questions: Annotated[list[str], typer.Argument(help="what to ask; each in quotes")],
    user: Annotated[
        list[str] | None,
        typer.Option(help="a user_id; may be given again", autocompletion=completing.users),
    ] = None,
    all_members: Annotated[
        bool, typer.Option("--all-members", help="beside the users, the base and every member")
    ] = False,
    samples: Annotated[int, typer.Option(min=1, help="answers to each question")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="another seed draws other answers")] = 0,
) -> None:
    """Answer as users are served: by their member, with their edit.

    Without users, the base and every member answer, all in one batch.

    Example: palette ask --user u0007 --all-members "How do I clean a kettle?"
    """
    from palette import stage
    from palette.lm.models import load_base
    from palette.params_file import load

    params = load()
    stage.prepare(params.runtime.threads)
    if not all(question.strip() for question in questions):
        raise PaletteError('a question is empty: write it in quotes, palette ask "How do I ...?"')
    policies, edits = chosen(params, user or [], all_members or not user)
    lm = load_base(params.runtime.device)
    said = answers(lm, params, policies, edits, list(dict.fromkeys(questions)), samples, seed)
    show(params, said)


def chosen(
    params: "Params", users: Sequence[str], all_members: bool
) -> tuple[dict[str, "Policy"], dict[str, "Edit"]]:
    """Name, in words → policy, and the edits by the names in the policies.

    Raises:
        PaletteError: nobody is served yet, or there is no such user.
    """
    from palette import served, tables
    from palette.measuring import Policy

    policies: dict[str, Policy] = {}
    edits: dict[str, Edit] = {}
    if users:
        of_users, edits = served.policies(params)
        routes = {row["user_id"]: row for row in tables.read("routes").iter_rows(named=True)}
        for user in users:
            if user not in routes:
                raise PaletteError(f"there is no user '{user}': {tables.path('routes')} lists them")
            policies[f"{user}: {_words(routes[user])}"] = of_users[user]
    if all_members:
        portfolio = tables.read_json(tables.DATA / "portfolio" / "portfolio.json")
        policies["base"] = Policy()
        for member in portfolio["members"]:
            folder = tables.DATA / "adapters" / member["id"]
            policies[member["id"]] = Policy(((str(folder), 1.0),))
    return policies, edits


def answers(
    lm: "LanguageModel", params: "Params", policies: dict[str, "Policy"], edits: dict[str, "Edit"],
    questions: Sequence[str], samples: int, seed: int,
) -> list[Said]:  # fmt: skip
    """Every policy's answers to every question, all in one batch.

    All policies draw by the same random numbers, named by the question and the seed: an answer does
    not depend on what else is asked, or of whom.

    Raises:
        PaletteError: an adapter is missing, or a question is too long for the base.
    """
    from itertools import product

    import numpy as np

    from palette.lm import templates
    from palette.lm.generation import row_uniforms

    limit = params.rollouts.max_new_tokens
    asked = {text: templates.encode(lm.tokenizer, templates.question(text)) for text in questions}
    numbers = {text: row_uniforms(samples, limit, "ask", seed, text) for text in questions}
    rows = list(product(questions, policies, range(samples)))
    made = respond(
        lm, limit, [asked[text] for text, _, _ in rows], [policies[name] for _, name, _ in rows],
        edits, np.stack([numbers[text][sample] for text, _, sample in rows]),
    )  # fmt: skip
    return [
        Said(text, name, answer, len(tokens), tokens[-1] in lm.eos)
        for (text, name, _), answer, tokens in zip(rows, made.texts, made.tokens, strict=True)
    ]


def respond(
    lm: "LanguageModel", limit: int, prompts: Sequence[list[int]], policies: Sequence["Policy"],
    edits: dict[str, "Edit"], uniforms: "np.ndarray",
) -> "Answers":  # fmt: skip
    """One answer to each prompt by its own policy, all in one batch.

    Args:
        limit: most tokens of an answer.
        prompts: token ids.
        uniforms: (prompts, limit) the random numbers.
    """
    from pathlib import Path

    from palette.core.editing import Edits
    from palette.lm.generation import generate
    from palette.lm.row_adapters import RowAdapters

    return generate(
        lm, prompts, limit, uniforms,
        Edits([edits[policy.edit] if policy.edit else None for policy in policies]),
        adapters=RowAdapters(
            [Path(policy.adapters[0][0]) if policy.adapters else None for policy in policies]
        ),
    )  # fmt: skip


def show(params: "Params", said: Sequence[Said]) -> None:
    """Print a table for each question: who answered what, and what each trait makes of it."""
    from itertools import groupby

    from palette import traits

    console = screen.console()
    for question, group in groupby(said, key=lambda one: one.question):
        rows = list(group)
        cells: list[list[str]] = []
        failures: list[str] = []
        for name, trait in params.traits.items():
            try:
                rewards = traits.score_one(
                    name,
                    trait,
                    [question] * len(rows),
                    [one.answer for one in rows],
                    params.runtime.device,
                )
                cells.append([f"{reward:.2f}" for reward in rewards])
            except PaletteError as error:  # it may know the run's own prompts alone
                cells.append(["-"] * len(rows))
                failures.append(str(error))
        table = screen.table("policy", "answer", numbers=(*params.traits, "tokens"))
        for one, *scores in zip(rows, *cells, strict=True):
            length = str(one.tokens) if one.ended else f"{one.tokens}, cut off"
            table.add_row(one.policy, _printable(one.answer), *scores, length)
        console.print(question, style="bold")
        console.print(table)
        for failure in failures:
            console.print(failure)


def _printable(text: str) -> str:
    """A model may say anything; a terminal obeys some of it."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def _words(route: dict) -> str:
    """Which member, and which edit."""
    if not route["strength"]:
        return route["member"]
    return f"{route['member']}, edit × {route['strength']:g} on layers {route['layers']}"
