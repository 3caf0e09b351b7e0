"""DVC cannot see imports or reads: a stage's own of both must be among its deps, and no others.

A missing one means that a change goes unnoticed, a needless one that stages run in vain.
"""

import ast
import json
import shutil
from functools import cache
from pathlib import Path

import polars as pl
import pytest
from reads import recorded
from tiny_chain import PARAMS

from palette import policies, report, revealed, subspaces, tables, traits
from palette.consistency import trait_kinds
from palette.errors import PaletteError
from palette.measuring import Policy
from palette.params import Trait
from palette.params_file import load

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
CALLED = {"tuning base": "tuning", "tuning members": "tuning_members"}
"""stage of tests/tiny_chain.py → its name in dvc.yaml, where that is another"""
UNREAD = {"check", "base"}
"""They read nothing under data/, and are none of the tiny chain's."""
ORDER = "data/check/params.json"
"""Every stage waits for it, and none reads it: params.yaml is refused before anything is touched."""
TRAITS = "data/traits"
"""Stands for what traits are made of elsewhere: none reads it, and whoever scores depends on it."""


@cache
def imports(path: Path) -> frozenset[str]:
    """Dotted names that a file imports, inside functions too; `from a import b` gives a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports are not followed"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def file_of(name: str) -> Path | None:
    """The file of a first-party module or package."""
    stem = SOURCE / name.replace(".", "/")
    return next((p for p in (stem.with_suffix(".py"), stem / "__init__.py") if p.is_file()), None)


@cache
def closure(module: str) -> dict[str, Path]:
    """A first-party module, its packages and all that these import, directly or not."""
    found, ahead = {}, [module]
    while ahead:
        name = ahead.pop()
        if name in found or (path := file_of(name)) is None:
            continue
        found[name] = path
        ahead += [*imports(path), *([name.rpartition(".")[0]] if "." in name else [])]
    return found


@cache
def stages() -> dict[str, dict]:
    """Of every stage that runs a module of palette: that module, its deps and params."""
    from dvc.repo import Repo

    with Repo(str(ROOT)) as repo:
        return {
            stage.name: {
                "module": stage.cmd.split(" -m ")[1].split()[0],
                "deps": [ROOT / dep.def_path for dep in stage.deps if not hasattr(dep, "params")],
                "outs": [out.def_path for out in stage.outs],
                "params": [key for dep in stage.params for key in dep.params],
            }
            for stage in repo.index.stages
            if stage.cmd and " -m palette." in stage.cmd
        }


def trait_files(params: list[str]) -> set[Path]:
    """The modules that palette.traits loads by name for a stage with these params.

    And what any kind imports: dvc.yaml cannot tell the kinds of its `foreach` apart.
    """
    traits = load(ROOT / "params.yaml").traits
    named = {key.split(".")[1] for key in params if key.startswith("traits.")}
    kinds = {file_of(f"palette.traits.{kind}") for kind in trait_kinds()}
    imported = {
        path for kind in trait_kinds() for path in closure(f"palette.traits.{kind}").values()
    }
    return imported - kinds | {
        file_of(f"palette.traits.{traits[name].kind}") for name in named or traits
    }


def needed(stage: dict) -> set[Path]:
    modules = closure(stage["module"])
    files = set(modules.values())
    return files | trait_files(stage["params"]) if "palette.traits" in modules else files


def covers(dep: Path, file: Path) -> bool:
    return dep == file or dep in file.parents


def relative(files: set[Path]) -> list[str]:
    return sorted(str(file.relative_to(ROOT)) for file in files)


def test_the_walk_sees_imports_inside_functions_and_of_packages():
    found = closure("palette.cli")
    assert {"palette", "palette.params", "palette.tables", "palette.summary"} <= set(found)
    assert not {"palette.base", "palette.adapters"} & set(found)


def test_every_stage_is_looked_at():
    assert {"base", "users", "insights", "plan", "adapters", "portfolio"} <= set(stages())
    assert any(name.startswith("rewards@") for name in stages())


@pytest.mark.parametrize("name", stages())
def test_every_import_is_a_dep(name):
    stage = stages()[name]
    files = needed(stage)
    missing = {file for file in files if not any(covers(dep, file) for dep in stage["deps"])}
    assert not missing, f"add to deps of {name}: {relative(missing)}"


@pytest.mark.parametrize("name", stages())
def test_no_dep_on_code_that_is_not_imported(name):
    stage = stages()[name]
    code = {
        dep
        for dep in stage["deps"]
        if dep.suffix == ".py" or (SOURCE in dep.parents and any(dep.glob("**/*.py")))
    }
    idle = {dep for dep in code if not any(covers(dep, file) for file in needed(stage))}
    assert not idle, f"drop from deps of {name}: {relative(idle)}"


def test_every_file_of_code_that_is_no_module_is_a_dep_of_the_report():
    files = {
        file for file in (SOURCE / "palette").rglob("*")
        if file.is_file() and file.suffix not in (".py", ".pyc") and file.parent.name != "exporting"
    }  # fmt: skip
    deps = stages()["report"]["deps"]
    assert any(file.suffix == ".js" for file in files)
    assert not {file for file in files if not any(covers(dep, file) for dep in deps)}


def test_scoring_one_trait_depends_on_no_other():
    traits = {path for path in (SOURCE / "palette/traits").glob("*.py") if path.stem != "__init__"}
    for name, stage in stages().items():
        if name.startswith("rewards@"):
            assert len(traits & set(stage["deps"])) == 1


def test_whoever_scores_knows_what_the_traits_are_made_of():
    for name, stage in stages().items():
        if name != "check" and "palette.traits" in closure(stage["module"]):
            own = f"/{name.partition('@')[2]}.json" if name.startswith("rewards@") else ""
            assert ROOT / f"{TRAITS}{own}" in stage["deps"], name


def test_a_traits_code_is_no_dep_of_what_it_does_not_change():
    """Change one trait → its own scoring, preferences and what follows: nothing before."""
    before = ("base", "prompts", "users", "insights", "subspaces", "rollouts")
    folder = SOURCE / "palette/traits"
    for name in before:
        assert not [d for d in stages()[name]["deps"] if d == folder or folder in d.parents], name


@pytest.mark.parametrize(
    "path", sorted((SOURCE / "palette/core").glob("*.py")), ids=lambda p: p.stem
)
def test_core_knows_neither_prefect_nor_dvc_nor_stages(path):
    modules = closure(f"palette.core.{path.stem}")
    names = {name for file in modules.values() for name in imports(file)}
    assert not {name.split(".")[0] for name in names} & {"prefect", "dvc", "flows"}
    outside = {n for n in modules if not n.startswith("palette.core")}
    assert outside <= {"palette", "palette.errors"}


def test_stages_are_plain_python():
    for name, stage in stages().items():
        names = {n for file in closure(stage["module"]).values() for n in imports(file)}
        assert not {n.split(".")[0] for n in names} & {"prefect", "dvc", "flows"}, name


@pytest.fixture(scope="module")
def reads(built, tmp_path_factory) -> dict[str, set[str]]:
    """Stage, by its name in dvc.yaml → files under data/ that it read, with any params.

    Those of the tiny chain, and what its params and its world leave unread: texts of the method
    `style-vector`, what is revealed of true weights, a member that is asked anew; and the report.
    """
    found = {
        CALLED.get(name, name): set(files)
        for name, files in json.loads((built / "reads.json").read_text()).items()
    }
    folder = tmp_path_factory.mktemp("deps") / "chain"
    shutil.copytree(built, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with recorded() as files, pytest.raises(PaletteError, match="yes and no alike"):
            traits.score_one("it", Trait(kind="rubric", sentence="it"), ["how"], ["it"])
        for scorer in ("rewards", "preferences"):
            found[scorer] |= files  # a rubric asks the base; this one knows neither word
        tables.write_json(tables.DATA / "sandbox" / "skills.json", {})
        with recorded() as files:
            report.main(PARAMS)
        found["report"] = files
        style = PARAMS.subspaces.model_copy(update={"method": "style-vector"})
        with recorded() as files:
            subspaces.main(PARAMS.model_copy(update={"subspaces": style}))
        found["subspaces"] |= files
        weights = {f"w_{name}": pl.lit(1 / 3) for name in PARAMS.trait_names}
        tables.write("hidden", tables.read("users").with_columns(taste=pl.lit("x"), **weights))
        patch.setattr(revealed, "FOLDS", 2)
        with recorded() as files:
            assert len(revealed.compare(PARAMS))
        found["evaluation"] |= files
        first = tables.read_json(tables.DATA / "plan" / "plan.json")["members"][0]["id"]
        member = Policy(((str(tables.DATA / "adapters" / first), 1.0),))
        asked = tables.read("prompts").filter(split="test").head(1)
        with recorded() as files:  # where a user has an edit on a member, evaluation asks it anew
            policies.worth(PARAMS, [member], asked, {}, "a member")
        found["evaluation"] |= files
    return found


def data_of(name: str, reads: dict[str, set[str]]) -> tuple[set[Path], set[Path]]:
    """The files that a stage of dvc.yaml reads, without its own outputs; and its deps on data."""
    stage = stages()[name]
    outs = [Path(out) for out in stage["outs"]]
    files = {Path(file) for file in reads[name.partition("@")[0]]}
    deps = {dep.relative_to(ROOT) for dep in stage["deps"]} - {Path(ORDER)}
    deps = {dep for dep in deps if not covers(Path(TRAITS), dep)}
    return (
        {file for file in files if not any(covers(out, file) for out in outs)},
        {dep for dep in deps if dep.parts[0] == "data"},
    )


def test_every_stage_has_its_reads_recorded(reads):
    assert {name.partition("@")[0] for name in stages()} == set(reads) | UNREAD
    silent = {name for name, files in reads.items() if not files}
    assert silent == {"prompts", "users"}  # what they read is under inputs/
    assert {"data/base/config.json", "data/subspaces/directions.safetensors"} <= reads["tuning"]


@pytest.mark.parametrize("name", sorted(set(stages()) - UNREAD))
def test_every_file_of_data_that_a_stage_reads_is_a_dep(name, reads):
    files, deps = data_of(name, reads)
    missing = sorted(str(file) for file in files if not any(covers(dep, file) for dep in deps))
    assert not missing, f"add to deps of {name}: {missing}"


@pytest.mark.parametrize("name", sorted(set(stages()) - UNREAD))
def test_no_dep_on_data_that_is_not_read(name, reads):
    files, deps = data_of(name, reads)
    idle = sorted(str(dep) for dep in deps if not any(covers(dep, file) for file in files))
    assert not idle, f"drop from deps of {name}: {idle}"


def test_only_the_evaluation_knows_true_weights():
    hidden = ROOT / "data/users/hidden.parquet"
    assert [name for name, stage in stages().items() if hidden in stage["deps"]] == ["evaluation"]
