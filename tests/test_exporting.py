"""`palette export vllm` and `hub`: what is written is what was certified, and whole or not at all."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from tiny_chain import PARAMS

from palette import tables
from palette.commands.export import hub, vllm
from palette.errors import PaletteError
from palette.exporting import certified, finished, pages, sameness
from palette.exporting import vllm as exporting
from palette.exporting.finished import Base
from palette.exporting.folder import MANIFEST, whole
from palette.lm import templates
from palette.lm.models import load_base, with_adapters
from palette.params import Params

PIPELINE = {
    "stages": {
        "check": {"cmd": "true", "deps": ["params.yaml"]},
        "evaluation": {
            "cmd": "true", "deps": ["data/base", "data/adapters", "data/portfolio", "data/routes"],
            "outs": ["data/evaluation"],
        },
    }
}  # fmt: skip
"""As much of a pipeline as says what is stale."""
WORDS = "how mend", "haha careful it wipe", "it"


@pytest.fixture(scope="module")
def project(built, tmp_path_factory):
    """The tiny chain as a DVC project that is up to date, exported into `served` and `cards`."""
    folder = tmp_path_factory.mktemp("project") / "chain"
    shutil.copytree(built, folder)
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS.model_dump(mode="json")))
    (folder / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE))
    for words in ("init --no-scm --quiet", "commit --force --quiet"):
        dvc = [sys.executable, "-m", "dvc", *words.split()]
        subprocess.run(dvc, cwd=folder, check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        vllm(Path("served"))
        hub(Path("cards"))
    return folder


@pytest.fixture
def at(project, monkeypatch):
    monkeypatch.chdir(project)
    return project


@pytest.fixture
def run(at):
    """The finished run, not asking DVC again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finished, "require_current", lambda: None)
        return finished.read(PARAMS)


def members(run) -> list[str]:
    return [member.id for member in run.members]


def logits(model, lm) -> torch.Tensor:
    rows = [templates.encode(lm.tokenizer, templates.question(words)) for words in WORDS]
    return torch.cat([model(input_ids=torch.tensor([row])).logits[0] for row in rows])


def test_the_exported_adapters_do_on_a_fresh_base_what_the_projects_own_do(run):
    from peft import PeftModel

    base = load_base("cpu")
    for name in members(run):
        fresh = load_base("cpu")
        theirs = logits(PeftModel.from_pretrained(fresh.model, f"served/adapters/{name}"), fresh)
        own = with_adapters(base, {tables.DATA / "adapters" / name: 1.0})
        torch.testing.assert_close(theirs, logits(own.model, own), atol=1e-5, rtol=1e-5)
        assert (theirs - logits(base.model, base)).abs().max() > 1e-2


def test_what_the_export_compared_is_what_the_certificate_was_made_of(run):
    checked = tables.read_json(Path("served") / MANIFEST)["checked"]
    assert checked["answers"] == 3  # the tiny chain's certify prompts
    assert 0 <= checked["largest"] < 1e-4
    assert 0 <= checked["relative"] < 1e-3


def test_an_adapter_that_is_not_the_certified_one_is_refused(run, tmp_path):
    one, other = (tables.DATA / "adapters" / name for name in members(run)[:2])
    name = one.name
    with pytest.raises(PaletteError, match=f"the adapter of {name} gives other answers"):
        sameness.check(load_base("cpu"), {name: other})
    shutil.copytree(one, tmp_path / "nothing")
    tensors = load_file(one / finished.WEIGHTS)
    nothing = {key: torch.zeros_like(tensor) for key, tensor in tensors.items()}
    save_file(nothing, tmp_path / "nothing" / finished.WEIGHTS)
    with pytest.raises(PaletteError, match="gives other answers"):
        sameness.check(load_base("cpu"), {name: tmp_path / "nothing"})
    with pytest.raises(PaletteError, match="m9 was never scored on certify"):
        sameness.check(load_base("cpu"), {"m9": one})


def test_the_base_is_as_it_was_after_all_adapters_were_tried(run):
    lm, base = load_base("cpu"), load_base("cpu")
    sameness.check(lm, {name: Path("served/adapters") / name for name in members(run)})
    assert torch.equal(logits(lm.model, lm), logits(base.model, base))


