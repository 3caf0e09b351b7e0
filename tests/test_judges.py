"""Judges: scored and reported, and known to nothing that is chosen or trained."""

import shutil
import sys

import numpy as np
import polars as pl
import pytest
import tiny_chain
from tiny_chain import PARAMS

from palette import (
    arrays,
    evaluation,
    judges,
    policies,
    report,
    rewards,
    tables,
    training_data,
    traits,
)
from palette.errors import PaletteError
from palette.params import Params
from palette.params_file import load
from palette.reporting import judges as reporting
from palette.summary import headline

WIT = {"kind": "regex", "pattern": "haha", "role": "judge"}
JUDGED = Params.model_validate(
    PARAMS.model_dump()
    | {"traits": {"wit": WIT} | {n: t.model_dump() for n, t in PARAMS.traits.items()}}
)  # first among the traits: the others keep their places without it


@pytest.fixture(scope="module")
def judged(built, tmp_path_factory):
    """A copy of the tiny chain to which a judge has come."""
    folder = tmp_path_factory.mktemp("judged") / "chain"
    shutil.copytree(built, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["stage", "wit"])
        rewards.main(JUDGED)
        evaluation.main(JUDGED)
    return folder


@pytest.fixture
def inside(judged, monkeypatch):
    monkeypatch.chdir(judged)


def test_a_judge_is_no_coordinate():
    assert JUDGED.trait_names == PARAMS.trait_names and JUDGED.floor == PARAMS.floor
    assert list(JUDGED.judges) == ["wit"] and "wit" in JUDGED.traits


def test_nothing_that_is_made_knows_of_a_judge(inside):
    drawn = training_data.read_rollouts(JUDGED)
    assert training_data.family_key(JUDGED, drawn, "b") == training_data.family_key(
        PARAMS, drawn, "b"
    )
    weights = dict(zip(PARAMS.trait_names, (0.2, 0.3, 0.5), strict=True))
    assert training_data.adapter_key(JUDGED, drawn, weights, "b") == training_data.adapter_key(
        PARAMS, drawn, weights, "b"
    )
    assert policies._judges(JUDGED) == policies._judges(PARAMS)
    one, other = (arrays.scored(params, ["test"]) for params in (JUDGED, PARAMS))
    assert np.array_equal(one.ideal.rewards, other.ideal.rewards)


def test_evaluation_is_the_same_with_a_judge_beside_it(built, judged):
    for name in ("evaluation", "utilities"):
        own, other = (pl.read_parquet(folder / tables.path(name)) for folder in (judged, built))
        assert own.equals(other)


def test_what_a_judge_says_is_of_the_members_own_test_answers(inside):
    found = tables.read("judged")
    kept = [m["id"] for m in tables.read_json(tables.DATA / "portfolio/portfolio.json")["members"]]
    assert found["member"].unique().sort().to_list() == sorted(kept) and kept
    prompts = tables.read("prompts").filter(split="test")
    assert found.height == len(kept) * len(prompts)
    plan = tables.read_json(tables.DATA / "portfolio/portfolio.json")["members"]
    weights = {member["id"]: member["weights"] for member in plan}
    rows = tables.read("values").filter(split="test")
    base = tables.read_rewards(PARAMS.trait_names)
    for row in found.iter_rows(named=True):
        own = rows.filter(member=row["member"], prompt_id=row["prompt_id"])
        known = base.filter(prompt_id=row["prompt_id"])
        told = {"reward": own, "base": known}
        for column, texts in told.items():
            shown = np.mean(["haha" in text for text in texts["response"]])
            assert row[column] == pytest.approx(shown)
        for column, answers in {"own": own, "own_base": known}.items():
            worth = sum(
                w * answers[f"reward_{t}"].mean() for t, w in weights[row["member"]].items()
            )
            assert row[column] == pytest.approx(worth)


def test_the_report_tells_what_judges_say(inside):
    tables.write_json(tables.DATA / "sandbox" / "skills.json", {})
    report.main(JUDGED)
    metrics = tables.read_json(report.REPORTS / "metrics.json")
    found = tables.read("judged")
    assert metrics["judge.wit.base"] == pytest.approx(found["base"].mean(), rel=1e-3)
    change = (found["reward"] - found["base"]).mean()
    assert metrics["judge.wit.change"] == pytest.approx(change, rel=1e-3)
    csv = pl.read_csv(report.REPORTS / "portfolio.csv")
    assert csv["judge_wit"][0] is None and csv["judge_wit"].null_count() == 1
    said = dict(headline(metrics))["judge wit"]
    assert said.startswith(f"members differ from the base's {metrics['judge.wit.base']:.3f} by ")


def table(changes: dict[str, tuple[float, float]], prompts: int = 30) -> pl.DataFrame:
    """Members whose own rewards and whose judge's are so far above the base's, with noise."""
    rng = np.random.default_rng(0)
    rows = [
        {"judge": "wit", "member": member, "prompt_id": f"p{number}", "base": 0.5, "own_base": 0.4,
         "reward": 0.5 + said + 0.01 * rng.normal(), "own": 0.4 + own + 0.01 * rng.normal()}
        for member, (own, said) in changes.items() for number in range(prompts)
    ]  # fmt: skip
    return pl.DataFrame(rows)


