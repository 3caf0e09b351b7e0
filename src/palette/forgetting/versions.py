"""Takes users out of DVC's cache and the default remote: old versions of what held them.

Which objects held a user is read in them, and what was made from such an object is told by what DVC has
written down: the run-cache, dvc.lock, and every dvc.lock that git has. An object that a run without the
user made as well, byte for byte, stays, unless the user can be read in it.
"""

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from palette.errors import PaletteError
from palette.forgetting import Step
from palette.forgetting.holding import holds
from palette.review import lock

FIRST = "users"
"""The stage that reads histories: no other makes anything of them that it has not from there."""
LOCK = "dvc.lock"
FOLDER = ".dir"
"""How the md5 of a folder ends, whose object lists its files."""


@dataclass(frozen=True)
class Run:
    """What a stage was made from and what it made, as DVC wrote it down."""

    deps: frozenset[str]
    """md5 of each"""
    outs: dict[str, str]
    """md5 → path"""
    files: tuple[tuple[Any, str], ...] = ()
    """(file system, path) of the run-cache's notes of it"""


@dataclass
class Place:
    """Where objects lie: the cache, or a remote."""

    name: str
    fs: Any
    odb: Any
    runs: str
    """folder of the run-cache"""
    objects: set[str] = field(default_factory=set)


def steps(root: Path, users: Collection[str], clone: Path) -> Iterator[Step]:
    """A step for the cache and one for the default remote, if they hold something of users.

    Args:
        clone: the worker's clone, whose dvc.lock is read too where there is one.

    Raises:
        PaletteError: there is no project, or DVC cannot read it or reach the remote.
    """
    with lock.opened(root) as repo:
        try:
            yield from _steps(repo, root, users, clone)
        except OSError as error:
            said = " ".join(str(error).split()) or type(error).__name__
            raise PaletteError(f"DVC's cache or its remote cannot be read: {said}") from error


def _steps(repo: Any, root: Path, users: Collection[str], clone: Path) -> Iterator[Step]:
    places = list(_places(repo))
    runs = [
        *(run for place in places for run in _cached_runs(place)),
        *(run for text in _locks(root, clone) for run in _locked_runs(text)),
    ]
    runs = [_opened(run, places) for run in runs]
    derived = _derived(repo)
    skipped = _unrelated(runs, derived)
    holding: set[str] = set()
    seen: set[str] = set()
    for place in places:
        for md5 in sorted(place.objects - seen - skipped):
            with place.fs.open(place.odb.oid_to_path(md5), "rb") as file:
                if holds(file, users):
                    holding.add(md5)
        seen |= place.objects
    tainted, clean = spread(runs, holding)
    made = {md5 for run in tainted for md5 in run.outs}
    gone = holding | (made - {md5 for run in clean for md5 in run.outs})
    for place in places:
        objects = sorted(gone & place.objects)
        notes = [path for run in tainted for fs, path in run.files if fs is place.fs]
        if objects or notes:
            what = f"{len(objects):,} objects, {len(notes):,} notes of runs"
            paths = [*notes, *(place.odb.oid_to_path(md5) for md5 in objects)]
            yield Step(place.name, what, partial(_remove, place.fs, paths))


def spread(runs: Iterable[Run], holding: Collection[str]) -> tuple[list[Run], list[Run]]:
    """The runs that were made from objects that hold users, or made some; and the other runs."""
    found, left, reached = list[Run](), list(runs), set(holding)
    while True:
        parts: tuple[list[Run], list[Run]] = [], []
        for run in left:
            parts[bool(run.deps & reached or set(run.outs) & set(holding))].append(run)
        left, new = parts
        if not new:
            return found, left
        found += new
        reached |= {md5 for run in new for md5 in run.outs}


