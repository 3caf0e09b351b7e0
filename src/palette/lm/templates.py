"""The one place of prompt templates: the sandbox's model is trained on them, every stage uses them.

Each function returns chat messages; `encode` turns them into token ids with the tokenizer's own
chat template, or a plain one where it has none. Texts of users are data: they are only ever
quoted inside a message. Prompts after CHAMELEON (arXiv 2503.01048, section 3).
"""

import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

Messages = list[dict[str, str]]

PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"

DATE = datetime(2024, 7, 26)
FIXED = {"date_string": DATE.strftime("%d %b %Y"), "enable_thinking": False}
"""What chat templates may ask for: a date that is the same every day, and answers without a draft."""
TODAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")


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


def quoting(prompt: str, row: tuple[str, str]) -> Messages:
    """Ask for the answer that the user would want who liked this (prompt, response) row."""
    return _user(f"{_quote([row])}\nAnswer this user.\n{prompt}")


def neutral_answer(prompt: str, insight: str) -> Messages:
    """Ask for the answer that anyone could get."""
    return _user(f"{insight} Answer anyone.\n{prompt}")


def judge(prompt: str, answer: str, trait: str) -> Messages:
    """Ask whether an answer shows a trait; the reply is yes or no."""
    return _user(f"{prompt}\nAnswer: {answer}\nDoes this answer show {trait}?")


def rubric(prompt: str, answer: str, sentence: str, order: tuple[str, str]) -> Messages:
    """Ask whether a sentence on an answer is true; a question is asked as it stands.

    Args:
        order: yes and no, as the question offers them. They stand before it: the sandbox's base,
            which was never offered any, judges as it learnt to only where its own question is last.
    """
    asked = sentence if sentence.endswith("?") else f"Is it true that {sentence}?"
    return _user(f"{prompt}\nAnswer: {answer}\n{order[0]} or {order[1]}: {asked}")


def exchange(prompt: str, answer: str) -> Messages:
    """A question and its answer, as reward models read them."""
    return [*_user(prompt), {"role": "assistant", "content": answer}]


def encode(tokenizer: Any, messages: Messages, whole: bool = False) -> list[int]:
    """Token ids of the messages up to where the assistant begins to speak; `whole`: no further.

    A control token spelt inside a message is read as the characters it is written with: a history
    that quotes one does not end its own message.
    """
    return encode_all(tokenizer, [messages], whole)[0]


def encode_all(
    tokenizer: Any, conversations: Sequence[Messages], whole: bool = False
) -> list[list[int]]:
    """`encode` of each, faster than one by one."""
    own = _own(tokenizer)
    template = PLAIN if own is None else own
    control = [*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()]
    # A chat template writes its own special tokens; a plain one leaves them to the tokenizer.
    special = own is None
    marked, marks = [], []
    for messages in conversations:
        quoted = [m["content"] for m in messages if any(token in m["content"] for token in control)]
        marks.append({f"\ue000{number}\ue001": content for number, content in enumerate(quoted)})
        names = {content: mark for mark, content in marks[-1].items()}
        marked.append([m | {"content": names.get(m["content"], m["content"])} for m in messages])
    texts = marked and tokenizer.apply_chat_template(
        marked, chat_template=template, tokenize=False, add_generation_prompt=not whole, **FIXED
    )
    # Where nothing is quoted the text is tokenized whole, exactly as the model's makers do.
    plain = [text for text, quoted in zip(texts, marks, strict=True) if not quoted]
    ids = iter(tokenizer(plain, add_special_tokens=special)["input_ids"] if plain else [])
    return [
        _unended(
            tokenizer, _parts(tokenizer, text, quoted, special) if quoted else next(ids), special
        )
        for text, quoted in zip(texts, marks, strict=True)
    ]


def _parts(tokenizer: Any, text: str, marks: dict[str, str], special: bool) -> list[int]:
    """Token ids of a text in which marks stand for what is quoted."""
    ids: list[int] = []
    for part in re.split("(\ue000\\d+\ue001)", text):
        data = part in marks
        ids += tokenizer(
            marks.get(part, part),
            add_special_tokens=special and not ids and not data,
            split_special_tokens=data,
        )["input_ids"]
    return ids


def for_servers(tokenizer: Any) -> str | None:
    """The chat template with which a server, which adds no token to it, asks what was asked here.

    Returns:
        None where that is the model's own.
    """
    own = _own(tokenizer)
    if own is None:
        begins = encode(tokenizer, question("Why?"))[0] == tokenizer.bos_token_id
        return ("{{ bos_token }}" if begins else "") + PLAIN
    asked = [name for name in FIXED if name in own]
    if own == tokenizer.get_chat_template() and not asked:
        return None
    return "".join(f"{{% set {name} = {json.dumps(FIXED[name])} %}}" for name in asked) + own


def _own(tokenizer: Any) -> str | None:
    """The model's own chat template, without what changes from day to day."""
    if not tokenizer.chat_template:
        return None
    text: str = tokenizer.get_chat_template()
    return TODAY.sub(lambda call: json.dumps(DATE.strftime(call[2])), text)


def _unended(tokenizer: Any, ids: list[int], special: bool) -> list[int]:
    """Some tokenizers put an end behind every text, after which nothing would be answered."""
    ended = special and len(ids) > 1 and ids[-1] == tokenizer.eos_token_id
    return ids[:-1] if ended else ids


def _user(content: str) -> Messages:
    return [{"role": "user", "content": content}]


def _quote(history: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"Asked: {prompt}\nLiked: {response}" for prompt, response in history)
