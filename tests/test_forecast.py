"""`palette cost --plan`: a run reckoned before it starts, without weights and without a run."""

import json
import re
import shutil
from pathlib import Path

import pytest
import tiny_models
import torch
import transformers
import yaml
from tiny_chain import PARAMS
from typer.testing import CliRunner

from palette import forgotten, tables, workload
from palette.cli import commands
from palette.commands import forecast
from palette.core import compute
from palette.core.compute import ACCELERATORS
from palette.errors import PaletteError
from palette.lm.shapes import shape
from palette.params import Params
from palette.workload import Facts

PAGE = Path(__file__).parents[1] / "docs" / "your-own.md"


LARGE = {
    "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192,
    "eos_token_id": 0, "architectures": ["LlamaForCausalLM"],
}  # fmt: skip
"""The shape of Llama 3.1 8B."""


def save_shape(folder: Path) -> None:
    """The config of a model of 8 × 10⁹ parameters, and a tokenizer: no weights."""
    transformers.LlamaConfig(**LARGE).save_pretrained(folder)
    tiny_models._bytes_tokenizer().save_pretrained(folder)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """The defaults with a large base; nothing has run."""
    save_shape(tmp_path / "large")
    told = {
        "base": {"model": "large"},
        "traits": {"brevity": {"kind": "brevity"}, "humor": {"kind": "humor"}},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(told))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def said(*words: str) -> str:
    result = CliRunner().invoke(commands, ["cost", "--plan", *words])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_large_base_is_reckoned_without_its_weights_and_nothing_is_written(project):
    before = sorted(project.rglob("*"))
    out = said()
    assert sorted(project.rglob("*")) == before
    assert "The base has 8.03 G parameters" in out
    rows = {line.split("  ")[0].strip(): line for line in out.splitlines()}
    assert {"insights", "rollouts", "family", "values", "baselines", "the whole"} <= set(rows)
    assert "a plan of 20 members: the stage plan will tell" in out
    gigabytes = float(re.search(r"one worker holds about ([\d.]+) GB", out)[1])
    assert 32 < gigabytes < 80


def hours(out: str) -> float:
    return float(re.search(r"([\d.,]+) hours on one", out)[1].replace(",", ""))


def test_hours_follow_the_accelerator_the_users_and_the_members(project):
    least = hours(said("--members", "5"))
    assert hours(said("--members", "40")) > least
    assert hours(said("--members", "5", "--users", "2800")) > 3 * least
    assert hours(said("--members", "5", "--utilisation", "0.6")) == pytest.approx(
        least / 2, abs=0.01
    )
    assert (
        hours(said("--members", "5", "--on", "B200"))
        < least
        < hours(said("--members", "5", "--on", "A100"))
    )
    assert "it does not fit on one" not in said("--on", "H200")


def test_an_accelerator_that_nobody_knows_is_refused(project):
    with pytest.raises(PaletteError, match="use one of A100, H100, H200, B200, MI300X"):
        forecast.show(
            Params.model_validate(yaml.safe_load(Path("params.yaml").read_text())),
            None,
            None,
            "T4",
            0.3,
        )


def test_after_a_run_its_plan_and_clusters_are_counted(chain, tmp_path, monkeypatch):
    (tmp_path / "data").symlink_to(chain / "data")
    (tmp_path / "inputs").symlink_to(chain / "inputs")
    (tmp_path / "params.yaml").write_text(json.dumps(PARAMS.model_dump(mode="json")))
    monkeypatch.chdir(tmp_path)
    model, tokenizer = forecast.base(PARAMS)
    assert next(model.parameters()).device.type == "meta"
    facts, notes = forecast.gather(PARAMS, tokenizer)
    assert notes == []
    assert facts.members == len(json.loads(Path("data/plan/plan.json").read_text())["members"])
    assert facts.prompts == {"train": 3, "select": 3, "certify": 3, "test": 2}
    assert (facts.users, facts.told, facts.rows) == (7, 5, 12)
    out = said("--users", "7000")
    assert "for 7,000 users with 12,000 rows" in out
    (tmp_path / "inputs").unlink()
    shutil.copytree(chain / "inputs", "inputs")
    forgotten.add([tables.read("histories")["user_id"][0]])
    assert forecast.gather(PARAMS, tokenizer)[0].users == 6  # as stage `users` will count them


def test_the_page_states_what_is_reckoned():
    """The tables of docs/your-own.md, recomputed."""
    with torch.device("meta"):
        large = shape(
            transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**LARGE))
        )
    kinds = {name: {"kind": name} for name in ("brevity", "humor", "safety")}
    params = Params.model_validate({
        "traits": kinds, "rollouts": {"max_new_tokens": 256}, "subspaces": {"groups": "clusters"}
    })  # fmt: skip
    facts = Facts(
        {"train": 96, "select": 40, "certify": 96, "test": 32}, users=1, told=1, rows=20,
        question=60, row=150, members=20, kept=20, clusters=8,
    )  # fmt: skip
    on, page = ACCELERATORS["H100"], PAGE.read_text(encoding="utf-8")
    rows = {
        line.split("|")[1].strip(): line.split("|")[2:4]
        for line in page.splitlines()
        if "|" in line
    }
    for column, users in enumerate((50_000, 100_000_000)):
        made = forecast.forecast(params, large, facts.of(users), on, 0.3)
        compared = sum(made.seconds[name] for name in forecast.COMPARING)
        own = sum(s for name, s in made.per_user.items() if name not in forecast.COMPARING)
        rest = sum(made.seconds.values()) - compared - own * users
        settings = params.adapters.model_copy(
            update={"kind": "members", "steps": params.baselines.training, "rloo_steps": 0}
        )
        each = workload.training(settings, 60, 256, 3, users)
        alone = compute.seconds(large, each, 316, 16, on, 0.3)
        bytes_each = 4 * 16 * large.adapted
        stated = {
            "rollouts, family, values, tuning: whatever the number of users": f"{rest / 3600:.1f}",
            "insights and readings of every user": f"{own * users / 3600:,.0f}",
            "baselines and evaluation: methods compared for every user": f"{compared / 3600:,.0f}",
            "beside it: an adapter of their own for every user, 120 supervised steps":
                f"{alone / 3600:,.0f}",
            "the portfolio": f"{20 * bytes_each / 1e9:.1f} GB",
            "one for every user": f"{users * bytes_each / 1e12:,.{1 if users < 1e6 else 0}f} TB",
        }  # fmt: skip
        for name, text in stated.items():
            assert rows[name][column].strip() == text, name
    assert f"({own:.1f} s each)" in page
    assert f"({sum(made.per_user[name] for name in forecast.COMPARING):.1f} s each)" in page
