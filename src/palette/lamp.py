"""The files of the LaMP benchmark (arXiv 2304.11406): questions with their users' profiles.

A question is `{id, input, profile: [item, ...]}`. An item is something that the user wrote, so each
becomes a row of the user's history; the question itself is asked by `palette lamp answer`, and what
should be answered to it is in a file of its own, which histories never see.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from palette.records import Fault, Nested, Record


@dataclass(frozen=True)
class Shape:
    """How a task's questions look, and what an item of their profiles asks and says."""

    opening: str
    """of every question"""
    said: str
    """the item's field that is the response"""
    asked: str | None = None
    """the item's field that is asked about"""
    instruction: str | None = None
    """before it; None: as in the question, up to `until`"""
    until: str = ":"


SHAPES = {
    "LaMP_1": Shape(
        "For an author who has written the paper", "title", "abstract",
        "Generate a title for the following abstract of a paper:",
    ),
    "LaMP_2N": Shape("Which category does this article", "category", "text", until="article:"),
    "LaMP_2M": Shape("Which tag does this movie", "tag", "description", until="description:"),
    "LaMP_3": Shape("What is the score of the following review", "score", "text", until="review:"),
    "LaMP_4": Shape("Generate a headline for the following article", "title", "text"),
    "LaMP_5": Shape("Generate a title for the following abstract", "title", "abstract"),
    "LaMP_6": Shape("Generate a subject for the following email", "title", "text"),
    "LaMP_7": Shape("Paraphrase the following tweet", "text", None, "Write a tweet."),
}  # fmt: skip
"""LaMP-1's items are papers, whose titles are asked as in LaMP-5; LaMP-7's are tweets that answer
nothing. Of LaMP-2 there are two editions: news and movies."""


def user(question: Record) -> object:
    """Whose question it is: of the splits by user, the question's own id names the user."""
    return question.get("id") if question.get("user_id") is None else question["user_id"]


def task(text: object) -> str | None:
    """The name in SHAPES of the task that a question belongs to."""
    known = (name for name, shape in SHAPES.items() if str(text).startswith(shape.opening))
    return next(known, None)


def rows(question: Record) -> Iterator[Record | Fault]:
    """A row for every item of a question's profile; without items, one that registers the user."""
    about = {"user_id": user(question), "public": question.get("public")}
    text = question.get("input") or ""
    name = task(text)
    if name is None:
        yield Fault("input is no question of LaMP-1 to LaMP-7", question, about)
        return
    shape = SHAPES[name]
    instruction = shape.instruction
    if instruction is None:
        before, found, _ = text.partition(shape.until)
        instruction = before + found
    if not question["profile"]:
        yield about
    for item in question["profile"]:
        fields = [field for field in (shape.asked, shape.said) if field]
        told = item if isinstance(item, dict) else {}
        missing = [name for name in fields if not isinstance(told.get(name), str | int | float)]
        if missing:
            yield Fault(f"an item of the profile has no text '{missing[0]}'", item, about)
            continue
        asked = f" {item[shape.asked]}" if shape.asked else ""
        yield about | {
            "prompt": instruction + asked, "response": item[shape.said],
            "timestamp": item.get("date"),
        }  # fmt: skip


QUESTION = Nested(("profile", "input", "id"), ("user_id", "prompt", "response"), rows)