def _places(repo: Any) -> Iterator[Place]:
    local = repo.cache.local
    legacy = repo.cache.legacy
    runs = legacy.fs.join(legacy.path, "runs")
    yield Place("DVC's cache", local.fs, local, runs, set(local.all()))
    if repo.config["core"].get("remote") is None:
        return
    remote = repo.cloud.get_remote()
    if (
        remote.worktree
        or remote.config.get("version_aware")
        or getattr(remote.fs, "version_aware", False)
    ):
        raise PaletteError(
            f"remote '{remote.name}' keeps versions of its own (version_aware or worktree): delete "
            "the user's there, and make another remote the default one"
        )
    runs = remote.fs.join(remote.legacy_odb.path, "runs")
    found = set(remote.odb.all()) if remote.fs.exists(remote.odb.path) else set()
    yield Place(f"remote '{remote.name}'", remote.fs, remote.odb, runs, found)


def _cached_runs(place: Place) -> Iterator[Run]:
    if not place.fs.exists(place.runs):
        return
    for path in place.fs.find(place.runs):
        with place.fs.open(path, "rb") as file:
            yield _run(_loaded(file.read()), ((place.fs, path),))


def _locked_runs(text: bytes) -> Iterator[Run]:
    for stage in ((_loaded(text) or {}).get("stages") or {}).values():
        yield _run(stage)


def _run(stage: dict[str, Any], files: tuple[tuple[Any, str], ...] = ()) -> Run:
    deps = frozenset(md5 for dep in stage.get("deps") or () if (md5 := dep.get("md5")))
    outs = {md5: out["path"] for out in stage.get("outs") or () if (md5 := out.get("md5"))}
    return Run(deps, outs, files)


def _opened(run: Run, places: list[Place]) -> Run:
    """The run with the files of the folders that it made."""
    folders = {md5: path for md5, path in run.outs.items() if md5.endswith(FOLDER)}
    inside = {
        entry["md5"]: f"{path}/{entry['relpath']}"
        for md5, path in folders.items()
        for entry in _entries(md5, places)
    }
    return replace(run, outs=inside | run.outs) if inside else run


def _entries(md5: str, places: list[Place]) -> list[dict[str, str]]:
    for place in places:
        if md5 in place.objects:
            with place.fs.open(place.odb.oid_to_path(md5), "rb") as file:
                return json.load(file)
    return []


def _loaded(text: bytes) -> Any:
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _locks(root: Path, clone: Path) -> Iterator[bytes]:
    """Every dvc.lock that is at hand: the working trees', and those of all commits."""
    import git

    for path in (root / LOCK, clone / LOCK):
        if path.exists():
            yield path.read_bytes()
    for folder in (root, clone):
        try:
            repo = git.Repo(folder, search_parent_directories=folder == root)
            inside = folder.resolve().relative_to(Path(repo.working_tree_dir or folder).resolve())
            name = (inside / LOCK).as_posix()
            blobs = {
                blob.hexsha: blob
                for commit in repo.iter_commits("--all", paths=name)
                for blob in [_blob(commit, name)]
                if blob is not None
            }
        except (git.InvalidGitRepositoryError, git.NoSuchPathError, ValueError):
            continue
        for blob in blobs.values():
            yield blob.data_stream.read()


def _blob(commit: Any, name: str) -> Any:
    try:
        return commit.tree / name
    except KeyError:
        return None


def _derived(repo: Any) -> set[str] | None:
    """Paths of what stages make that come from FIRST, itself included; None where it is not there."""
    import networkx as nx

    graph = repo.index.graph  # edges lead from a stage to what it needs
    first = [stage for stage in graph if stage.addressing == FIRST]
    if not first:
        return None
    found = {*first, *nx.ancestors(graph, first[0])}
    return {repo.fs.relpath(out.fs_path, repo.root_dir) for stage in found for out in stage.outs}


def _unrelated(runs: Iterable[Run], derived: set[str] | None) -> set[str]:
    """Objects that are known to be nothing but what is made without users."""
    if derived is None:
        return set()
    paths: dict[str, set[str]] = {}
    for run in runs:
        for md5, path in run.outs.items():
            paths.setdefault(md5, set()).add(path)
    return {md5 for md5, own in paths.items() if not any(_within(path, derived) for path in own)}


def _within(path: str, places: set[str]) -> bool:
    return any(str(folder) in places for folder in (Path(path), *Path(path).parents))


def _remove(fs: Any, paths: list[str]) -> None:
    for path in paths:
        try:
            fs.remove(path)
        except FileNotFoundError:
            continue
