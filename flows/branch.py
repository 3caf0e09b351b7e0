"""A run's results on a branch: dvc.lock, reports/ and the parameters that made them, nothing else.

Commits are put together beside the working tree, in an index of their own: no branch is checked out.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import yaml

from flows.clone import MADE, is_clone
from flows.vcs import git, holds, resolve
from palette.errors import PaletteError

ASKED = ("params.yaml", "inputs/plan")
"""What a run's options and its rounds of repair may change; params.yaml names a file in the folder."""
RESULTS = (*MADE, *ASKED)
UNASKED = "refs/palette/published"
"""Where the worker's clone keeps the results of runs that no branch was named for; never pushed."""


@dataclass(frozen=True)
class Branch:
    """Where the results of a run go.

    Args:
        root: a git repository, the worker's clone or a checkout.
        name: the branch; None keeps them off every branch.
        push: also send the branch to origin.
    """

    root: Path
    name: str | None = None
    push: bool = False

    def check(self) -> None:
        """Refuse what could not be done in the end, before anything runs.

        Raises:
            PaletteError: what was asked does not fit, or the checkout has code that no commit has.
        """
        if self.name is None:
            if self.push:
                raise PaletteError("push needs commit, the name of the branch to push: name one")
            return
        if not holds(self.root, "check-ref-format", "--branch", self.name):
            raise PaletteError(f"commit is '{self.name}', which git takes for no branch's name")
        if self.push and not holds(self.root, "remote", "get-url", "origin"):
            raise PaletteError("push is asked for, but this repository has no remote 'origin'")
        if holds(self.root, "symbolic-ref", "--quiet", "HEAD") and self._checked_out():
            raise PaletteError(
                f"commit is '{self.name}', which is checked out here: name another branch"
            )
        others = [f":(exclude){name}" for name in RESULTS]
        untracked = git(self.root, "ls-files", "--others", "--exclude-standard", "--", "src")
        if untracked or not holds(self.root, "diff", "--quiet", "HEAD", "--", ".", *others):
            raise PaletteError(
                f"files beside {', '.join(RESULTS)} have changes that are in no commit, and the "
                "results would be taken for the committed code's: commit them first"
            )

    def lay(self) -> None:
        """Take over the parameters that earlier runs left on the branch; only in a clone.

        Raises:
            PaletteError: both the branch and what the clone follows have changed them.
        """
        if self.name is None or not is_clone(self.root):
            return
        self._fetch(self.name)
        if (tip := self._tip()) is None:
            return
        here = git(self.root, "rev-parse", "HEAD")
        before = git(self.root, "merge-base", tip, here)
        for path in ASKED:
            theirs, ours, old = (resolve(self.root, f"{rev}:{path}") for rev in (here, tip, before))
            if ours in (theirs, old):
                continue
            if theirs != old:
                raise PaletteError(
                    f"both branch '{self.name}' and {here[:10]} have changed {path}: merge one "
                    "into the other, or name another branch"
                )
            git(self.root, "restore", "--source", tip, "--worktree", "--", path)

    def published(self) -> str:
        """The revision that holds the results before this run's."""
        return self._tip() or "HEAD"

    def publish(self, words: str) -> str | None:
        """Commit the results, unless they are what the branch has already; what was done.

        Args:
            words: the commit's message.

        Raises:
            PaletteError: git refuses.
        """
        if self.name is None and not is_clone(self.root):
            return None
        tip, head = self._tip(), git(self.root, "rev-parse", "HEAD")
        tree = self._tree(head)
        if not self._changed(tip or head, tree):
            said = f"nothing has changed on branch '{self.name}'"
        else:
            tip = git(self.root, "commit-tree", tree, *self._parents(tip, head), "-m", words)
            said = f"committed {tip[:10]} on branch '{self.name}'"
            said += " and pushed it" if self.push else ""
        if self.name is None:
            git(self.root, "update-ref", UNASKED, tip or head)
            return None
        if tip is not None:
            git(self.root, "branch", "--force", "--no-track", self.name, tip)
        if tip is not None and self.push:
            git(self.root, "push", "--quiet", "origin", f"refs/heads/{self.name}")
        return said

    def _tip(self) -> str | None:
        name = f"refs/heads/{self.name}" if self.name else UNASKED
        return resolve(self.root, name)

    def _checked_out(self) -> bool:
        return git(self.root, "symbolic-ref", "HEAD") == f"refs/heads/{self.name}"

    def _fetch(self, name: str) -> None:
        """Where others have gone on with the branch, so do we."""
        if not git(self.root, "ls-remote", "origin", f"refs/heads/{name}"):
            return
        git(self.root, "fetch", "--quiet", "origin", f"refs/heads/{name}")
        theirs, ours = git(self.root, "rev-parse", "FETCH_HEAD"), self._tip()
        if ours is None or self._within(ours, theirs):
            git(self.root, "branch", "--force", "--no-track", name, theirs)
        elif not self._within(theirs, ours):
            raise PaletteError(
                f"branch '{name}' has gone two ways, {ours[:10]} here and {theirs[:10]} at "
                "origin: delete it in one place, or name another branch"
            )

    def _parents(self, tip: str | None, head: str) -> list[str]:
        """The branch goes on from its tip, and from the code where that is newer."""
        if tip is None or self._within(tip, head):
            return ["-p", head]
        return ["-p", tip] if self._within(head, tip) else ["-p", tip, "-p", head]

    def _within(self, older: str, newer: str) -> bool:
        return holds(self.root, "merge-base", "--is-ancestor", older, newer)

    def _tree(self, head: str) -> str:
        """The files of `head`, with this run's results in place of its."""
        present = [name for name in RESULTS if (self.root / name).exists()]
        with tempfile.TemporaryDirectory() as folder:
            index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
            git(self.root, "read-tree", head, **index)
            git(self.root, "add", "--all", "--", *present, **index)
            return git(self.root, "write-tree", **index)

    def _changed(self, old: str, tree: str) -> bool:
        """Whether the results differ; the order of stages in dvc.lock says nothing."""
        names = git(self.root, "diff", "--name-only", old, tree, "--", *RESULTS).splitlines()
        if names != ["dvc.lock"]:
            return bool(names)
        if resolve(self.root, f"{old}:dvc.lock") is None:
            return True
        locks = (git(self.root, "show", f"{place}:dvc.lock") for place in (old, tree))
        first, second = map(yaml.safe_load, locks)
        return first != second
