"""`palette stale`: the lock gate. Has everybody who changed something also reproduced it?"""

from pathlib import Path

from palette.errors import PaletteError

SHOWN = 4  # reasons for one stage


def stale() -> None:
    """Name the stages that dvc.lock no longer fits.

    Exit status 1 if there are any. Needs git's files alone: no data, no cache,
    no remote.

    Example: palette stale
    """
    from palette.review import lock

    with lock.opened(Path.cwd()) as project:
        standing = lock.staleness(project)
    if not standing.stale:
        print("dvc.lock fits: `dvc repro` has nothing to run")
        return
    for stage, why in standing.stale.items():
        more = f"; and {len(why) - SHOWN} more" if len(why) > SHOWN else ""
        print(f"{stage}: {'; '.join(why[:SHOWN])}{more}")
    if standing.after:
        print(f"after them: {', '.join(standing.after)}")
    raise PaletteError("dvc.lock does not fit: run `dvc repro` and commit what it writes")
