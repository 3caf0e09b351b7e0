"""`palette certify` on portfolios that the stage wrote, as they are and changed by hand."""

import ast
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from palette import cli, portfolio, tables
from palette.params import Params

BETA = 0.1
PROMPTS = {"select": 10, "certify": 12}
ROLLOUTS, ANSWERS, RESPONSES = 24, 12, 40
FILE = "data/portfolio/portfolio.json"
SOURCE = Path(__file__).parents[1] / "src/palette"


def write_world(traits: list[str], members: int, likelihoods: bool = True, looks: int = 1) -> None:
    """Prompts of finitely many responses, so that every log-probability is exact."""
    rng = np.random.default_rng(len(traits))
    chosen = [np.full(len(traits), 1 / len(traits)), *np.eye(len(traits)), *np.eye(len(traits))]
    ids = [f"m{k}" for k in range(members)]
    names = [f"reward_{trait}" for trait in traits]
    plan = [
        {"id": name, "weights": dict(zip(traits, map(float, weights), strict=True))}
        for name, weights in zip(ids, chosen[:members], strict=True)
    ]
    tables.write_json(
        tables.DATA / portfolio.PLAN,
        {
            "beta": BETA,
            "traits": traits,
            "floor": dict.fromkeys(traits, 0.0),
            "looks": looks,
            "members": plan,
        },
    )
    prompts, rollouts, values, scored = [], [], [], []
    for split, count in PROMPTS.items():
        for row in range(count):
            key = f"{split}{row}"
            topic = f"{split}{max(row, 1)}"  # one topic has two prompts
            prompts.append({"prompt_id": key, "prompt": "?", "topic": topic, "split": split})
            rewards = rng.uniform(size=(RESPONSES, len(traits)))
            base = rng.dirichlet(np.ones(RESPONSES) * 3)
            drawn = rng.choice(RESPONSES, size=ROLLOUTS, p=base)
            rollouts += [
                {"prompt_id": key, "sample": s, "response": "", "tokens": [1]}
                | {"logprob": float(np.log(base[y]))}
                | dict(zip(names, rewards[y], strict=True))
                for s, y in enumerate(drawn)
            ]
            for name, weights in zip(ids, chosen, strict=False):
                own = base * np.exp(rewards @ weights / BETA)
                own = 0.8 * own / own.sum() + 0.2 * base
                kl = float((own * np.log(own / base)).sum())
                scored += [
                    {
                        "member": name,
                        "prompt_id": key,
                        "sample": s,
                        "logprob": float(np.log(own[y])),
                    }
                    for s, y in enumerate(drawn)
                    if split == "certify"
                ]
                values += [
                    {"member": name, "prompt_id": key, "split": split, "sample": s, "response": ""}
                    | {"kl": kl, "logprob": np.log(own[y]), "logprob_base": np.log(base[y])}
                    | dict(zip(names, rewards[y], strict=True))
                    for s, y in enumerate(rng.choice(RESPONSES, size=ANSWERS, p=own))
                ]
    tables.write("prompts", pl.DataFrame(prompts))
    frame = pl.DataFrame(rollouts)
    tables.write("rollouts", frame)
    for trait, name in zip(traits, names, strict=True):
        scores = frame.select("prompt_id", "sample", reward=name)
        tables.write("rewards", scores.sample(fraction=1.0, shuffle=True, seed=0), trait)
    tables.write("values", pl.DataFrame(values) if members else tables.empty("values", traits))
    if likelihoods and members:
        tables.write("likelihoods", pl.DataFrame(scored))


def run_stage(traits: list[str], epsilon: float, **asked) -> dict:
    kinds = ["brevity", "humor", "safety"]
    traits = {trait: {"kind": kinds[place % 3]} for place, trait in enumerate(traits)}
    asked = {"epsilon": epsilon, "bootstrap": 2000} | asked
    portfolio.main(
        Params.model_validate(
            {"traits": traits, "objective": {"beta": BETA}, "portfolio": asked}
            | {"plan": {"epsilon": 0.01}}
        )
    )
    return json.loads(Path(FILE).read_text())


