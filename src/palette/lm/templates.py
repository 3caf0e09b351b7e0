"""The one place of prompt templates: the sandbox's model is trained on them, every stage uses them.

Each function returns chat messages; `encode` turns them into token ids with the tokenizer's own
chat template, or a plain one where it has none. Texts of users are data: they are only ever
quoted inside a message. Prompts after CHAMELEON (arXiv 2503.01048, section 3).
"""

from collections.abc import Sequence
from typing import Any

Messages = list[dict[str, str]]

PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


def question(prompt: str) -> Messages:
    """The question as it is: the policy that everything is compared with."""
    return _user(prompt)


def personal_insight(history: Sequence[tuple[str, str]]) -> Messages:
    """Ask for the characteristics of the user whose (prompt, response) rows these are."""
    return _user(f"{_quote(history)}\nWhat does this user like?")


def neutral_insight(history: Sequence[tuple[str, str]]) -> Messages:
    """Ask for the style of a generic answer, whatever the history says."""
    return _user(f"{_quote(history)}\nIgnore this user. What is a generic answer like?")


def personal_answer(prompt: str, insight: str) -> Messages:
    """Ask for the answer that this user would want."""
    return _user(f"{insight} Answer this user.\n{prompt}")


def neutral_answer(prompt: str, insight: str) -> Messages:
    """Ask for the answer that anyone could get."""
    return _user(f"{insight} Answer anyone.\n{prompt}")


def judge(prompt: str, answer: str, trait: str) -> Messages:
    """Ask whether an answer shows a trait; the reply is yes or no."""
    return _user(f"{prompt}\nAnswer: {answer}\nDoes this answer show {trait}?")


def encode(tokenizer: Any, messages: Messages) -> list[int]:
    """Token ids of the messages up to where the assistant begins to speak."""
    template = None if tokenizer.chat_template else PLAIN
    text = tokenizer.apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=True
    )
    # A chat template writes its own special tokens; a plain one leaves them to the tokenizer.
    return tokenizer(text, add_special_tokens=template is not None)["input_ids"]


def _user(content: str) -> Messages:
    return [{"role": "user", "content": content}]


def _quote(history: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"Asked: {prompt}\nLiked: {response}" for prompt, response in history)
