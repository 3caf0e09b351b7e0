"""Commits: which one to compare with, and the files that git has there."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from palette.errors import PaletteError

if TYPE_CHECKING:
    from git import Repo
    from git.objects import Commit

Files = Callable[[str], bytes | None]
"""The content of a file, by its path from the project's top folder; None where there is none."""
TRUNKS = ("origin/HEAD", "origin/main", "origin/master", "main", "master")
"""What a branch is laid beside; the first that there is."""


def repository(root: Path) -> "Repo":
    """The git repository that the project lies in.

    Raises:
        PaletteError: there is none, or it has no commit yet.
    """
    import git

    try:
        repo = git.Repo(root, search_parent_directories=True)
        repo.head.commit  # noqa: B018
    except (git.InvalidGitRepositoryError, git.NoSuchPathError):
        raise PaletteError(
            "this folder is in no git repository, and `palette diff` compares commits: run it in a "
            "clone of the project"
        ) from None
    except ValueError:
        raise PaletteError("git has no commit yet: make one, then run it again") from None
    return repo


def commit(repo: "Repo", revision: str | None) -> "Commit":
    """The commit of a revision; without one, where this branch left the main one.

    Raises:
        PaletteError: git knows no such commit.
    """
    if revision is None:
        return _fork(repo)
    if (found := _resolve(repo, revision)) is None:
        raise PaletteError(
            f"git knows no commit '{revision}' here: fetch it, or name a branch, tag or commit"
        )
    return repo.commit(found)


def files_at(commit: "Commit", root: Path) -> Files:
    """The files of a commit."""
    folder = root.resolve().relative_to(Path(commit.repo.working_tree_dir).resolve())

    def read(path: str) -> bytes | None:
        try:
            blob = commit.tree / (folder / path).as_posix()
        except KeyError:
            return None
        return blob.data_stream.read()

    return read


def files_in(root: Path) -> Files:
    """The files of the working tree."""

    def read(path: str) -> bytes | None:
        file = root / path
        return file.read_bytes() if file.is_file() else None

    return read


def _fork(repo: "Repo") -> "Commit":
    """The last commit that HEAD shares with the main branch; HEAD itself where there is none."""
    trunk = next((found for name in TRUNKS if (found := _resolve(repo, name))), None)
    shared = repo.merge_base(trunk, repo.head.commit) if trunk else []
    return shared[0] if shared else repo.head.commit


def _resolve(repo: "Repo", revision: str) -> str | None:
    """The hash of a revision's commit."""
    from git import GitCommandError

    try:
        return repo.git.rev_parse(
            "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"
        )
    except GitCommandError:
        return None