def test_the_script_starts_vllm_in_its_folder_with_what_is_asked_besides(run, tmp_path):
    said = tmp_path / "said"
    (tmp_path / "vllm").write_text(f'#!/bin/sh\npwd > {said}\nprintf "%s\\n" "$@" >> {said}\n')
    (tmp_path / "vllm").chmod(0o755)
    subprocess.run(
        [Path("served/serve.sh").resolve(), "--port", "8001"], check=True, cwd=tmp_path,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )  # fmt: skip
    where, *words = said.read_text().splitlines()
    served = Path("served").resolve()
    assert Path(where) == served
    assert words[:2] == ["serve", str(Path("data/base").resolve())]
    options = dict(pairwise(words))
    assert options["--max-lora-rank"] == "8"  # of rank 2: vLLM takes no less
    assert options["--max-loras"] == str(len(run.members))
    assert options["--generation-config"] == "vllm"
    assert json.loads(options["--override-generation-config"]) == {
        "max_new_tokens": PARAMS.rollouts.max_new_tokens
    }
    at, end = words.index("--lora-modules"), words.index("--port")
    modules = dict(word.split("=") for word in words[at + 1 : end])
    assert list(modules) == members(run)
    for name, path in modules.items():
        config = json.loads((served / path / finished.CONFIG).read_text())
        assert config["base_model_name_or_path"] is None, "no path of this machine"
        own = tables.DATA / "adapters" / name / finished.WEIGHTS
        assert (served / path / finished.WEIGHTS).read_bytes() == own.read_bytes()


def test_every_user_has_the_member_of_the_table_routes(run):
    table = pl.read_csv("served/routes.csv")
    assert table.columns == ["user_id", "model"]
    assert dict(table.rows()) == dict(tables.read("routes").select("user_id", "member").rows())
    assert tables.read_json(Path("served/portfolio.json")) == run.portfolio


def test_the_page_says_what_is_certified_and_who_may_see_it(run):
    page = Path("served/README.md").read_text()
    assert certified.verdict(run.portfolio) in page
    for condition in run.portfolio["conditions"]:
        assert f"- {condition}\n" in page
    assert "`routes.csv` names users" in page
    told = re.search(r"^```\n(vllm serve.+?)\n```$", page, re.DOTALL | re.MULTILINE).group(1)
    command = tables.read_json(Path("served") / MANIFEST)["command"]
    assert shlex.split(told.replace("\\\n", " ")) == command
    request = re.search(r"-d '(.+?)'\n", page, re.DOTALL).group(1)
    assert json.loads(request)["max_tokens"] == PARAMS.rollouts.max_new_tokens


def routes(*strengths: float) -> pl.DataFrame:
    users = [f"u{place}" for place in range(len(strengths))]
    return pl.DataFrame({"user_id": users, "member": "m", "strength": strengths})


def worth(**of_methods: list[float]) -> pl.DataFrame:
    return pl.concat(
        pl.DataFrame(
            {"method": name, "user_id": [f"u{i}" for i in range(len(values))], "objective": values}
        )
        for name, values in of_methods.items()
    )


def test_edits_that_are_left_out_are_counted_and_weighed():
    evaluation = worth(portfolio=[0.5, 0.25, 0.1], portfolio_edit=[0.6, 0.25, 0.3])
    told = certified.unserved(routes(0.5, 0.0, 1.0), evaluation)
    assert (told["users"], told["edited"]) == (3, 2)
    assert told["gain"] == pytest.approx(0.15)
    assert "2 of 3 users' routes also have an edit" in told["sentence"]
    assert "0.3000 on average in place of 0.4500 (-0.1500)" in told["sentence"]
    told = certified.unserved(routes(0.0, 0.0, 0.0), evaluation)
    assert (told["edited"], told["gain"]) == (0, None)
    assert "adapters are all that the run serves" in told["sentence"]


