"""Conversations as history rows: which turns are history, and that none is lost in silence."""

import json

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palette.conversations import LEFT_OUT, rows
from palette.histories import read_histories, validate
from palette.records import Fault


def user(text, **more):
    return {"role": "user", "content": text, **more}


def reply(text, **more):
    return {"role": "assistant", "content": text, **more}


SYSTEM, TOOL = {"role": "system", "content": "Be kind."}, {"role": "tool", "content": "42"}


def taken(messages, **about) -> list[tuple]:
    """(prompt, response, rating) of each row, and what was left out."""
    found = list(rows({"user_id": "ann", "messages": messages, **about}))
    assert all((f.sound if isinstance(f, Fault) else f)["user_id"] == "ann" for f in found)
    return [
        (f.reason, f.content) if isinstance(f, Fault)
        else (f.get("prompt"), f.get("response"), f.get("rating"))
        for f in found
    ]  # fmt: skip


def test_one_exchange_is_one_row():
    assert taken([user("why?"), reply("because")]) == [("why?", "because", None)]


def test_the_last_reply_is_the_row_and_all_else_is_named():
    messages = [
        SYSTEM,
        user("why?"),
        reply("because"),
        user("shorter"),
        reply("so"),
        user("thanks"),
    ]
    assert taken(messages, rating=1) == [
        ("shorter", "so", 1),
        (LEFT_OUT, [SYSTEM, user("why?"), reply("because"), user("thanks")]),
    ]


def test_a_reply_that_was_rated_by_itself_is_a_row_too():
    messages = [user("a"), reply("1", rating=0), user("b"), reply("2"), user("c"), reply("3")]
    assert taken(messages, rating=0.5) == [
        ("a", "1", 0), ("c", "3", 0.5), (LEFT_OUT, [user("b"), reply("2")])
    ]  # fmt: skip


def test_a_conversations_rating_is_not_that_of_its_earlier_replies():
    messages = [user("a"), reply("1", rating=0.2), user("b"), reply("2", rating=1)]
    assert [row[2] for row in taken(messages, rating=0.5)] == [0.2, 1]


def test_adjacent_turns_are_one_and_calls_of_tools_are_none():
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}
    messages = [user("a"), user("b"), call, TOOL, reply("c"), reply("d")]
    assert taken(messages) == [("a\n\nb", "c\n\nd", None), (LEFT_OUT, [call, TOOL])]


def test_content_in_parts():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert taken([user(parts), reply("c")]) == [("a\nb", "c", None)]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (["hi"], "a message is not an object"),
        ([{"content": "hi"}], "a message has no role that is one of user, assistant, system"),
        ([{"role": "human", "content": "hi"}], "a message has no role that is one of"),
        ([user(7)], "the content of a message is neither text nor a list of parts"),
        ([user(["a"])], "the content of a message is neither text nor a list of parts"),
        (
            [user([{"type": "image_url", "image_url": "x"}])],
            "a message has a part that is not text",
        ),
    ],
)
def test_what_is_no_conversation_is_said(messages, reason):
    ((said, content),) = taken(messages)
    assert reason in said
    assert content == messages


def write(folder, records, name="chat.jsonl"):
    path = folder / name
    if name.endswith("jsonl"):
        path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    elif name.endswith("json"):
        path.write_text(json.dumps(records, indent=1), encoding="utf-8")
    elif name.endswith("csv"):
        cells = [r | {"messages": json.dumps(r["messages"])} for r in records]
        pl.DataFrame(cells).write_csv(path)
    else:
        pl.DataFrame(records).write_parquet(path)
    return path


RECORDS = [
    {"user_id": "ann", "rating": 1, "public": True, "messages": [user("why?"), reply("because")]},
    {"user_id": "bob", "rating": None, "public": None, "messages": [user("who?"), reply("you 🎈")]},
]


@pytest.mark.parametrize("name", ["chat.jsonl", "chat.json", "chat.parquet", "chat.csv"])
def test_every_format_holds_conversations(tmp_path, name):
    found = validate(read_histories(write(tmp_path, RECORDS, name)), 0.2)
    assert found.histories.drop("timestamp").rows() == [
        ("ann", 0, "why?", "because", 1.0), ("bob", 0, "who?", "you 🎈", None)
    ]  # fmt: skip
    assert found.rejected.is_empty()
    assert found.users["public"].to_list() == [True, False]


def test_a_file_of_conversations_and_of_rows_without(tmp_path):
    records = [
        *RECORDS,
        {"user_id": "cy", "messages": []},
        {"user_id": "dee", "messages": [user("anybody?")]},
        {"user_id": "eve", "messages": "hello"},
        {"user_id": "fay", "prompt": "p", "response": "r"},
        {"user_id": "gus", "prompt": "p", "response": "r", "messages": [user("x"), reply("y")]},
        {"user_id": "hal", "prompt": "why?", "messages": [user("why?"), reply("so")]},
    ]
    found = validate(read_histories(write(tmp_path, records)), 0.2)
    assert found.users.select("user_id", "rows").rows() == [
        ("ann", 1), ("bob", 1), ("cy", 0), ("dee", 0), ("eve", 0), ("fay", 1), ("gus", 1), ("hal", 1)
    ]  # fmt: skip
    assert found.rejected.select("source_row", "reason").rows() == [
        (3, "response is missing"), (4, "messages is not a list")
    ]  # fmt: skip
    assert found.histories["response"].to_list()[-3:] == ["r", "r", "so"]


def test_turns_left_out_are_among_the_rejected_under_their_conversation(tmp_path):
    records = [*RECORDS, {"user_id": "ann", "messages": [SYSTEM, user("a"), reply("b")]}]
    found = validate(read_histories(write(tmp_path, records)), 0.2)
    assert found.rejected.rows() == [(2, LEFT_OUT, json.dumps([SYSTEM]))]
    assert len(found.histories) == 3


texts = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
parts = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": texts}), max_size=2)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "tool"]),
         "content": texts | st.none() | parts},
        optional={"rating": st.sampled_from([0, 0.5, 1])},
    ),
    max_size=7,
)  # fmt: skip


@given(messages)
@settings(max_examples=80, deadline=None)
def test_every_turn_is_in_a_row_or_named_as_left_out(turns):
    found = taken(turns)
    left = [one for entry in found if entry[0] == LEFT_OUT for one in entry[1]]
    kept = [entry for entry in found if entry[0] != LEFT_OUT]
    said = sum(len(text.split()) for entry in kept for text in entry[:2] if text)

    def words(turn):
        content = turn["content"] or ""
        whole = content if isinstance(content, str) else " ".join(p["text"] for p in content)
        return len(whole.split())

    assert said == sum(map(words, turns)) - sum(map(words, left))


anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["role", "content", "text", "rating", "user"]), inner, max_size=4
    ),
    max_leaves=12,
)  # fmt: skip


@given(st.lists(anything, max_size=4))
@settings(max_examples=80, deadline=None)
def test_nothing_that_calls_itself_a_conversation_raises(messages):
    for found in rows({"user_id": "ann", "messages": messages}):
        assert isinstance(found, dict | Fault)
