"""`palette users forget`: takes users out of everything that the project can reach."""

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palette.commands import completing
from palette.errors import PaletteError

if TYPE_CHECKING:
    from palette.forgetting import Step

ROOT, CLONE = Path("."), Path(".palette/clone")
AT_WORK = Path(".dvc/tmp/rwlock")
REPRODUCE = [sys.executable, "-P", "-m", "dvc", "repro"]
UNREACHED = (
    "out of reach: git's history of inputs/ and reports/, other clones and remotes, what was exported "
    "or put on a hub, backups, and logs of the server"
)


def forget(
    users: Annotated[list[str], typer.Argument(help="user_ids", autocompletion=completing.users)],
    purge: Annotated[
        bool,
        typer.Option(
            "--purge", help="also old versions: DVC's cache, its run-cache, the default remote"
        ),
    ] = False,
    keep_files: Annotated[
        bool, typer.Option("--keep-files", help="leave the rows in the files under inputs/")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what would be done, and do nothing")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    reproduce: Annotated[
        bool, typer.Option("--reproduce", help="run `dvc repro` afterwards")
    ] = False,
) -> None:
    """Forget users: their rows, insights, pairs, edits and routes, and what was made of them.

    Their hashes go on a list, inputs/users/forgotten.txt, so that the next
    histories do not bring them back: commit it. Their records leave the files
    under inputs/, their rows every artifact and the store. What many users share
    is stale then: `dvc repro` makes it anew. Stopped midway, run this again.

    Out of reach: git's history of inputs/ and reports/, other clones, remotes
    that are not the default one, what was exported or put on a hub, backups.

    Example: palette users forget u0007 --purge --reproduce
    """
    from palette import forgotten

    users = list(dict.fromkeys(users))
    _refuse_while_dvc_works()
    steps = find(users, purge, keep_files)
    new = [user for user in users if user not in forgotten.read()]
    _say(users, new, steps)
    if dry_run:
        return
    if not yes:
        typer.confirm("This cannot be taken back. Go on?", abort=True)
    forgotten.add(users)  # first: whatever happens next, no run brings them back
    for step in steps:
        step.do()
    print(f"forgotten: {len(users)}, in {len(steps)} places")
    print(UNREACHED)
    print(f"next: git add {forgotten.FILE} && git commit; dvc repro")
    if reproduce:
        raise typer.Exit(subprocess.run(REPRODUCE, check=False).returncode)


def find(users: list[str], purge: bool, keep_files: bool) -> list["Step"]:
    """What is to be done, in this order: what tells of the rest goes after it."""
    from palette.forgetting import artifacts, inputs, versions
    from palette.params_file import load
    from palette.store import Store

    params = load()
    store = Store(params.runtime.store)
    steps = list(versions.steps(ROOT, users, CLONE)) if purge else []
    if not keep_files:
        files = inputs.files([params.users.file, params.routes.previous])
        steps += inputs.steps(files, users)
    steps += artifacts.store_steps(store, users)
    for root in (CLONE, ROOT):
        steps += artifacts.steps(root, users)
    # What does not say whose it is goes where anything goes: first, since the rest tells that it has to.
    return [*artifacts.nameless_steps(store, (CLONE, ROOT)), *steps] if steps else []


def _say(users: list[str], new: list[str], steps: list["Step"]) -> None:
    from palette import forgotten
    from palette.commands import screen

    for user in users:
        if number := forgotten.line(user):
            print(f"{user} is on the list already: {forgotten.FILE}, line {number}")
    table = screen.table("where", "what is taken out")
    if new:
        table.add_row(str(forgotten.FILE), f"{len(new)} hashes are added")
    for step in steps:
        table.add_row(step.where, step.what)
    if not steps:
        print("nothing that this project can reach holds " + ", ".join(users))
    if new or steps:
        screen.console().print(table)


def _refuse_while_dvc_works() -> None:
    """A stage that runs may write what it has read of a user.

    Raises:
        PaletteError: DVC runs a stage.
    """
    import psutil

    try:
        held = json.loads(AT_WORK.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    notes = [
        note
        for by_path in held.values()
        for notes in by_path.values()
        for note in (notes if isinstance(notes, list) else [notes])
    ]
    for note in notes:
        if psutil.pid_exists(note["pid"]):
            raise PaletteError(f"DVC is at work here ({note['cmd']}): wait until it is done")