def test_the_verdict_says_pass_or_fail_and_the_bound(run):
    base = {"passed": True, "epsilon": 0.05, "delta": 0.0, "traits": ["a", "b"],
            "certificate": {"epsilon_upper": 0.046, "confidence": 0.95}}  # fmt: skip
    assert certified.verdict(base) == (
        "PASS: whatever the weights of a, b, at most 4.60% of the best that any policy could reach "
        "is lost, at confidence 0.95; 5.00% was asked for."
    )
    failed = base | {"passed": False, "delta": 0.01}
    failed["certificate"] = {"epsilon_upper": None, "confidence": 0.975}
    assert certified.verdict(failed) == (
        "FAIL: whatever the weights of a, b, it is not known how much of the best that any policy "
        "could reach is lost, at confidence 0.975; 5.00% and 0.01 was asked for."
    )


class Ranked:
    id = "m"

    def __init__(self, rank):
        self.rank = rank


@pytest.mark.parametrize(("rank", "taken"), [(1, 8), (8, 8), (9, 16), (300, 320), (512, 512)])
def test_vllm_is_told_the_least_rank_that_it_takes(run, rank, taken):
    assert exporting.max_lora_rank(replace(run, members=[Ranked(rank)])) == taken


def test_a_rank_that_vllm_does_not_take_is_refused(run):
    with pytest.raises(PaletteError, match=r"rank 512 at most, and these have 513; lower"):
        exporting.max_lora_rank(replace(run, members=[Ranked(513)]))


def test_a_base_on_a_hub_is_named_by_id_and_commit_wherever_one_is_named(run, tmp_path):
    run = replace(run, base=Base("acme/small", "c0ffee"))
    words = [word for group in exporting.serve(run, templated=True) for word in group]
    assert words[:7] == ["vllm", "serve", "acme/small", "--revision", "c0ffee",
                         "--tokenizer-revision", "c0ffee"]  # fmt: skip
    config = json.loads(run.members[0].files(run.base)[finished.CONFIG])
    assert (config["base_model_name_or_path"], config["revision"]) == ("acme/small", "c0ffee")
    card = pages.card(run, run.members[0])
    assert card.data.base_model == "acme/small"
    assert 'from_pretrained("acme/small", revision="c0ffee")' in card.text


def test_a_base_without_a_chat_template_gets_the_one_that_the_run_used(run, tmp_path):
    lm = load_base("cpu")
    lm.tokenizer.chat_template = None
    words = [word for group in exporting.serve(run, templated=False) for word in group]
    assert words[words.index("--chat-template") + 1] == exporting.TEMPLATE
    assert templates.for_servers(lm.tokenizer) == templates.PLAIN


def test_the_reference_of_a_base_elsewhere_is_read(at, monkeypatch, tmp_path):
    assert finished.read_base() == Base(str(Path("data/base").resolve()), None)
    monkeypatch.chdir(tmp_path)
    file = Path("data/base/reference.json")
    tables.write_json(file, {"model": "acme/small", "revision": "c0ffee", "files": {}})
    assert finished.read_base() == Base("acme/small", "c0ffee")
    assert finished.read_base().hub_id == "acme/small"
    Path("models").mkdir()
    tables.write_json(file, {"model": "models", "revision": None, "files": {"a": "b"}})
    assert finished.read_base() == Base(str(tmp_path / "models"), None)
    assert finished.read_base().hub_id is None


def test_every_member_has_a_card_of_its_own(run):
    assert sorted(path.name for path in Path("cards").iterdir()) == sorted(
        [MANIFEST, *members(run)]
    )
    base = run.portfolio["base"]["values"]
    for member in run.members:
        folder = Path("cards") / member.id
        card = ModelCard.load(folder / "README.md")
        assert (card.data.library_name, card.data.base_model) == ("peft", None)
        assert f"# {member.id}\n" in card.text
        for trait, weight in member.told["weights"].items():
            row = f"| {trait} | {weight:.2f} | {base[trait]:.3f} | {member.told['values'][trait]:.3f} |"
            assert row in card.text
        assert certified.verdict(run.portfolio) in card.text
        for condition in run.portfolio["conditions"]:
            assert f"- {condition}\n" in card.text
        own = [c["vertices"] for c in run.portfolio["cells"] if c["member"] == member.id]
        corners = [f"\n| {vertex['brevity']:.3f} |" for cell in own for vertex in cell]
        assert corners and all(corner in card.text for corner in corners)
        assert {path.name for path in folder.iterdir()} == {
            "README.md", finished.CONFIG, finished.WEIGHTS
        }  # fmt: skip


