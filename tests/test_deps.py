"""DVC cannot see imports: every stage's first-party imports must be among its deps, and no others.

A missing one means that a change goes unnoticed, a needless one that stages run in vain.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

from palette.params_file import load

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"


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
                "params": [key for dep in stage.params for key in dep.params],
            }
            for stage in repo.index.stages
            if stage.cmd and " -m palette." in stage.cmd
        }


def trait_files(params: list[str]) -> set[Path]:
    """The modules that palette.traits loads by name for a stage with these params."""
    traits = load(ROOT / "params.yaml").traits
    named = {key.split(".")[1] for key in params if key.startswith("traits.")}
    return {file_of(f"palette.traits.{traits[name].kind}") for name in named or traits}


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
        if dep.suffix == ".py" or (dep.is_dir() and SOURCE in dep.parents)
    }
    idle = {dep for dep in code if not any(covers(dep, file) for file in needed(stage))}
    assert not idle, f"drop from deps of {name}: {relative(idle)}"


def test_scoring_one_trait_depends_on_no_other():
    traits = {path for path in (SOURCE / "palette/traits").glob("*.py") if path.stem != "__init__"}
    for name, stage in stages().items():
        if name.startswith("rewards@"):
            assert len(traits & set(stage["deps"])) == 1


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