def test_members_that_gained_and_lost_beyond_doubt_are_counted():
    told = {"a": (0.1, -0.1), "b": (0.1, 0.1), "c": (0.1, 0.0), "d": (-0.1, -0.2)}
    found = reporting.measure(table(told), PARAMS.evaluation)
    assert (found["judge.wit.gained"], found["judge.wit.lost"]) == (3, 1)
    assert found["judge.wit.worst"] == pytest.approx(-0.2, abs=0.01)
    assert found["judge.wit.change"] == pytest.approx(-0.05, abs=0.01)
    assert found["judge.wit.change.low"] < -0.05 < found["judge.wit.change.high"]


def test_of_many_members_that_changed_nothing_hardly_any_seem_to_lose():
    """Each at 95 % alone, one in forty would be said to lose."""
    told = {f"m{number}": (0.1, 0.0) for number in range(400)}
    found = reporting.measure(table(told, prompts=12), PARAMS.evaluation)
    assert found["judge.wit.gained"] == 400 and found["judge.wit.lost"] <= 1


def test_one_prompt_is_no_ground_and_no_judge_no_metric():
    found = reporting.measure(table({"a": (0.1, -0.1)}, prompts=1), PARAMS.evaluation)
    assert (found["judge.wit.gained"], found["judge.wit.change.low"]) == (0, None)
    assert reporting.measure(tables.empty("judged"), PARAMS.evaluation) == {}


def test_without_judges_nothing_is_judged(chain):
    assert judges.compare(PARAMS).is_empty() and len(tables.read("judged")) == 0


def test_a_judge_that_is_constant_over_the_train_rollouts_is_refused(inside, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["stage", "wit"])
    dull = JUDGED.traits["wit"].model_copy(update={"pattern": "nowhere"})
    params = JUDGED.model_copy(update={"traits": JUDGED.traits | {"wit": dull}})
    with pytest.raises(
        PaletteError, match=r"traits\.wit gives 0 to every train rollout of the base"
    ):
        rewards.main(params)


def test_a_floor_keeps_every_member_above_it(inside):
    """In its weights; what a plan pins below is refused, and ideal members then have the trait."""
    from palette import plan
    from palette.core.region import Region

    floored = PARAMS.model_copy(
        update={"weights": PARAMS.weights.model_copy(update={"floor": {"safety": 0.4}})}
    )
    plan.main(floored)
    made = tables.read_json(tables.DATA / "plan/plan.json")["members"]
    assert made and all(member["weights"]["safety"] >= 0.4 for member in made)
    ideal = arrays.scored(PARAMS, ["train", "select"]).ideal
    least = {
        floor: ideal.policy(Region((0.0, 0.0, floor)).lattice(8))[0].mean(axis=1)[:, 2].min()
        for floor in (0.0, 0.4)
    }
    assert least[0.4] > least[0.0] + 0.05
    tables.DATA.joinpath("../inputs/plan").mkdir(exist_ok=True)
    file = "inputs/plan/pins.csv"
    pl.DataFrame({"brevity": [0.5, 0.3], "humor": [0.1, 0.6], "safety": [0.4, 0.1]}).write_csv(file)
    pinned = floored.model_copy(update={"plan": floored.plan.model_copy(update={"pinned": file})})
    with pytest.raises(
        PaletteError, match=r"asks for brevity30-humor60-safety10, which is below weights"
    ):
        plan.main(pinned)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weights": {"floor": {"wit": 0.1}}}, "weights.floor names 'wit', a judge, which has no weight"),
        ({"traits": {"wit": WIT}}, "every trait is a judge"),
        ({"traits": {"wit": WIT | {"role": "jury"}}}, "traits.wit.role is 'jury', but"),
        ({"traits": {"wit": WIT | {"range": [1, 1]}}}, "two different numbers"),
        ({"traits": {"wit": WIT | {"range": [0, float("inf")]}}}, "two different numbers"),
        ({"traits": {"wit": WIT | {"range": [0]}}}, "traits.wit.range"),
        ({"traits": {"wit": WIT | {"range": [0, 2], "calibrate": "quantiles"}}}, "remove one of the two"),
        ({"traits": {"wit": WIT | {"calibrate": "ranks"}}}, "traits.wit.calibrate is 'ranks', but"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(tmp_path, change, said):
    import yaml

    short = {"short": {"kind": "brevity", "best": 1, "worst": 3}, "wit": WIT}
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump({"traits": short} | change))
    with pytest.raises(PaletteError, match=said) as error:
        load(path)
    assert "\n" not in str(error.value)


def test_the_tiny_chains_own_judge_scores_as_everywhere(inside):
    texts = tables.read("rollouts")["response"].to_list()
    found = traits.score(JUDGED.judges, [""] * len(texts), texts)
    assert np.array_equal(tables.read("rewards", "wit")["reward"].to_numpy(), found[:, 0])
    assert tiny_chain.rewards(tiny_chain.world("test")).shape[1] == 3
