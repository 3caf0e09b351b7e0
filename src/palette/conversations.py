"""Conversations as history rows: what was asked, and the reply that the user let stand.

A team logs whole conversations. An earlier reply says little of its user's taste: the user went on
from it, perhaps to complain. So the last reply of a conversation is its row, and with it every
reply that was rated by itself; the prompt is what the user said just before. All other turns are
named as left out, and none is lost.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from palette.records import Fault, Nested, Record

ASKS, REPLIES = "user", "assistant"
ASIDES = ("system", "developer", "tool", "function")
"""Roles of what is neither asked nor replied."""
LEFT_OUT = "turns left out: a conversation's last reply, and what it answers, is the row"
OWN = ("rating", "timestamp")
"""What a message may say of itself; else it is said of the conversation."""


@dataclass
class Exchange:
    """Adjacent turns of the user, and those of the assistant that follow."""

    asked: list[Record] = field(default_factory=list)
    said: list[Record] = field(default_factory=list)

    @property
    def rated(self) -> bool:
        return any(message.get("rating") is not None for message in self.said)

    def row(self) -> Record:
        """Prompt and response, turns parted by a blank line; and what the last message has of OWN."""
        texts = {"prompt": self.asked, "response": self.said}
        own = {k: m[k] for m in self.said for k in OWN if m.get(k) is not None}
        return {k: "\n\n".join(map(_text, held)) or None for k, held in texts.items()} | own


def rows(record: Record) -> Iterator[Record | Fault]:
    """The rows of one conversation; a record with a response of its own is a row by itself.

    Args:
        record: `messages`, each with role and content, and what is said of all of them.
    """
    if record.get("response") not in (None, ""):
        yield record
        return
    about = {name: value for name, value in record.items() if name not in ("messages", "prompt")}
    messages = record["messages"]
    complaint = next(filter(None, map(_complaint, messages)), None)
    if complaint:
        yield Fault(complaint, messages, about)
        return
    exchanges = list(_exchanges(messages))
    last = next((one for one in reversed(exchanges) if one.said), None)
    kept = [one for one in exchanges if one is last or one.rated]
    if last is None and exchanges:  # asked and never answered
        kept = exchanges[-1:]
    for one in kept:
        # What is said of the whole conversation is said of where it ended.
        yield (about if one is last else _unrated(about)) | one.row()
    used = {id(message) for one in kept for message in (*one.asked, *one.said)}
    left = [message for message in messages if id(message) not in used]
    if left:
        yield Fault(LEFT_OUT, left, about)
    if not kept and not left:
        yield about


def _exchanges(messages: Iterable[Record]) -> Iterator[Exchange]:
    """Without asides and empty messages, such as the assistant's calls of tools."""
    current = Exchange()
    for message in messages:
        if message["role"] in ASIDES or not _text(message).strip():
            continue
        if message["role"] == REPLIES:
            current.said.append(message)
            continue
        if current.said:
            yield current
            current = Exchange()
        current.asked.append(message)
    if current.asked or current.said:
        yield current


def _unrated(about: Record) -> Record:
    return {name: value for name, value in about.items() if name != "rating"}


def _complaint(message: Any) -> str | None:
    if not isinstance(message, dict):
        return "a message is not an object with role and content"
    role, content = message.get("role"), message.get("content")
    if role not in (ASKS, REPLIES, *ASIDES):
        return f"a message has no role that is one of {', '.join((ASKS, REPLIES, *ASIDES))}"
    if role in ASIDES or isinstance(content, str | None):
        return None
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        return "the content of a message is neither text nor a list of parts"
    if not all(isinstance(part.get("text"), str) for part in content):
        return "a message has a part that is not text"
    return None


def _text(message: Record) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


CONVERSATION = Nested(("messages",), ("prompt", "response"), rows)
