"""`palette diff`: what a reviewer wants to know of a change, as Markdown for the pull request.

palette diff                  # since this branch left the main one
palette diff v1.2             # since a tag, branch or commit
"""

from pathlib import Path
from typing import Annotated

import typer


def diff(
    revision: Annotated[
        str | None,
        typer.Argument(
            metavar="[REV]",
            help="a branch, tag or commit; by default where this branch left the main one",
        ),
    ] = None,
    pictures: Annotated[
        str, typer.Option(help="URL under which this project's folder can be seen, for pictures")
    ] = "",
) -> None:
    """Tell a reviewer, in Markdown, what changed since a commit.

    Certificate, members, users re-routed, values with intervals, and answers
    side by side, in at most 60,000 characters. It reads what git tracks; DVC's
    cache, where it has both runs, tells exactly how many were re-routed.

    Example: palette diff main
    """
    from palette.review import history, lock
    from palette.review.markdown import document
    from palette.review.snapshot import snapshot

    root = Path.cwd()
    repository = history.repository(root)
    commit = history.commit(repository, revision)
    with lock.opened(root) as project:
        before, after = (
            snapshot(files, lambda md5: lock.cached(project, md5))
            for files in (history.files_at(commit, root), history.files_in(root))
        )
        standing = lock.staleness(project)
    since = commit.hexsha[:8] if revision is None else f"{revision} ({commit.hexsha[:8]})"
    print(document(since, before, after, standing, pictures), end="")
