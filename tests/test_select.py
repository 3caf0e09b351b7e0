"""`palette select`: what it prints, what it refuses, and with which status it ends."""

import json

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from palette.cli import commands
from palette.core.paired import choosing

TABLE = {
    "policy": ["a", "b", "c", "d"],
    "help": [1.0, 0.1, 0.7, 0.6],
    "safe": [0.1, 1.0, 0.7, 0.6],
}


@pytest.fixture
def select(tmp_path, monkeypatch):
    """Run it on a table (columns, or CSV text); returns (status, JSON or None, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(table, *arguments: str):
        if isinstance(table, dict):
            pl.DataFrame(table).write_csv("values.csv")
        else:
            (tmp_path / "values.csv").write_text(table)
        result = CliRunner().invoke(commands, ["select", "values.csv", *arguments])
        return result.exit_code, json.loads(result.stdout or "null"), result.stderr

    return run


def prompts(count: int = 120, noise: float = 0.02) -> dict:
    rng = np.random.default_rng(0)
    rows = [
        {
            "policy": name,
            "prompt": f"question {number}",
            **dict(zip(("help", "safe"), row, strict=True)),
        }
        for number in range(count)
        for name, row in zip(
            TABLE["policy"],
            np.array([TABLE["help"], TABLE["safe"]]).T + rng.uniform(-noise, noise, size=(4, 2)),
            strict=True,
        )
    ]
    return pl.DataFrame(rows).to_dict(as_series=False)


def test_the_answer_is_json_and_the_table_is_for_people(select):
    status, answer, shown = select(TABLE, "--epsilon", "0.1")
    assert status == 0
    assert answer["members"] == ["a", "b", "c"]
    assert answer["passed"] is answer["optimal"] is True
    assert (answer["size"], answer["lower_bound"], answer["policies"]) == (3, 3, 4)
    assert (answer["epsilon"], answer["delta"], answer["worst"]) == (0.1, 0.0, 0.0)
    assert "PASS: 3 of 4 policies (proven best)" in shown
    assert "wins about" in shown


def test_a_size_too_small_gives_the_best_of_it_and_fails(select):
    status, answer, shown = select(TABLE, "--epsilon", "0.1", "--max-size", "2")
    assert status == 1
    assert not answer["passed"] and answer["size"] <= 2
    # a and b in the middle: 0.55 of 0.7; a and c, or b and c, at a corner: 0.7 of 1
    assert answer["members"] == ["a", "b"]
    assert answer["worst"] == pytest.approx(1 - 0.55 / 0.7)
    assert answer["worst_weights"] == pytest.approx({"help": 0.5, "safe": 0.5})
    assert answer["worst_delta"] == pytest.approx(0.9 * 0.7 - 0.55)
    assert answer["lower_bound"] == 3
    assert "FAIL" in shown
    assert select(TABLE, "--epsilon", "0.22", "--max-size", "2")[0] == 0


def test_costs_floors_and_delta_count(select):
    dear = TABLE | {"cost": [0.0, 0.0, 0.2, 0.0]}
    assert select(dear, "--epsilon", "0", "--delta", "0.04")[1]["members"] == ["a", "b", "d"]
    # with half of the weight on help, b is never needed
    answer = select(TABLE, "--epsilon", "0", "--floor", "help=0.5")[1]
    assert answer["members"] == ["a", "c"]
    assert answer["worst_weights"]["help"] >= 0.5
    assert select(TABLE, "--epsilon", "0", "--delta", "0.3")[1]["members"] == ["c"]


def test_scales_are_made_equal(select):
    grams = TABLE | {"safe": [value * 1000 - 5000 for value in TABLE["safe"]]}
    status, answer, _ = select(grams, "--epsilon", "0.1", "--normalize")
    assert (status, answer["members"]) == (0, ["a", "b", "c"])
    constant = TABLE | {"same": [3.0] * 4}
    assert select(constant, "--epsilon", "0.1", "--normalize")[1]["members"] == ["a", "b", "c"]


def test_every_format_gives_the_same_bytes(select, tmp_path):
    answers = []
    for suffix in ("csv", "parquet", "jsonl"):
        frame, path = pl.DataFrame(prompts()), tmp_path / f"table.{suffix}"
        {"csv": frame.write_csv, "parquet": frame.write_parquet, "jsonl": frame.write_ndjson}[
            suffix
        ](path)
        result = CliRunner().invoke(commands, ["select", str(path), "--epsilon", "0.1"])
        answers.append(result.stdout)
    assert answers[0] == answers[1] == answers[2]
    assert json.loads(answers[0])["members"] == ["a", "b", "c"]


def test_prompts_give_confidence(select):
    status, answer, shown = select(prompts(), "--epsilon", "0.1")
    assert status == 0
    assert answer["members"] == ["a", "b", "c"]
    assert answer["prompts"]["choose"] + answer["prompts"]["certify"] == 120
    assert answer["worst"] <= answer["epsilon_upper"] <= 0.1
    assert "with confidence 0.95" in shown
    status, answer, _ = select(prompts(), "--epsilon", "0.2", "--max-size", "2")
    assert status == 1
    assert 1 - 0.55 / 0.7 - 0.02 < answer["worst"] < answer["epsilon_upper"] < 0.25


def test_noise_widens_what_is_certified(select):
    asked = ("--epsilon", "0.25", "--max-size", "2")
    quiet, loud = (
        select(prompts(noise=noise), *asked)[1]["epsilon_upper"] for noise in (0.01, 0.09)
    )
    assert quiet < loud


def test_fewer_policies_are_judged_by_the_asked_slack_not_by_the_margin_for_noise(select):
    rng = np.random.default_rng(0)
    circle = np.abs(rng.normal(size=(30, 1, 2)))
    circle /= np.linalg.norm(circle, axis=2, keepdims=True)
    values = (circle + rng.normal(0, 0.1, size=(30, 60, 2))).clip(0)
    frame = pl.DataFrame(
        [
            {"policy": f"p{policy}", "prompt": f"q{prompt}", "help": row[0], "safe": row[1]}
            for policy, rows in enumerate(values)
            for prompt, row in enumerate(rows)
        ]
    )
    half = frame.filter(pl.col("prompt").map_batches(lambda texts: pl.Series(choosing(texts))))
    means = half.group_by("policy", maintain_order=True).agg(pl.col("help", "safe").mean())
    fewest = select(means.to_dict(as_series=False), "--epsilon", "0.05")[1]
    answer = select(frame.to_dict(as_series=False), "--epsilon", "0.05")[1]
    assert fewest["optimal"]
    assert answer["lower_bound"] == fewest["size"] < answer["size"]
    assert answer["optimal"] is False


def test_a_best_worth_of_zero_but_for_rounding_is_no_negative_worth(select):
    table = {
        "policy": ["a", "b"],
        "help": [1.0, 0.9],
        "safe": [0.9, 1.0],
        "calm": [0.0, 0.0],
        "cost": [1e-10, 1e-10],
    }
    status, answer, _ = select(table, "--epsilon", "0.15")
    assert (status, answer["size"]) == (0, 1)
    assert answer["worst"] == pytest.approx(0.1)
    status, answer, _ = select(table, "--epsilon", "0.05", "--max-size", "1")
    assert status == 1
    assert answer["worst"] == pytest.approx(0.1)


def test_what_was_chosen_as_holding_is_judged_as_holding(select):
    # a is 2e-10 of the largest worth behind: a large share of the little that safety is worth
    table = {"policy": ["a", "b"], "help": [1.0, 0.5], "safe": [1e-6 - 2e-10, 1e-6]}
    status, answer, _ = select(table, "--epsilon", "0")
    assert (status, answer["members"], answer["worst"]) == (0, ["a"], 0.0)
    # and in large units so little of the largest worth is more than it seems
    large = {"policy": ["a", "b"], "help": [-1e6, -2e6], "safe": [-1e6, 5e-4 - 1e6]}
    status, answer, _ = select(large, "--epsilon", "0")
    assert (status, answer["members"], answer["worst"]) == (0, ["a"], 0.0)


def test_negative_values_are_judged_by_delta_alone(select):
    below = TABLE | {"safe": [-1.0, -0.1, -0.4, -0.5]}
    assert select(below, "--epsilon", "0", "--delta", "0.3")[1]["members"] == ["c"]
    status, answer, _ = select(below, "--epsilon", "0", "--delta", "0.2", "--max-size", "1")
    assert (status, answer["members"], answer["worst"]) == (1, ["c"], None)
    assert answer["worst_delta"] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("table", "arguments", "sentence"),
    [
        (TABLE, ["--epsilon", "1"], "--epsilon 1.0 must be at least 0 and less than 1"),
        (TABLE, ["--epsilon", "nan"], "--epsilon nan must be"),
        (TABLE, ["--delta", "-1"], "--delta -1.0 must be at least 0"),
        (TABLE, ["--max-size", "0"], "--max-size 0 must be at least 1"),
        (TABLE, ["--floor", "saf=0.1"], "no such objective; did you mean 'safe'?"),
        (TABLE, ["--floor", "safe"], "no such objective"),
        (TABLE, ["--floor", "safe=much"], "'much' must be a number"),
        (TABLE, ["--floor", "safe=-0.1"], "must be at least 0"),
        (TABLE, ["--floor", "safe=0.5", "--floor", "help=0.5"], "floors add up to 1"),
        (TABLE, ["--confidence", "95"], "--confidence 95.0 must be"),
        (TABLE | {"safe": [-0.1, 1, 1, 1]}, [], "policy 'a' has -0.1 for 'safe'"),
        (TABLE | {"cost": [9.0] * 4}, [], "every policy costs more than it is worth"),
        ("policy,x\na,1\nb,\n", [], "row 2, has no value of 'x'"),
        ("policy,x\na,1\nb,nan\n", [], "row 2, has no value of 'x'"),
        ("policy,x\na,1\nb,good\n", [], "row 2, has 'good' for 'x': it must be a number"),
        ("policy,x\na,1\n,2\n", [], "row 2, has no policy"),
        ("policy,x\na,1\n", [], "one policy, 'a': there is nothing to choose"),
        ("policy,x\na,1\na,2\n", [], "policy 'a' in two rows"),
        ("policy,x\n", [], "has no rows"),
        ("", [], "cannot be read"),
        ("policy,x\na,1,2\n", [], "cannot be read"),
        ("policy,x,x\na,1,2\nb,1,2\n", [], "two columns 'x'"),
        ("policy\na\nb\n", [], "has no objective"),
        ("Policy,x\na,1\nb,2\n", [], "rename it to 'policy'"),
        ("policy,x,costs\na,1,2\nb,1,2\n", [], "rename it to 'cost'"),
        ("name,x\na,1\nb,2\n", [], "has no column 'policy'"),
        ("policy,prompt,x\na,q,1\nb,q,1\na,r,1\n", [], "no row for policy 'b' with prompt 'r'"),
        ("policy,prompt,x\na,q,1\nb,q,1\na,q,1\n", [], "policy 'a' with prompt 'q' in two rows"),
        ("policy,prompt,x\na,q,1\nb,q,1\n", [], "1 prompts are too few"),
    ],
)
def test_wrong_input_is_refused_in_one_sentence(select, table, arguments, sentence):
    arguments = arguments if "--epsilon" in arguments else ["--epsilon", "0.1", *arguments]
    status, answer, shown = select(table, *arguments)
    assert (status, answer) == (2, None)
    assert sentence in shown
    assert shown.startswith("palette: ") and shown.count("\n") == 1


def test_a_missing_or_unknown_file_is_refused(select, tmp_path):
    for name, sentence in (("none.csv", "does not exist"), ("values.xlsx", "save it as one")):
        result = CliRunner().invoke(commands, ["select", name, "--epsilon", "0.1"])
        assert result.exit_code == 2
        assert sentence in result.stderr
