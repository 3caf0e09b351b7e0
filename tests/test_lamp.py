"""LaMP's files: profiles as histories, questions answered as users are served, answers scored."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_ask import ROUTES, folder  # noqa: F401  (a fixture)
from tiny_models import tiny

from palette import lamp
from palette.commands import lamp as command
from palette.commands.ask import chosen, respond
from palette.core import lamp_scores
from palette.core.lamp_scores import scores
from palette.errors import PaletteError
from palette.histories import read_histories, validate
from palette.lm import templates
from palette.lm.generation import row_uniforms
from palette.params_file import load

TAGS = "[sci-fi, based on a book, comedy]"
TASKS = {  # as the benchmark writes them: a question, an item of its profile, the row that it gives
    "LaMP_1": (
        'For an author who has written the paper with the title "A", which reference is related? '
        'Just answer with [1] or [2] without explanation. [1]: "B" [2]: "C"',
        {"title": "On lamps", "abstract": "We light them."},
        ("Generate a title for the following abstract of a paper: We light them.", "On lamps"),
    ),
    "LaMP_2N": (
        "Which category does this article relate to among the following categories? Just answer "
        "with the category name without further explanation. categories: [women, sports] article: x",
        {"text": "They won.", "title": "Won", "category": "sports"},
        (
            "Which category does this article relate to among the following categories? Just "
            "answer with the category name without further explanation. categories: "
            "[women, sports] article: They won.",
            "sports",
        ),
    ),
    "LaMP_2M": (
        "Which tag does this movie relate to among the following tags? Just answer with the tag "
        f"name without further explanation. tags: {TAGS} description: x",
        {"description": "Mars: a robot.", "tag": "sci-fi"},
        (
            "Which tag does this movie relate to among the following tags? Just answer with the "
            f"tag name without further explanation. tags: {TAGS} description: Mars: a robot.",
            "sci-fi",
        ),
    ),
    "LaMP_3": (
        "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, "
        "4, or 5 without further explanation. review: x",
        {"text": "Broke at once.", "score": "1"},
        (
            "What is the score of the following review on a scale of 1 to 5? just answer with 1, "
            "2, 3, 4, or 5 without further explanation. review: Broke at once.",
            "1",
        ),
    ),
    "LaMP_4": (
        "Generate a headline for the following article: x",
        {"text": "It rained.", "title": "Rain"},
        ("Generate a headline for the following article: It rained.", "Rain"),
    ),
    "LaMP_5": (
        "Generate a title for the following abstract of a paper: x",
        {"title": "On lamps", "abstract": "We light them."},
        ("Generate a title for the following abstract of a paper: We light them.", "On lamps"),
    ),
    "LaMP_6": (
        "Generate a subject for the following email: x",
        {"text": "See you at 5.", "title": "Meeting"},
        ("Generate a subject for the following email: See you at 5.", "Meeting"),
    ),
    "LaMP_7": (
        "Paraphrase the following tweet without any explanation before or after it: x",
        {"text": "gm all ☀️"},
        ("Write a tweet.", "gm all ☀️"),
    ),
}  # fmt: skip


def question(task: str, number: int = 0, items: int = 1, **more) -> dict:
    text, item, _ = TASKS[task]
    profile = [item | {"id": f"{number}{place}"} for place in range(items)]
    return {"id": f"{number}", "input": text, "profile": profile, **more}


def write(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def outputs(task: str, texts: list[str]) -> dict:
    return {"task": task, "golds": [{"id": str(i), "output": text} for i, text in enumerate(texts)]}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_gives_histories(tmp_path, task):
    asked = [question(task, 0, date="2020"), question(task, 1, items=0)]
    found = validate(read_histories(write(tmp_path / "dev_questions.json", asked)), 0.2)
    assert found.rejected.is_empty()
    assert found.users.select("user_id", "rows").rows() == [("0", 1), ("1", 0)]
    assert found.histories.select("prompt", "response").rows() == [TASKS[task][2]]
    assert lamp.task(asked[0]["input"]) == task


def test_dates_and_users_of_the_splits_by_time(tmp_path):
    one, two = question("LaMP_3", 0, user_id=7), question("LaMP_3", 1, user_id=7)
    one["profile"][0]["date"] = "2014-05"
    two["profile"][0] |= {"score": 5, "date": "2014-05-06"}
    found = validate(read_histories(write(tmp_path / "q.json", [one, two])), 0.2)
    assert found.histories.select("user_id", "response", "timestamp").rows() == [
        ("7", "1", "2014-05-01T00:00:00"), ("7", "5", "2014-05-06T00:00:00")
    ]  # fmt: skip


def test_bad_items_are_lost_alone(tmp_path):
    odd = question("LaMP_2M", 1)
    odd["profile"] += [{"tag": "comedy"}, "x", {"tag": ["a"], "description": "d"}]
    strange = question("LaMP_4", 2) | {"input": "What is this?"}
    asked = [question("LaMP_2M", 0, items=2), odd, strange, {"id": "3"}, 4]
    found = validate(read_histories(write(tmp_path / "q.json", asked)), 0.2)
    assert found.rejected.select("source_row", "reason").rows() == [
        (0, "the same as row 0"),
        (1, "an item of the profile has no text 'description'"),
        (1, "an item of the profile has no text 'description'"),
        (1, "an item of the profile has no text 'tag'"),
        (2, "input is no question of LaMP-1 to LaMP-7"),
        (3, "user_id is missing"),
        (4, "not a JSON object"),
    ]
    assert found.users.select("user_id", "rows").rows() == [("0", 1), ("1", 1), ("2", 0)]


def test_the_file_of_outputs_is_no_history(tmp_path):
    path = write(tmp_path / "dev_outputs.json", outputs("LaMP_3", ["1", "2"]))
    with pytest.raises(PaletteError, match="no column 'user_id': it has 'id', 'output'"):
        read_histories(path)


def test_labels_are_scored_as_by_hand():
    found = scores("LaMP_1", ["[1]", " [2] ", "[1]", "neither"], ["[1]", "[2]", "[2]", "[1]"])
    # [1]: precision 1/2, recall 1/2; [2]: 1, 1/2. "neither" is wrong, and nobody's precision.
    assert found == pytest.approx({"accuracy": 0.5, "F1": (1 / 2 + 2 / 3) / 2})
    movies = scores("LaMP_2", ["comedy", "action"], ["comedy", "comedy"])
    assert movies == pytest.approx({"accuracy": 0.5, "F1": 2 / 3 / 15})
    assert scores("LaMP_2", ["sports"], ["sports"])["F1"] == pytest.approx(1 / 15)
    assert len(set(lamp_scores.MOVIES)) == len(set(lamp_scores.NEWS)) == 15


def test_stars_are_scored_as_by_hand():
    found = scores("LaMP_3", ["5", "1", "good", "nan"], ["4", "1", "2", "4"])
    assert found == pytest.approx({"MAE": 7 / 4, "RMSE": np.sqrt((1 + 0 + 9 + 9) / 4)})


def test_texts_are_scored_as_by_hand():
    found = scores("LaMP_4", ["the cat sat on the mat", ""], ["On the mat, the cat sat.", "a"])
    assert found == pytest.approx({"ROUGE-1": 0.5, "ROUGE-L": 0.25})  # of the first: 1, 3 of 6
    assert scores("LaMP_7", ["Same words"], ["same WORDS!"])["ROUGE-L"] == pytest.approx(1)


@given(
    st.lists(st.tuples(st.text(max_size=6), st.sampled_from(["1", "2", "3", "4", "5"]))).filter(
        bool
    )
)
@settings(max_examples=50, deadline=None)
def test_whatever_was_answered_has_a_score(rows):
    said, golds = map(list, zip(*rows, strict=True))
    found = scores("LaMP_3", said, golds)
    assert 0 <= found["MAE"] <= found["RMSE"] * (1 + 1e-9)


@pytest.mark.parametrize(
    ("task", "golds", "sentence"),
    [
        ("LaMP_2", ["comedy", "sports"], "no label of one edition"),
        ("LaMP_3", ["five"], "no number of stars"),
    ],
)
def test_golds_of_another_task_are_refused(task, golds, sentence):
    with pytest.raises(PaletteError, match=sentence):
        scores(task, golds, golds)


def test_scoring_by_command(tmp_path, capsys):
    said = write(tmp_path / "said.json", outputs("LaMP-3", ["4", "1"]))
    gold = write(tmp_path / "gold.json", outputs("LaMP_3", ["5", "1"]))
    command.score(said, gold)
    assert capsys.readouterr().out.splitlines() == [
        "task       LaMP_3", "questions  2", "MAE        0.5000", "RMSE       0.7071"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (outputs("LaMP_3", ["4"]), r"said\.json lacks 1 questions, such as '1'"),
        (outputs("LaMP_3", ["4", "1", "2"]), r"gold\.json lacks 1 questions, such as '2'"),
        (outputs("LaMP_4", ["4", "1"]), "is of LaMP_4, not of LaMP_3"),
        (outputs("LaMP_8", ["4", "1"]), "names the task 'LaMP_8'"),
        ({"task": "LaMP_3", "golds": [{"id": 1}]}, "needs an id and an output"),
        (["4"], "holds no LaMP outputs"),
    ],
)
def test_answers_to_other_questions_are_refused(tmp_path, said, sentence):
    gold = write(tmp_path / "gold.json", outputs("LaMP_3", ["5", "1"]))
    with pytest.raises(PaletteError, match=sentence):
        command.score(write(tmp_path / "said.json", said), gold)


def ask_for(users: list[str]) -> list[dict]:
    return [question("LaMP_7", number) | {"user_id": user} for number, user in enumerate(users)]


@pytest.mark.filterwarnings("ignore")
def test_every_question_is_answered_as_its_user_is_served(folder, capsys, monkeypatch):  # noqa: F811
    users = [*ROUTES, "ann"]
    file, target = write(folder / "q.json", ask_for(users)), folder / "said.json"
    command.answer(file, target, base=False, seed=0)
    whole = json.loads(target.read_text())
    assert whole["task"] == "LaMP_7"
    params, lm = load(), tiny()
    limit = params.rollouts.max_new_tokens
    policies, edits = chosen(params, list(ROUTES), False)
    own = {name.split(":")[0]: policy for name, policy in policies.items()}
    ids = templates.encode(lm.tokenizer, templates.question(TASKS["LaMP_7"][0]))
    for one in whole["golds"]:
        policy, numbers = own[users[int(one["id"])]], row_uniforms(1, limit, "lamp", 0, one["id"])
        assert respond(lm, limit, [ids], [policy], edits, numbers).texts == [one["output"]]

    # What was interrupted goes on, and is what it would have been.
    kept = whole | {"golds": [one for one in whole["golds"] if one["id"] in "02"]}
    write(target, kept)
    monkeypatch.setattr(command, "TOGETHER", 1)
    command.answer(file, target, base=False, seed=0)
    assert sorted(json.loads(target.read_text())["golds"], key=lambda one: one["id"]) == sorted(
        whole["golds"], key=lambda one: one["id"]
    )
    assert "keeps the 2 answers" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_the_base_answers_whoever_asks(folder):  # noqa: F811
    file = write(folder / "q.json", ask_for(["ann", "nobody"]))
    with pytest.raises(
        PaletteError, match="1 users of these questions have no route, such as 'nob"
    ):
        command.answer(file, folder / "said.json", base=False, seed=0)
    command.answer(file, folder / "said.json", base=True, seed=0)
    assert len(json.loads((folder / "said.json").read_text())["golds"]) == 2


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([{"id": "1", "input": "x"}], "no list of LaMP questions"),
        ([question("LaMP_4"), question("LaMP_5")], "the questions of one task"),
        ({"task": "LaMP_3", "golds": 3}, "no list of LaMP questions"),
    ],
)
def test_no_questions_of_one_task_are_refused(folder, content, sentence):  # noqa: F811
    with pytest.raises(PaletteError, match=sentence):
        command.answer(write(folder / "q.json", content), folder / "said.json", False, 0)


def test_profiles_in_parquet_are_read_too(tmp_path):
    pl.DataFrame([question("LaMP_4", 0)]).write_parquet(tmp_path / "q.parquet")
    found = validate(read_histories(tmp_path / "q.parquet"), 0.2)
    assert found.histories.select("prompt", "response").rows() == [TASKS["LaMP_4"][2]]
