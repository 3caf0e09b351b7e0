"""`palette certify` on portfolios that the stage wrote, as they are and changed by hand."""

import ast
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from palette import cli, portfolio, tables
from palette.certificates import sealed
from palette.commands.certify import Certify
from palette.commands.certify import certify as command
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
                    | {"logprob": np.log(own[y]), "logprob_base": np.log(base[y])}
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


def change(edit, file: str = FILE) -> None:
    """Change a file by hand."""
    content = json.loads(Path(file).read_text())
    edit(content)
    Path(file).write_text(json.dumps(content))


def change_with_its_digest(edit) -> None:
    content = json.loads(Path(FILE).read_text())
    edit(content)
    del content["digest"]
    Path(FILE).write_text(json.dumps(sealed(content)))


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
    ],
)
def test_a_number_changed_by_hand_is_found_and_named(world, edit, key):
    change_with_its_digest(edit)
    status, out, err = certify()
    assert status == 2
    assert out.startswith("DISAGREES: ")
    assert key in err
    assert "digest" not in err


def pass_at_a_looser_epsilon(content):
    content.update(epsilon=round(content["certificate"]["epsilon_upper"] + 0.01, 2), passed=True)
    content["mend"]["weights"] = []


def lower_the_upper_bound(content):
    content["certificate"]["epsilon_upper"] -= 0.005


def lower_the_worst_upper_bound(content):
    content["worst"]["upper"] -= 0.005


def expect_more_of_mending(content):
    content["mend"]["expected"] = 0.001


def rest_on_nothing(content):
    content["conditions"] = []


def reword_the_advice(content):
    content["mend"]["advice"] += " "


@pytest.fixture(scope="module")
def failed(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("failed")
    shutil.copytree(finished, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_stage(["brevity", "humor", "safety"], epsilon=0.05)
    return folder


@pytest.fixture
def failure(failed, tmp_path, monkeypatch):
    shutil.copytree(failed, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "edit",
    [
        pass_at_a_looser_epsilon,
        lower_the_upper_bound,
        lower_the_worst_upper_bound,
        expect_more_of_mending,
        rest_on_nothing,
        reword_the_advice,
    ],
)
def test_the_digest_shows_any_edit_of_any_number_or_sentence(failure, edit):
    assert certify()[0] == 1
    change(edit)
    status, _, err = certify()
    assert status == 2
    assert "digest" in err


@pytest.mark.parametrize(
    ("edit", "key"),
    [
        (lower_the_upper_bound, "certificate.epsilon_upper"),
        (lower_the_worst_upper_bound, "worst.upper"),
    ],
)
def test_upper_bounds_inside_the_noise_are_found_by_the_very_draws_of_the_file(failure, edit, key):
    change_with_its_digest(edit)
    status, _, err = certify()
    assert status == 2
    assert key in err and "digest" not in err


def test_a_file_without_a_digest_differs(world):
    change(lambda content: content.pop("digest"))
    status, out, err = certify()
    assert (status, out[:13]) == (2, "DISAGREES: 1 ")
    assert "digest" in err and "missing" in err


def test_another_seed_and_other_draws_are_redone_as_the_file_says(world):
    run_stage(["brevity", "humor", "safety"], epsilon=0.3, seed=7, bootstrap=1001)
    assert certify()[0] == 0
    change_with_its_digest(lambda content: content["certificate"].update(seed=8))
    status, _, err = certify()
    assert status == 2
    assert "certificate.epsilon_upper" in err


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


def forget(*keys):
    def edit(content):
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return edit


def put(number, *keys):
    def edit(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = number

    return edit


@pytest.mark.parametrize(
    ("edit", "key"),
    [
        (forget("certificate", "draws"), "certificate.draws"),
        (put(0, "certificate", "draws"), "certificate.draws"),
        (put(True, "certificate", "draws"), "certificate.draws"),
        (forget("certificate", "seed"), "certificate.seed"),
        (put(95, "confidence"), "confidence"),
        (put(1.0, "confidence"), "confidence"),
        (put(1, "epsilon"), "epsilon"),
        (put("0.0", "delta"), "delta"),
        (put(-0.1, "delta"), "delta"),
        (put(float("nan"), "delta"), "delta"),
        (put(True, "beta"), "beta"),
        (put(1, "passed"), "passed"),
        (put("0.1", "certificate", "epsilon_upper"), "certificate.epsilon_upper"),
        (put(float("inf"), "certificate", "epsilon_upper"), "certificate.epsilon_upper"),
        (put(None, "mend"), "mend"),
        (put([{"brevity": 1.0}], "mend", "weights"), "mend.weights.0"),
        (put({"brevity": 1.0, "humor": 0.0}, "worst", "weights"), "worst.weights"),
        (forget("worst", "upper"), "worst.upper"),
        (put([], "cells", 0, "vertices"), "cells.0.vertices"),
        (put("base", "members", 0, "id"), "listed twice"),
    ],
)
def test_a_file_that_is_not_what_the_stage_writes_can_not_be_checked(world, edit, key):
    change(edit)
    status, out, err = certify()
    assert (status, out) == (3, "")
    assert f"({key}" in err or "listed twice" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "edit",
    [
        dict.clear,
        forget("looks"),
        put(0, "looks"),
        put(1.5, "looks"),
        put("0.1", "beta"),
        put({"brevity": 0.0}, "floor"),
        forget("members", 0, "weights", "humor"),
    ],
)
def test_a_plan_that_is_not_what_the_stage_writes_can_not_be_checked(world, edit):
    change(edit, "data/plan/plan.json")
    status, out, err = certify()
    assert (status, out) == (3, "")
    assert "plan.json is not what" in err and len(err.splitlines()) == 1


def test_a_defect_of_the_check_itself_does_not_say_that_the_file_is_right(world, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("one\nline")

    monkeypatch.setattr("palette.checking.review.hardness", fail)
    status, out, err = certify()
    assert (status, out) == (3, "")
    assert err == f"palette: {FILE} could not be checked (ZeroDivisionError: one line)\n"


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["a", "--no"], ["a", "--tolerance", "x"]])
def test_wrong_use_exits_with_3_and_not_with_what_says_that_the_file_differs(arguments):
    app = typer.Typer()
    app.callback()(lambda: None)
    app.command(cls=Certify)(command)
    found = CliRunner().invoke(app, ["certify", *arguments])
    assert found.exit_code == 3
    assert "Usage:" in found.stderr
    assert CliRunner().invoke(app, ["certify", "--help"]).exit_code == 0


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
    change_with_its_digest(set_point)
    assert certify()[0] == 2


def test_a_later_look_is_judged_at_more_confidence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_world(["a", "b"], 3, looks=3)
    content = run_stage(["a", "b"], epsilon=0.3)
    assert content["certificate"]["confidence"] == pytest.approx(1 - 0.05 / 4)
    assert certify()[0] in (0, 1)
    change_with_its_digest(lambda content: content["certificate"].update(confidence=0.95, looks=1))
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
    allowed = ("palette.checking", "palette.schema", "palette.errors", "palette.commands.screen")
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
