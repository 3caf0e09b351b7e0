"""What dvc.lock says against the working tree: which stages it no longer fits. Needs no data.

A clone that has git's files alone can tell: a stage is stale if its command, a parameter or a file of
git's is not as locked, or if it was made from another artifact than its upstream stage has locked.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from palette.errors import PaletteError
from palette.review.changes import differing, flat, worded

if TYPE_CHECKING:
    from dvc.dependency import Dependency, ParamsDependency
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc.stage import Stage
    from dvc_data.hashfile.hash_info import HashInfo


@dataclass(frozen=True)
class Staleness:
    """Which stages `dvc repro` would run."""

    stale: dict[str, list[str]]
    """stage → why dvc.lock does not fit it, in the order in which stages run"""
    after: list[str]
    """stages that come after these, and run if what these make is new"""

    def by_reason(self) -> dict[str, list[str]]:
        """Why → the stages: one file is often read by many."""
        found: dict[str, list[str]] = {}
        for stage, why in self.stale.items():
            for reason in why:
                found.setdefault(reason, []).append(stage)
        return found


@contextmanager
def opened(root: Path) -> Iterator["Repo"]:
    """The DVC project in a folder.

    Raises:
        PaletteError: there is none, or DVC cannot read its files.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            yield repo
    except DvcException as error:
        said = " ".join(str(error).split())
        raise PaletteError(f"DVC cannot read the project in {root.resolve()}: {said}") from error


def staleness(repo: "Repo") -> Staleness:
    """Compare dvc.lock with dvc.yaml, params.yaml and git's files; data may be missing."""
    import networkx as nx

    graph = repo.index.graph  # edges lead from a stage to what it needs
    made = {out.fs_path: out for out in repo.index.outs}
    order = [stage for stage in nx.dfs_postorder_nodes(graph) if stage.cmd]
    stale = {stage: found for stage in order if (found := _reasons(stage, made))}
    after = set().union(*(nx.ancestors(graph, stage) for stage in stale))
    return Staleness(
        {stage.addressing: found for stage, found in stale.items()},
        [stage.addressing for stage in order if stage in after and stage not in stale],
    )


def cached(repo: "Repo", md5: str | None) -> Path | None:
    """The file with this content in DVC's cache on this machine, if it is there."""
    if md5 is None:
        return None
    path = Path(repo.cache.local.oid_to_path(md5))
    return path if path.is_file() else None


def _reasons(stage: "Stage", made: dict[str, "Output"]) -> list[str]:
    from dvc.dependency import ParamsDependency

    if not any(out.hash_info for out in stage.outs):
        return ["it has never run: dvc.lock does not have it"]
    found = ["its command is another"] if stage.changed_stage() else []
    for dep in stage.deps:
        if isinstance(dep, ParamsDependency):
            found += _params(dep)
        elif not dep.hash_info:
            found.append(f"dvc.lock does not have {dep}")
        elif (locked := _locked(dep, made)) is None:
            found += [f"{path} is {what}" for path, what in dep.status().items()]
        elif locked != dep.hash_info:
            found.append(f"{dep} is another than it was made from")
    for out in stage.outs:
        if not out.use_cache:  # tracked by git, so it must be here
            found += [f"{path} is {what}" for path, what in out.status().items()]
    return found


def _params(dep: "ParamsDependency") -> list[str]:
    locked, now = flat(dep.hash_info.value or {}), flat(dep.read_params())
    return [
        f"{key} is {worded(new)}, locked as {worded(old)}"
        for key, old, new in differing(locked, now)
    ]


def _locked(dep: "Dependency", made: dict[str, "Output"]) -> "HashInfo | None":
    """The hash that dvc.lock has for a dep as the output of stages; None if no stage makes it.

    A folder that several stages fill is hashed from what each puts there. Where only a cache could
    tell what is in a stage's folder, and there is none, it is taken to be as it was.
    """
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    if dep.fs_path in made:
        return made[dep.fs_path].hash_info
    inside = [out for path, out in made.items() if dep.fs.isin(path, dep.fs_path)]
    around = [out for path, out in made.items() if dep.fs.isin(dep.fs_path, path)]
    if any(out.hash_info.isdir for out in inside):
        return dep.hash_info
    if inside:
        tree = Tree()
        for out in inside:
            tree.add(dep.fs.relparts(out.fs_path, dep.fs_path), out.meta, out.hash_info)
        tree.digest()
        return tree.hash_info
    if around:
        folder, parts = around[0].get_obj(), dep.fs.relparts(dep.fs_path, around[0].fs_path)
        return folder.get(parts, (None, HashInfo()))[1] if folder else dep.hash_info
    return None
