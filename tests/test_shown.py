"""What is shown of answers: of public users alone, the very answers that were judged."""

import polars as pl
import pytest
import tiny_chain
from tiny_chain import PARAMS

from palette import shown, tables

FEW = ("per_user", "sft", "dpo")


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Four test prompts and others, and users of whom every second is public."""
    monkeypatch.chdir(tmp_path)
    asked = [(f"t{i}", "test") for i in (3, 1, 0, 2)] + [("s", "select"), ("a", "train")]
    tables.write("prompts", pl.DataFrame([
        {"prompt_id": name, "prompt": f"{name}?", "topic": name, "split": split}
        for name, split in asked
    ]))  # fmt: skip
    write_users([f"u{i}" for i in range(8)])


def write_users(names: list[str]) -> None:
    tables.write("users", pl.DataFrame([
        {"user_id": name, "cohort": "seen", "rows": 1, "public": int(name[1:]) % 2 == 0}
        for name in names
    ]))  # fmt: skip


def told(rows: list[tuple[str, str, str]]) -> pl.DataFrame:
    """(method, user, policy) → rows of the table `baselines` for every test prompt."""
    frame = pl.DataFrame(rows, schema=["method", "user_id", "policy"], orient="row")
    asked = tables.read("prompts").filter(split="test").select("prompt_id")
    said = pl.format("{} of {} to {}", "policy", "method", "prompt_id")
    return frame.join(asked, how="cross").with_columns(response=said)


def test_the_first_test_prompts_are_shown(world):
    assert shown.prompts().rows() == [("t0", "t0?"), ("t1", "t1?"), ("t2", "t2?")]


def test_public_users_alone_are_shown_those_of_the_most_methods_first(world, monkeypatch):
    rows = told(
        [("edit", f"u{i}", f"p{i}") for i in range(8)] + [("dpo", "u4", "x"), ("dpo", "u5", "y")]
    )
    found = shown.users(rows)
    assert found[0] == "u4" and sorted(found) == ["u0", "u2", "u4", "u6"]
    monkeypatch.setattr(shown, "USERS", 2)
    assert shown.users(rows) == found[:2]


def test_who_comes_or_goes_moves_nobody_else(world):
    names = [f"u{i}" for i in range(0, 60, 2)]
    write_users(names)
    rows = told([("edit", name, name) for name in names])
    before = shown.users(rows)
    write_users([name for name in names if name != before[3]])
    assert shown.users(rows) == before[:3] + before[4:]
    assert before != sorted(before)


def test_another_users_edit_is_shown_only_where_that_user_is_public(world):
    edits = [("edit", f"u{i}", f"p{i}") for i in range(8)]
    others = [("edit_other", "u0", "p3"), ("edit_other", "u2", "p4"), ("edit_other", "u4", "base")]
    found = shown.answers(told([*edits, *others]))
    assert set(found["user_id"]) == {"u0", "u2", "u4", "u6"}
    assert set(found.filter(method="edit_other")["policy"]) == {"p4"}
    assert set(found["prompt_id"]) == {"t0", "t1", "t2"}
    assert found.filter(method="edit", user_id="u6")["response"].to_list() == [
        f"p6 of edit to t{i}" for i in range(3)
    ]


def test_the_chain_keeps_the_answers_of_public_users(chain):
    known = tables.read("evaluation").select("method", "user_id").unique()
    baselines, own = tables.read("baseline_answers"), tables.read("answers")
    both = pl.concat([baselines, own])
    assert set(both["user_id"]) == set(tiny_chain.PUBLIC)
    assert not both.is_duplicated().any() and not both["response"].null_count()
    for user in tiny_chain.PUBLIC:
        judged = set(known.filter(user_id=user)["method"]) - {"ideal"}
        methods = both.filter(user_id=user)["method"].value_counts()
        assert judged - {"edit_other"} <= set(methods["method"]) <= judged
        assert set(methods["count"]) == {2}  # the chain has two test prompts


def test_the_answers_that_are_kept_are_those_that_were_judged(chain):
    """Of unedited policies the first ones of the tables that they were judged by."""
    own, routes = (
        tables.read("answers"),
        dict(tables.read("routes").select("user_id", "member").rows()),
    )
    said = shown.of_members(PARAMS, sorted(set(routes.values()) - {"base"}))
    first = tables.read("rollouts").filter(sample=0)
    for row in own.filter(method="base").iter_rows(named=True):
        assert [row["response"]] == first.filter(prompt_id=row["prompt_id"])["response"].to_list()
    for row in own.filter(method="portfolio").iter_rows(named=True):
        named = {"member": routes[row["user_id"]], "prompt_id": row["prompt_id"]}
        assert [row["response"]] == said.filter(**named)["response"].to_list()
    for user in tiny_chain.PUBLIC:
        asked = own.filter(method="portfolio_edit", user_id=user)["prompt_id"].to_list()
        assert asked == shown.prompts()["prompt_id"].to_list()
