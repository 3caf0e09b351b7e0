"""The stage plan: every strategy from scored rollouts to plan.json, and the file of plan.pinned."""

import json

import numpy as np
import polars as pl
import pytest

from palette import pinned, plan, tables
from palette.errors import PaletteError
from palette.params import Params

TRAITS = ["brevity", "humor", "safety"]
PINS = "inputs/plan/pins.csv"


def params_with(delta: float = 0.0, **asked) -> Params:
    traits = {trait: {"kind": trait} for trait in TRAITS}
    asked = {"epsilon": 0.05, "lattice": 8} | asked
    sections = {"plan": asked, "portfolio": {"epsilon": 0.5, "delta": delta}}
    return Params.model_validate({"traits": traits} | sections)


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    splits = ["train"] * 4 + ["select"] * 4
    prompts = pl.DataFrame({"prompt_id": [f"p{i}" for i in range(8)], "split": splits})
    tables.write("prompts", prompts.with_columns(prompt=pl.lit("?"), topic=pl.col("prompt_id")))
    keys = prompts.select("prompt_id").join(pl.DataFrame({"sample": range(30)}), how="cross")
    told = {"response": pl.lit(""), "tokens": pl.lit([1]), "logprob": pl.lit(-1.0)}
    tables.write("rollouts", keys.with_columns(**told))
    z = np.random.default_rng(0).normal(size=(len(keys), 3))
    rewards = 1 / (1 + np.exp(-1.5 * (z - 0.8 * z.mean(axis=1, keepdims=True))))
    for column, trait in enumerate(TRAITS):
        tables.write("rewards", keys.with_columns(reward=rewards[:, column]), trait)
    return tmp_path


def planned(params: Params) -> dict:
    plan.main(params)
    return json.loads((tables.DATA / plan.PLAN).read_text())


def pin(text: str):
    file = plan.Path(PINS)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


@pytest.mark.parametrize("strategy", ["minimal", "lazy", "palm-grid", "uniform", "random"])
def test_every_strategy_writes_a_plan_that_holds_and_twice_the_same(world, strategy):
    epsilon = 0.2  # finer, the grid of PALM has thousands of members
    found = planned(params_with(strategy=strategy, epsilon=epsilon))
    first = (tables.DATA / plan.PLAN).read_bytes()
    assert found["strategy"] == strategy
    assert found["reached"] <= found["epsilon"] == epsilon
    assert found["lower_bound"] <= found["trainings"] == len(found["members"])
    assert found["palm_bound"] > 200 > found["lower_bound"]
    assert (found["looks"], found["max_members"]) == (1, None)
    for member in found["members"]:
        assert sum(round(100 * w) for w in member["weights"].values()) == 100
        assert (member["pinned"], member["round"]) == (False, 0)
    assert len({member["id"] for member in found["members"]}) == found["trainings"]
    planned(params_with(strategy=strategy, epsilon=epsilon))
    assert (tables.DATA / plan.PLAN).read_bytes() == first


@pytest.mark.parametrize("strategy", ["minimal", "lazy", "palm-grid", "uniform", "random"])
def test_a_budget_is_kept_and_written(world, strategy):
    found = planned(params_with(strategy=strategy, epsilon=0.001, max_members=6))
    assert found["max_members"] == 6
    assert 3 <= found["trainings"] <= 6
    assert found["reached"] > 0.001


def test_an_absurd_plan_is_written_with_one_line_of_warning(world, capsys):
    found = planned(params_with(strategy="palm-grid", epsilon=0.2))
    said = capsys.readouterr().err.splitlines()
    assert found["trainings"] > plan.MANY
    assert len(said) == 1
    assert "plan.max_members" in said[0]
    assert f"{found['trainings']} trainings" in said[0]
    planned(params_with(strategy="lazy"))
    assert capsys.readouterr().err == ""


def test_the_portfolios_delta_shapes_palms_grid(world):
    none, some = (
        planned(params_with(delta, strategy="palm-grid", epsilon=0.15)) for delta in (0.0, 0.2)
    )
    assert some["trainings"] < none["trainings"]
    assert some["palm_bound"] < none["palm_bound"]


def test_a_pinned_file_of_traits_alone_is_the_first_look(world):
    pin("safety,brevity,humor\n0.11,0.52,0.37\n0,1,0\n0,1,0\n")
    found = planned(params_with(pinned=PINS))
    fixed = [member for member in found["members"] if member["pinned"]]
    assert [member["id"] for member in fixed] == ["brevity52-humor37-safety11", "brevity100"]
    assert found["looks"] == 1
    assert {member["round"] for member in found["members"]} == {0}


def test_rounds_of_repair_are_counted_as_looks(world):
    pin("brevity,humor,safety,round\n0.5,0.3,0.2,\n0,1,0,1\n0,0,1,2\n1,0,0,0\n")
    found = planned(params_with(pinned=PINS))
    assert found["looks"] == 3
    assert [member["round"] for member in found["members"]][:4] == [0, 1, 2, 0]
    assert {member["round"] for member in found["members"] if not member["pinned"]} <= {2}


def test_a_weight_asked_for_twice_keeps_the_later_round(tmp_path):
    file = tmp_path / "pins.csv"
    file.write_text("a,b,round\n0.5,0.5,0\n1,0,1\n0.5,0.5,3\n")
    weights, rounds = pinned.read(file, ["a", "b"])
    assert weights.tolist() == [[0.5, 0.5], [1, 0]]
    assert rounds.tolist() == [3, 1]


def test_a_file_without_rows_pins_nothing(tmp_path):
    file = tmp_path / "pins.csv"
    file.write_text("a,b\n")
    weights, rounds = pinned.read(file, ["a", "b"])
    assert weights.shape == (0, 2)
    assert rounds.shape == (0,)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "does not exist"),
        ("", "is not a CSV with the columns brevity, humor, safety"),
        ("brevity,humor\n1,0\n", "has the columns brevity, humor, but must have one per trait"),
        ("brevity,humor,safety,rounds\n1,0,0,0\n", "has the columns .*rounds, but must have"),
        ("brevity,humor,safety\n1,0,0\n0.5,0.6,0\n", "line 3 .* add up to 1"),
        ("brevity,humor,safety\n1.5,-0.5,0\n", "line 2 .* at least 0"),
        ("brevity,humor,safety\nmuch,0,0\n", "line 2 "),
        ("brevity,humor,safety\n0.333,0.333,0.334\n", "line 2 .* finer than hundredths"),
        ("brevity,humor,safety,round\n1,0,0,0\n0,1,0,-1\n", "line 3 .* round '-1'"),
        ("brevity,humor,safety,round\n1,0,0,1.5\n", "line 2 .* round '1.5'"),
        ("brevity,humor,safety,round\n1,0,0,first\n", "line 2 .* whole number of at least 0"),
    ],
)
def test_bad_pins_are_refused_in_one_sentence(tmp_path, monkeypatch, text, words):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        pin(text)
    with pytest.raises(PaletteError, match=words) as refused:
        plan.read_pinned(params_with(pinned=PINS))
    assert "\n" not in str(refused.value)
