"""Schemas: what does not fit is neither written nor read; docs/artifacts.md says what is there."""

import re
from pathlib import Path

import polars as pl
import pytest
from tiny_chain import PARAMS

from palette import base, tables
from palette.check import main as check
from palette.errors import PaletteError
from palette.params import Params

DOCUMENT = Path(__file__).parents[1] / "docs" / "artifacts.md"
TYPES = {
    pl.String: "text", pl.Float64: "number", pl.Int64: "whole number",
    pl.Boolean: "true or false", pl.List(pl.Int64): "list of whole numbers",
    pl.List(pl.Int32): "list of whole numbers",
}  # fmt: skip
NAMED = {
    "provenance": "FILE", "files": "FILE", "clusters": "CLUSTER", "silhouettes": "NUMBER",
    "layers": "GROUP", "ccs_loss": "GROUP",
}  # fmt: skip
"""path of a JSON object whose keys are no fields → what its keys are called"""
JSON = (
    "check/params.json", "preferences/chooser.json", "subspaces/layers.json", "plan/plan.json",
    "portfolio/portfolio.json",
)  # fmt: skip


def sections() -> dict[str, dict[str, tuple[str, str]]]:
    """File under data/ → its documented columns or fields: type and meaning."""
    text = DOCUMENT.read_text(encoding="utf-8")
    found = {}
    for heading in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        file = re.match(r"`data/(.+)`\n", heading).group(1)
        assert file not in found, f"{file} is documented twice"
        rows = re.findall(r"^\| `(.+?)` \| (.+?) \| (.+) \|$", heading, flags=re.MULTILINE)
        found[file] = {name: (kind, meaning.replace(r"\|", "|")) for name, kind, meaning in rows}
        assert len(found[file]) == len(rows), f"{file} has a name twice"
    return found


@pytest.mark.parametrize("name", tables.TABLES)
def test_every_column_is_documented_as_it_is(name):
    table = tables.TABLES[name]
    told = {key: (TYPES[kind], meaning) for key, (kind, meaning) in table.columns.items()}
    told |= {f"{prefix}TRAIT": ("number", said) for prefix, said in table.per_trait.items()}
    assert sections()[table.file.format(trait="TRAIT")] == told


def test_nothing_else_is_documented():
    known = {table.file.format(trait="TRAIT") for table in tables.TABLES.values()}
    others = {
        *JSON, "base/reference.json", "traits/TRAIT.json", "sandbox/skills.json",
        "subspaces/directions.safetensors",
    }  # fmt: skip
    assert set(sections()) == known | others


def fields(content, path="") -> set[str]:
    """Dotted paths of JSON, with every trait as TRAIT, group as GROUP and file as FILE."""
    if content == []:
        return {f"{path}[]"}
    if isinstance(content, list):
        return set().union(*(fields(item, f"{path}[]") for item in content))
    if not isinstance(content, dict):
        return {path}
    found = set()
    for key, value in content.items():
        name = "TRAIT" if key in PARAMS.traits else key
        name = NAMED.get(path, name)
        found |= fields(value, f"{path}.{name}".lstrip("."))
    return found


@pytest.mark.parametrize("file", JSON[1:])
def test_every_field_that_a_stage_writes_is_documented_and_no_other(chain, file):
    content = tables.read_json(chain / "data" / file)
    found, told = fields(content), set(sections()[file])
    empty = {path for path in found if path.endswith("[]")} - told  # lists that this run left empty
    within = {path for path in told if any(path.startswith(f"{e}.") for e in empty)}
    assert found - empty == told - within
    assert all(any(path.startswith(e) for path in within) for e in empty)


def test_a_reference_and_the_check_are_documented(tmp_path, monkeypatch):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    said = base.reference(str(tmp_path), None)
    assert fields(said) == set(sections()["base/reference.json"])
    monkeypatch.chdir(tmp_path)
    traits = {"size": {"kind": "python", "function": "size:score", "calibrate": "quantiles"}}
    (tmp_path / "inputs/traits").mkdir(parents=True)
    (tmp_path / "inputs/traits/size.py").write_text("def score(): ...")
    check(Params.model_validate({"traits": traits}))
    assert fields(tables.read_json(tables.DATA / JSON[0])) == set(sections()[JSON[0]])
    made_of = tables.read_json(tables.DATA / "traits/size.json")
    assert fields(made_of) == set(sections()["traits/TRAIT.json"])


