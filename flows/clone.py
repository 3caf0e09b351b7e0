"""The worker's own clone: what is committed, with the checkout's environment, cache and store.

`make serve` makes it in .palette/, and every scheduled run first brings it up to date, so that a
run never touches the checkout in which someone works.
"""

import fcntl
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

from flows import leash
from flows.vcs import git, holds, resolve
from palette.errors import PaletteError
from palette.params import Params

PLACE = Path(".palette/clone")
MADE = ("dvc.lock", "reports")
"""What a run makes of files that git tracks."""
CHECKOUT = "palette.checkout"
"""Key of a clone's git configuration."""
REFUSAL = "PALETTE_REFUSAL"
"""Environment variable: why a run in the clone must not begin; its flow says so."""
OCCUPIED: dict[Path, int] = {}
"""Clone → file descriptor of its lock, in this process."""
FETCHES, PAUSE = 3, 5.0  # tries, and seconds between them at least


def make(checkout: Path, source: str) -> Path:
    """Clone what runs are to follow into the checkout's .palette/, unless it is there; the clone.

    Args:
        checkout: the project's top folder, whose environment, DVC cache and store are shared.
        source: what git clones: the checkout itself, or a URL. Commits are pushed there.

    Raises:
        PaletteError: git cannot clone it.
    """
    clone = checkout / PLACE
    if not clone.exists():
        part = clone.with_name("clone.part")
        shutil.rmtree(part, ignore_errors=True)
        part.parent.mkdir(parents=True, exist_ok=True)
        git(checkout, "clone", "--quiet", source, str(part))
        git(part, "checkout", "--quiet", "--detach")
        part.rename(clone)
    git(clone, "remote", "set-url", "origin", source)
    git(clone, "config", CHECKOUT, str(checkout))
    git(clone, "config", "user.name", "palette")
    git(clone, "config", "user.email", "palette@localhost")
    _share_cache(checkout, clone)
    _link(clone / ".venv", checkout / ".venv")
    return clone


def is_clone(root: Path) -> bool:
    """Whether a folder is a worker's clone, which runs may change as they need."""
    return holds(root, "config", "--local", CHECKOUT)


def checkout_of(clone: Path) -> Path:
    """The checkout that a clone was made for."""
    return Path(git(clone, "config", "--local", CHECKOUT))


def enter() -> dict[str, str]:
    """Bring the clone up to date and work in it: the pull step of prefect.yaml."""
    if "PALETTE_CLONE" not in os.environ:
        raise PaletteError("this worker has no clone to run in: start it with `make serve`")
    clone = Path(os.environ["PALETTE_CLONE"])
    os.chdir(clone)
    _occupy(clone)
    try:
        refresh(clone)
    except PaletteError as error:
        os.environ[REFUSAL] = str(error)
    return {"directory": str(clone)}


def stay() -> None:
    """Keep other runs out of the clone, and die with the worker, until this process ends.

    A run that was cancelled may take a while to end, and the next one is not to refresh the clone
    under it. Where no worker runs this, nothing is done.
    """
    if "PALETTE_CLONE" in os.environ:
        leash.follow()
        _occupy(Path(os.environ["PALETTE_CLONE"]))


def refresh(clone: Path) -> None:
    """Move the clone to what its source has checked out; what the last run made is kept.

    Where dvc.lock has changed there, its artifacts take the place of the last run's.

    Raises:
        PaletteError: the source cannot be reached, or needs another environment than .venv.
    """
    _fetch(clone)
    here, tip = (git(clone, "rev-parse", name) for name in ("HEAD", "FETCH_HEAD"))
    same = resolve(clone, f"{here}:dvc.lock") == resolve(clone, f"{tip}:dvc.lock")
    kept = [f":(exclude){name}" for name in MADE] if same else []
    git(clone, "restore", "--source", tip, "--staged", "--worktree", "--", ".", *kept)
    git(clone, "update-ref", "--no-deref", "HEAD", tip)
    git(clone, "clean", "--quiet", "--force", "-d", "-x", "--", "inputs")
    # Of a run that was killed: nobody else works here.
    (clone / ".dvc/tmp/rwlock").unlink(missing_ok=True)
    if not same or not (clone / "data").exists():
        _restore_artifacts(clone)
    checkout = checkout_of(clone)
    if _content(clone / "requirements.txt") != _content(checkout / "requirements.txt"):
        raise PaletteError(
            f"requirements.txt of {tip[:10]} is not the one that {checkout / '.venv'} was made of: "
            f"bring it into {checkout} and start `make serve` again"
        )


def bring(clone: Path, params: Params) -> None:
    """Bring what params name and git does not track from the checkout: inputs, base and store."""
    checkout = checkout_of(clone)
    for file in (params.users.file, params.prompts.file, params.routes.previous, params.base.model):
        if file and not (clone / file).exists() and (checkout / file).exists():
            _link(clone / file, checkout / file)
    pinned = params.plan.pinned
    if pinned and not (clone / pinned).exists() and (checkout / pinned).exists():
        shutil.copy2(checkout / pinned, clone / pinned)  # a repair appends to it
    if "://" not in params.runtime.store:
        (checkout / params.runtime.store).mkdir(parents=True, exist_ok=True)
        _link(clone / params.runtime.store, checkout / params.runtime.store)


def _occupy(clone: Path) -> None:
    """Wait for the lock on the clone and take it; the system releases it when the process ends."""
    if clone not in OCCUPIED:
        lock = os.open(clone.with_name("clone.lock"), os.O_RDWR | os.O_CREAT)
        fcntl.flock(lock, fcntl.LOCK_EX)
        OCCUPIED[clone] = lock


def _fetch(clone: Path) -> None:
    for trial in range(FETCHES):
        try:
            git(clone, "fetch", "--quiet", "--force", "origin", "HEAD")
            return
        except PaletteError:
            if trial == FETCHES - 1:
                raise
            time.sleep(PAUSE * (trial + 1) * random.uniform(1, 2))


def _restore_artifacts(clone: Path) -> None:
    """Put what dvc.lock names in place, as far as the cache has it: the rest is computed again."""
    command = [sys.executable, "-P", "-m", "dvc", "checkout", "--quiet", "--force"]
    subprocess.run([*command, "--allow-missing"], cwd=clone, stdin=subprocess.DEVNULL, check=False)


def _share_cache(checkout: Path, clone: Path) -> None:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(checkout)) as repo:
            cache = repo.cache.local_cache_dir
        with Repo(str(clone)) as repo, repo.config.edit("local") as config:
            config["cache"]["dir"] = cache
    except DvcException as error:
        raise PaletteError(f"DVC cannot share its cache with {clone}: {error}") from error


def _link(link: Path, target: Path) -> None:
    """A link to what lies in the checkout, where it has such a thing and git does not."""
    if link.is_symlink():
        link.unlink()
    if target.exists() and not link.exists() and link != target:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)


def _content(file: Path) -> bytes | None:
    return file.read_bytes() if file.exists() else None
