"""The stages plan and portfolio on a small data/ folder made of numbers alone."""

import hashlib
import json
import shutil

import numpy as np
import polars as pl
import pytest

from palette import arrays, plan, portfolio, tables
from palette.errors import PaletteError
from palette.params import Params

TRAITS = ["brevity", "humor", "safety"]
TOPICS = {"train": 4, "select": 8, "certify": 8, "test": 1}
SAMPLES = {"train": 40, "select": 24, "certify": 24, "test": 2}


def params_with(**sections) -> Params:
    traits = {trait: {"kind": trait} for trait in TRAITS}
    sections.setdefault("plan", {"epsilon": 0.05, "lattice": 8})
    sections.setdefault("portfolio", {"epsilon": 0.2, "bootstrap": 200})
    return Params.model_validate({"traits": traits} | sections)


def answers(rng: np.random.Generator, count: int) -> np.ndarray:
    z = rng.normal(size=(count, 3))
    z -= 0.8 * z.mean(axis=1, keepdims=True)
    return 1 / (1 + np.exp(-1.5 * z))


def write_base(rng: np.random.Generator) -> None:
    prompts = [
        {"prompt_id": f"{split}{t}{i}", "prompt": "?", "topic": f"{split}{t}", "split": split}
        for split, topics in TOPICS.items()
        for t in range(topics)
        for i in range(2)
    ]
    tables.write("prompts", pl.DataFrame(prompts))
    keys = [(p["prompt_id"], s) for p in prompts for s in range(SAMPLES[p["split"]])]
    frame = pl.DataFrame(keys, schema=["prompt_id", "sample"], orient="row")
    told = {"response": pl.lit(""), "tokens": pl.lit([1]), "logprob": pl.lit(-1.0)}
    tables.write("rollouts", frame.with_columns(**told))
    rewards = answers(rng, len(frame))
    for column, trait in enumerate(TRAITS):
        scores = frame.with_columns(pl.Series("reward", rewards[:, column]))
        tables.write("rewards", scores.sample(fraction=1.0, shuffle=True, seed=0), trait)


def write_values(rng: np.random.Generator, chosen: dict) -> None:
    """Members that draw from the ideal policy of their weights among a pool of answers."""
    prompts = tables.read("prompts").filter(pl.col("split").is_in(["select", "certify", "test"]))
    rows = []
    for member in chosen["members"]:
        weights = np.array(list(member["weights"].values()))
        for prompt_id, split in prompts.select("prompt_id", "split").iter_rows():
            pool = answers(rng, 200)
            chance = np.exp(pool @ weights / chosen["beta"])
            chance /= chance.sum()
            for sample, picked in enumerate(rng.choice(200, size=12, p=chance)):
                rewards = {f"reward_{t}": r for t, r in zip(TRAITS, pool[picked], strict=True)}
                row = {"member": member["id"], "prompt_id": prompt_id, "split": split}
                told = {"sample": sample, "response": "", "logprob_base": -2.0}
                rows.append(row | told | {"logprob": np.log(chance[picked] * 200) - 2.0} | rewards)
    tables.write("values", pl.DataFrame(rows))
    write_likelihoods(rng, chosen)