def test_the_tensors_are_documented_as_they_are(chain):
    from safetensors.torch import load_file

    tensors = load_file(chain / "data/subspaces/directions.safetensors")
    told = sections()["subspaces/directions.safetensors"]
    of_other_methods = {name for name, (_, said) in told.items() if ":" in said} - {
        name for name, (_, said) in told.items() if said.startswith("gradient:")
    }
    assert set(tensors) == set(told) - of_other_methods
    for name, tensor in tensors.items():
        assert tensor.dim() == told[name][0].count(",") + 1


def test_the_chain_writes_every_table_and_nothing_of_this_machine(chain):
    for name in tables.TABLES:
        for trait in PARAMS.trait_names if name == "rewards" else [None]:
            frame = tables.read(name, trait)
            may_be_empty = ("rejected", "dropped", "hidden", "revealed", "judged", "training")
            assert name in may_be_empty or len(frame)
            assert tables.read(name, trait).schema == tables.empty(name, PARAMS.trait_names).schema
    for file in (chain / "data").rglob("*"):
        if file.is_file():
            assert str(chain).encode() not in file.read_bytes(), file
            assert file.suffix not in (".tmp", ".part"), file


@pytest.fixture
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


RATED = {"prompt_id": ["p"], "sample": [0], "reward": [1]}


def test_a_table_is_written_with_its_columns_and_types_alone(inside):
    tables.write("rewards", pl.DataFrame(RATED | {"note": ["x"]}), "humor")
    found = tables.read("rewards", "humor")
    assert found.schema == {"prompt_id": pl.String, "sample": pl.Int64, "reward": pl.Float64}
    assert tables.path("rewards", "humor") == Path("data/rewards/humor.parquet")
    assert [file.name for file in Path("data/rewards").iterdir()] == ["humor.parquet"]


@pytest.mark.parametrize(
    ("name", "frame", "lacking"),
    [
        ("rewards", {"prompt_id": ["p"], "sample": [0]}, "reward"),
        ("hidden", {"user_id": ["u"], "taste": ["t"]}, r"w_\*"),
        ("hidden", {"w_humor": [1.0]}, "user_id, taste"),
    ],
)
def test_a_frame_without_a_column_is_neither_written_nor_read(inside, name, frame, lacking):
    with pytest.raises(PaletteError, match=f"lacks the columns {lacking}"):
        tables.write(name, pl.DataFrame(frame), "humor")
    target = tables.path(name, "humor")
    assert not target.exists()
    target.parent.mkdir(parents=True)
    pl.DataFrame(frame).write_parquet(target)
    with pytest.raises(PaletteError, match=f"lacks the columns {lacking}"):
        tables.read(name, "humor")


def test_what_is_missing_or_damaged_is_named_with_the_cure(inside):
    plan = tables.DATA / "plan.json"
    for read in (lambda: tables.read("prompts"), lambda: tables.read_json(plan)):
        with pytest.raises(PaletteError, match=r"^data/.* does not exist; run `dvc repro`"):
            read()
    target = tables.path("prompts")
    target.parent.mkdir(parents=True)
    target.write_bytes(b"PAR1 half a file")
    with pytest.raises(PaletteError, match=r"^data/.* is damaged; delete it and run `dvc repro`$"):
        tables.read("prompts")


def test_a_failed_write_leaves_the_old_table(inside, monkeypatch):
    tables.write("rewards", pl.DataFrame(RATED), "humor")
    before = tables.path("rewards", "humor").read_bytes()

    def full(self, target):
        Path(target).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(OSError, match="no space"):
        tables.write("rewards", pl.DataFrame(RATED | {"reward": [0]}), "humor")
    assert tables.path("rewards", "humor").read_bytes() == before


def test_the_rewards_of_all_traits_stand_beside_their_rollouts(chain):
    frame = tables.read_rewards(PARAMS.trait_names)
    assert len(frame) == len(tables.read("rollouts"))
    for trait in PARAMS.trait_names:
        own = dict(((p, s), r) for p, s, r in tables.read("rewards", trait).rows())
        pairs = frame.select("prompt_id", "sample", f"reward_{trait}").rows()
        assert all(own[prompt, sample] == reward for prompt, sample, reward in pairs)


def test_json_keeps_its_order_and_letters(inside):
    content = {"z": 1, "a": [1.5, None, True], "ε": "δ"}
    path = tables.write_json(tables.DATA / "x" / "y.json", content)
    assert list(tables.read_json(path).items()) == list(content.items())
    assert "ε" in path.read_text(encoding="utf-8")
    assert path.read_bytes().endswith(b"}\n")
    assert tables.write_json(path, content).read_bytes() == path.read_bytes()