def certify(*arguments: str):
    """(exit status, stdout, stderr)"""
    found = CliRunner().invoke(cli.commands, ["certify", FILE, *arguments], env={"COLUMNS": "200"})
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found.exit_code, found.stdout, found.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Three traits, four members, likelihoods: a folder to copy."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_world(["brevity", "humor", "safety"], members=4)
        run_stage(["brevity", "humor", "safety"], epsilon=0.3)
    return folder


@pytest.fixture
def world(finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def change(edit) -> None:
    """Change the file by hand."""
    content = json.loads(Path(FILE).read_text())
    edit(content)
    Path(FILE).write_text(json.dumps(content))


def test_a_right_file_agrees_whether_it_passed_or_failed(world):
    status, out, err = certify()
    assert (status, err) == (0, "")
    assert out.startswith("agrees: PASS, epsilon at most 0.")
    assert len(out.splitlines()) == 1
    run_stage(["brevity", "humor", "safety"], epsilon=0.05)
    status, out, _ = certify()
    assert status == 1
    assert out.startswith("agrees: FAIL")


def test_the_mixture_decides_and_not_the_base_alone(world):
    mixed = json.loads(Path(FILE).read_text())["certificate"]["epsilon_point"]
    tables.path("likelihoods").unlink()
    status, _, err = certify()
    assert status == 2
    assert "certificate.epsilon_point" in err
    alone = run_stage(["brevity", "humor", "safety"], epsilon=0.3)["certificate"]["epsilon_point"]
    assert abs(alone - mixed) > 1e-4
    assert certify()[0] == 0


def set_upper(content):
    content["certificate"]["epsilon_upper"] *= 0.7


def set_point(content):
    content["certificate"]["epsilon_point"] -= 1e-4


def set_value(content):
    content["members"][0]["values"]["humor"] += 1e-4


def set_share(content):
    content["members"][-1]["share"] = 0.99


def set_passed(content):
    content["passed"] = False


def move_corner_out_of_its_cell(content):
    corner = content["cells"][0]["vertices"][0]
    content["cells"][0]["vertices"][0] = {"brevity": 1.0, "humor": 0.0, "safety": 0.0}
    if corner["brevity"] > 0.99:
        content["cells"][0]["vertices"][0] = {"brevity": 0.0, "humor": 1.0, "safety": 0.0}


def pull_corner_inward(content):
    corners = content["cells"][0]["vertices"]
    for trait in corners[0]:
        middle = sum(corner[trait] for corner in corners) / len(corners)
        corners[0][trait] += 0.01 * (middle - corners[0][trait])


def drop_cell(content):
    del content["cells"][0]


def swap_members(content):
    first, second = content["cells"][0], content["cells"][-1]
    first["member"], second["member"] = second["member"], first["member"]


def take_another_worst(content):
    content["worst"]["weights"] = {"brevity": 0.2, "humor": 0.3, "safety": 0.5}


def set_looks(content):
    content["certificate"]["looks"] = 2


def set_thin(content):
    content["thin"] = 0.999


def set_gap(content):
    content["gap"]["base"] -= 0.01


def set_hash(content):
    content["provenance"]["data/values/values.parquet"] = "0" * 64


def set_beta(content):
    content["beta"] = 0.2


def rename_member(content):
    content["members"][0]["id"] = "another"


def forget_a_key(content):
    del content["worst"]["upper"]


@pytest.mark.parametrize(
    ("edit", "key"),
    [
        (set_upper, "certificate.epsilon_upper"),
        (set_point, "certificate.epsilon_point"),
        (set_value, "values.humor"),
        (set_share, ".share"),
        (set_passed, "passed"),
        (move_corner_out_of_its_cell, "cells.0.vertices.0"),
        (pull_corner_inward, "cells "),
        (drop_cell, "cells "),
        (swap_members, "cells.0.vertices"),
        (take_another_worst, "worst.weights"),
        (set_looks, "certificate.looks"),
        (set_thin, "thin"),
        (set_gap, "gap.base"),
        (set_hash, "provenance.data/values/values.parquet"),
        (set_beta, "beta"),
        (rename_member, "members.another"),
        (forget_a_key, "worst.upper"),
    ],
)
def test_a_number_changed_by_hand_is_found_and_named(world, edit, key):
    change(edit)
    status, out, err = certify()
    assert status == 2
    assert out.startswith("DISAGREES: ")
    assert key in err


def test_a_table_changed_afterwards_is_found(world):
    values = tables.read("values")
    tables.write("values", values.with_columns(reward_humor=pl.col("reward_humor") * 0.9))
    status, _, err = certify()
    assert status == 2
    assert "provenance.data/values/values.parquet" in err
    assert "values.humor" in err


def test_tables_elsewhere_are_named_by_data(world, monkeypatch):
    (world / "data").rename(world / "kept")
    (world / "data/portfolio").mkdir(parents=True)
    (world / "kept/portfolio/portfolio.json").rename(world / FILE)
    assert certify("--data", "kept")[0] == 0
    status, out, err = certify()
    assert (status, out) == (3, "")
    assert (
        err
        == f"palette: {world / 'data/plan/plan.json'} does not exist; run `dvc repro` to make it\n"
    )


def test_what_can_not_be_checked_is_said_in_one_sentence_with_status_3(world):
    assert certify("--tolerance", "2")[0] == 3
    for text in ("{}", "no json", "[]", '{"traits": ["a"], "members": 3}'):
        Path(FILE).write_text(text)
        status, out, err = certify()
        assert (status, out) == (3, "")
        assert err.startswith("palette: ") and len(err.splitlines()) == 1
    Path(FILE).unlink()
    assert "does not exist" in certify()[2]


@pytest.mark.parametrize(
    ("traits", "epsilon", "kept"),
    [(["a"], 0.2, 1), (["a", "b"], 0.2, 3), (["a", "b", "c"], 0.95, 0)],
)
def test_one_trait_two_traits_and_the_base_alone(tmp_path, monkeypatch, traits, epsilon, kept):
    monkeypatch.chdir(tmp_path)
    write_world(traits, members=3)
    content = run_stage(traits, epsilon, delta=0.01)
    assert len(content["members"]) == kept
    status, _, err = certify()
    assert (status, err) == (0 if content["passed"] else 1, "")
    change(set_point)
    assert certify()[0] == 2


def test_a_later_look_is_judged_at_more_confidence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_world(["a", "b"], 3, looks=3)
    content = run_stage(["a", "b"], epsilon=0.3)
    assert content["certificate"]["confidence"] == pytest.approx(1 - 0.05 / 4)
    assert certify()[0] in (0, 1)
    change(lambda content: content["certificate"].update(confidence=0.95, looks=1))
    assert "certificate.looks" in certify()[2]


def test_no_upper_bound_from_one_topic_is_agreed_upon(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_world(["a", "b"], 3)
    tables.write("prompts", tables.read("prompts").with_columns(topic=pl.lit("one")))
    assert run_stage(["a", "b"], epsilon=0.3)["certificate"]["epsilon_upper"] is None
    status, out, _ = certify()
    assert status == 1
    assert "without an upper bound" in out


def test_the_check_shares_nothing_with_what_it_checks():
    allowed = ("palette.checking", "palette.schema", "palette.errors")
    files = [*(SOURCE / "checking").glob("*.py"), SOURCE / "commands/certify.py"]
    assert len(files) > 5
    for file in [*files, SOURCE / "schema.py", SOURCE / "errors.py"]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                assert not name.startswith("palette") or name.startswith(allowed), (file, name)