def write_likelihoods(rng: np.random.Generator, chosen: dict) -> None:
    """The certify rollouts under the ideal policy of each member's weights."""
    certify = tables.read("prompts").filter(split="certify")
    rollouts = tables.read_rewards(TRAITS).join(certify, on="prompt_id", how="semi")
    rewards = rollouts.select([f"reward_{trait}" for trait in TRAITS]).to_numpy()
    many, frames = answers(rng, 20_000), []
    for member in chosen["members"]:
        weights = np.array(list(member["weights"].values())) / chosen["beta"]
        tilt = rewards @ weights - np.log(np.exp(many @ weights).mean())
        frame = rollouts.select("prompt_id", "sample", logprob=pl.col("logprob") + tilt)
        frames.append(frame.with_columns(member=pl.lit(member["id"])))
    tables.write("likelihoods", pl.concat(frames).sample(fraction=1.0, shuffle=True, seed=1))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder that every test starts from; planned once. Read only."""
    folder = tmp_path_factory.mktemp("numbers")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        rng = np.random.default_rng(0)
        write_base(rng)
        plan.main(params_with())
        write_values(rng, json.loads((folder / "data/plan/plan.json").read_text()))
    return folder


@pytest.fixture
def world(built, tmp_path, monkeypatch):
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_plan_names_its_members_and_reaches_epsilon(world):
    chosen = json.loads((world / "data/plan/plan.json").read_text())
    assert chosen["trainings"] == len(chosen["members"]) >= chosen["lower_bound"] >= 1
    assert chosen["reached"] <= chosen["epsilon"] == 0.05
    for member in chosen["members"]:
        assert list(member["weights"]) == TRAITS
        assert sum(round(100 * w) for w in member["weights"].values()) == 100
        assert member["id"] == plan.member_id(TRAITS, np.array(list(member["weights"].values())))
    assert plan.member_id(TRAITS, np.array([0.7, 0.3, 0.0])) == "brevity70-humor30"


def test_portfolio_is_complete_consistent_and_repeatable(world):
    params = params_with()
    portfolio.main(params)
    file = world / "data/portfolio/portfolio.json"
    first = file.read_bytes()
    portfolio.main(params)
    assert file.read_bytes() == first
    found = json.loads(first)

    certificate, worst = found["certificate"], found["worst"]
    assert (certificate["prompts"], certificate["topics"]) == (16, 8)
    assert 0 < certificate["epsilon_point"] <= worst["upper"] <= certificate["epsilon_upper"] + 1e-6
    assert found["passed"] == (certificate["epsilon_upper"] <= 0.2)
    assert worst["multiplicative"] == pytest.approx(certificate["epsilon_point"])
    kept = {member["id"]: member for member in found["members"]}
    assert worst["member"] in kept.keys() | {"base"}
    assert {cell["member"] for cell in found["cells"]} <= kept.keys() | {"base"}
    assert found["gap"]["base"] > found["gap"]["single"] > found["certificate"]["epsilon_point"]
    assert 0.5 < found["adapters"]["share_min"] <= found["adapters"]["share_mean"] < 1.2
    assert any("true weights" in said for said in found["conditions"])
    for name, digest in found["provenance"].items():
        assert hashlib.sha256((world / name).read_bytes()).hexdigest() == digest

    # The members' planes are means of the table's select rows, and win where the cells say.
    values = tables.read("values").filter(pl.col("split") == "select")
    for name, member in kept.items():
        rows = values.filter(member=name)
        assert member["values"]["humor"] == pytest.approx(rows["reward_humor"].mean())
        assert member["cost"] == pytest.approx(
            0.1 * (rows["logprob"] - rows["logprob_base"]).mean()
        )
    kept["base"] = found["base"]
    for cell in found["cells"]:
        for vertex in cell["vertices"]:
            worth = {
                name: sum(vertex[t] * m["values"][t] for t in TRAITS) - m["cost"]
                for name, m in kept.items()
            }
            assert worth[cell["member"]] == pytest.approx(max(worth.values()), abs=1e-7)


def read(world) -> dict:
    return json.loads((world / "data/portfolio/portfolio.json").read_text())


def test_a_second_look_at_certify_pays_for_itself(world):
    portfolio.main(params_with())
    first = read(world)
    assert (first["certificate"]["confidence"], first["certificate"]["looks"]) == (0.95, 1)
    told = json.loads((world / "data/plan/plan.json").read_text())
    tables.write_json(world / "data/plan/plan.json", told | {"looks": 3})
    portfolio.main(params_with())
    third = read(world)
    assert third["certificate"]["confidence"] == pytest.approx(0.9875)
    assert third["certificate"]["looks"] == 3
    assert third["confidence"] == 0.95
    assert any(said.startswith("It is look 3 ") for said in third["conditions"])
    if third["members"] == first["members"]:
        assert third["certificate"]["epsilon_upper"] > first["certificate"]["epsilon_upper"]


def test_without_likelihoods_the_bases_rollouts_judge_alone(world):
    portfolio.main(params_with())
    together = read(world)
    (world / "data/values/likelihoods.parquet").unlink()
    portfolio.main(params_with())
    alone = read(world)
    assert alone["certificate"]["epsilon_upper"] is not None
    assert alone["cells"] == together["cells"]
    assert alone["adapters"]["share_mean"] != together["adapters"]["share_mean"]


def test_one_mixture_joins_the_rollouts_and_the_answers_of_each_prompt(world):
    on = arrays.scored(params_with(), ["certify"])
    chosen = json.loads((world / "data/plan/plan.json").read_text())["members"]
    base, *members = arrays.mixtures(params_with(), on, [member["id"] for member in chosen])
    assert base is on.ideal
    for member, ideal in zip(chosen, members, strict=True):
        assert ideal.counts.tolist() == [24 + 12] * 16
        assert ideal.blocks.tolist() == [12] * 16
        assert (np.exp(ideal.log_weights) <= 1.5 + 1e-9).all()
        # The member is the ideal policy of its weights: its weighted samples have equal scores.
        weights = np.array([list(member["weights"].values())])
        assert ideal.value(weights).mean() == pytest.approx(
            on.ideal.value(weights).mean(), abs=0.03
        )
        assert ideal.upward(weights).std() < on.ideal.upward(weights).std()


def test_answers_that_no_rollout_shows_are_warned_of(world):
    portfolio.main(params_with())
    assert not any("miss" in said and "Warning" in said for said in read(world)["conditions"])
    values = tables.read("values")
    told = [pl.lit(1.0).alias(f"reward_{trait}") for trait in TRAITS]
    rare = values.with_columns(*told, logprob_base=-2.0, logprob=-0.5)
    mode = (pl.col("split") == "certify") & (pl.col("sample") % 2 == 0)
    keys = [c for c in values.columns if c.startswith("reward_") or c.startswith("logprob")]
    columns = [pl.when(mode).then(rare[c]).otherwise(pl.col(c)).alias(c) for c in keys]
    tables.write("values", values.with_columns(columns))
    portfolio.main(params_with())
    assert any("kinds that the base's rollouts miss" in said for said in read(world)["conditions"])


def test_thin_samples_are_counted_and_warned_of(world):
    portfolio.main(params_with())
    assert 0 <= read(world)["thin"] < 0.5
    portfolio.main(params_with(objective={"beta": 0.01}))
    found = read(world)
    assert found["thin"] > 0.5
    assert any("raise rollouts.samples.certify" in said for said in found["conditions"])


def test_likelihoods_that_lack_rollouts_are_refused(world):
    likelihoods = tables.read("likelihoods")
    tables.write("likelihoods", likelihoods.head(len(likelihoods) - 3))
    with pytest.raises(PaletteError, match="does not score every rollout under"):
        portfolio.main(params_with())


def test_a_looser_portfolio_keeps_fewer_members(world):
    portfolio.main(params_with())
    tight = json.loads((world / "data/portfolio/portfolio.json").read_text())
    portfolio.main(params_with(portfolio={"epsilon": 0.5, "bootstrap": 200}))
    loose = json.loads((world / "data/portfolio/portfolio.json").read_text())
    assert len(loose["members"]) < len(tight["members"])
    assert loose["passed"]


def test_too_few_topics_give_no_certificate_and_say_so(world):
    prompts = tables.read("prompts").with_columns(
        topic=pl.when(split="certify").then(pl.lit("one")).otherwise("topic")
    )
    tables.write("prompts", prompts)
    portfolio.main(params_with())
    found = json.loads((world / "data/portfolio/portfolio.json").read_text())
    assert found["certificate"]["epsilon_upper"] is None
    assert not found["passed"]
    assert any("add topics" in said for said in found["conditions"])


def test_missing_scores_and_missing_members_are_refused(world):
    values = tables.read("values")
    tables.write("values", values.filter(pl.col("member") != values["member"][0]))
    with pytest.raises(PaletteError, match=r"lacks member '.*' on some prompts"):
        portfolio.main(params_with())
    scores = tables.read("rewards", "humor")
    tables.write("rewards", scores.head(len(scores) - 5), "humor")
    with pytest.raises(PaletteError, match="does not score every rollout"):
        plan.main(params_with())


def test_pinned_weights_are_in_the_plan(world):
    pins = world / "inputs/plan/pins.csv"
    pins.parent.mkdir(parents=True)
    pins.write_text("safety,brevity,humor\n0.11,0.52,0.37\n0,1,0\n0,1,0\n")
    plan.main(params_with(plan={"epsilon": 0.05, "lattice": 8, "pinned": "inputs/plan/pins.csv"}))
    members = json.loads((world / "data/plan/plan.json").read_text())["members"]
    assert [m["id"] for m in members if m["pinned"]] == ["brevity52-humor37-safety11", "brevity100"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "does not exist"),
        ("brevity,humor\n1,0\n", "has the columns brevity, humor, but must have one per trait"),
        ("brevity,humor,safety\n1,0,0\n0.5,0.6,0\n", "line 3 .* add up to 1"),
        ("brevity,humor,safety\n1.5,-0.5,0\n", "line 2 .* at least 0"),
        ("brevity,humor,safety\nmuch,0,0\n", "line 2 "),
        ("brevity,humor,safety\n0.333,0.333,0.334\n", "line 2 .* finer than hundredths"),
        ("", "is not a CSV with the columns brevity, humor, safety"),
    ],
)
def test_bad_pins_are_refused_in_one_sentence(tmp_path, monkeypatch, text, words):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        pins = tmp_path / "inputs/plan/pins.csv"
        pins.parent.mkdir(parents=True)
        pins.write_text(text)
    with pytest.raises(PaletteError, match=words) as refused:
        plan.read_pinned(params_with(plan={"pinned": "inputs/plan/pins.csv"}))
    assert "\n" not in str(refused.value)