def test_what_is_published_tells_of_no_user_and_no_path(run):
    users = tables.read("users")["user_id"].to_list()
    for file in Path("cards").rglob("*"):
        if file.suffix in (".md", ".json"):
            text = file.read_text()
            assert not re.search(rf"\b({'|'.join(users)})\b", text), file
            assert str(Path.cwd()) not in text, file


def test_nothing_but_an_earlier_export_is_replaced(tmp_path):
    target = tmp_path / "there"
    with whole(target, force=False) as part:
        (part / MANIFEST).write_text("{}")
    refuses(target, False, "is not empty; name another folder, or")
    with whole(target, force=True) as part:
        (part / MANIFEST).write_text("{}")
        (part / "new").write_text("")
    assert sorted(path.name for path in target.iterdir()) == [MANIFEST, "new"]
    (target / MANIFEST).unlink()
    refuses(target, True, "something else than an earlier export")
    (tmp_path / "file").write_text("")
    refuses(tmp_path / "file", True, "is a file; name a folder")
    assert (target / "new").exists()


def refuses(target: Path, force: bool, why: str) -> None:
    with pytest.raises(PaletteError, match=why), whole(target, force):
        pass


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "there"
    with pytest.raises(PaletteError), whole(target, force=False) as part:
        (part / "half").write_text("")
        raise PaletteError("it stops here")
    assert list(target.parent.iterdir()) == []
    with whole(target, force=False) as part:
        (part / MANIFEST).write_text("{}")
    with pytest.raises(KeyboardInterrupt), whole(target, force=True):
        raise KeyboardInterrupt
    assert [path.name for path in target.parent.iterdir()] == ["there"]
    assert [path.name for path in target.iterdir()] == [MANIFEST]


def test_a_run_that_is_stale_or_missing_is_not_exported(at, tmp_path, monkeypatch):
    folder = tmp_path / "project"
    shutil.copytree(at, folder)
    monkeypatch.chdir(folder)
    changed = PARAMS.model_copy(
        update={"runtime": PARAMS.runtime.model_copy(update={"threads": 2})}
    )
    Path("params.yaml").write_text(yaml.safe_dump(changed.model_dump(mode="json")))
    finished.require_current()  # only stage check is stale: runtime changes no artifact
    config = tables.DATA / "adapters" / "note.txt"
    config.write_text("somebody was here")
    with pytest.raises(
        PaletteError, match=r"not up to date \(evaluation changed\); run `dvc repro`"
    ):
        hub(Path("out"))
    shutil.rmtree(tables.DATA / "portfolio")
    with pytest.raises(PaletteError, match=r"portfolio\.json does not exist; run `dvc repro`"):
        hub(Path("out"))
    assert not Path("out").exists()
    shutil.rmtree(".dvc")
    with pytest.raises(PaletteError, match=r"DVC cannot tell.*not inside of a DVC repository"):
        finished.require_current()


def test_a_run_that_the_base_alone_serves_has_nothing_to_export(at, monkeypatch):
    monkeypatch.setattr(finished, "require_current", lambda: None)
    alone = tables.read_json(tables.DATA / "portfolio/portfolio.json") | {"members": []}
    monkeypatch.setattr(tables, "read_json", lambda file: alone)
    with pytest.raises(PaletteError, match="the base alone serves every user"):
        finished.read(PARAMS)


def test_what_the_commands_print(at, capsys, monkeypatch):
    monkeypatch.setattr(finished, "require_current", lambda: None)
    vllm(Path("again"))
    said = capsys.readouterr().out
    assert "wrote again: " in said and "serve them with again/serve.sh" in said
    assert re.search(r"of 3 answers of each differ by \d\S* nats at most", said)
    assert re.search(r"^(PASS|FAIL): whatever the weights", said, re.MULTILINE)
    shutil.rmtree("again")
    hub(Path("again"))
    assert "add a license" in capsys.readouterr().out
    shutil.rmtree("again")


def test_traits_are_told_with_their_parameters():
    told = pages.meanings(
        Params.model_validate({"traits": {"short": {"kind": "brevity", "best": 8}}})
    )
    assert told["short"].startswith("Brevity") and told["short"].endswith("(best = 8)")
