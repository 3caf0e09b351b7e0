"""Rows of a file of any size, brought together by user: as many users at a time as fit in memory.

What does not fit lies in a folder meanwhile.
"""

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl

AT_ONCE = 1 << 19
"""Rows of one part; a user with more has a part alone."""
USER = "user_id"
PLACE = Path(".palette/rows")
"""Where they lie meanwhile: a folder for temporary files may be held in memory."""


def parts(batches: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """All rows, in parts of whole users: users ascending, rows without a user in the first part.

    Each user's rows are in the order in which they came; rows that fit into one part stay in theirs.
    """
    batches, held, count = iter(batches), list[pl.DataFrame](), 0
    for batch in batches:
        held.append(batch)
        count += len(batch)
        if count > AT_ONCE:
            break
    else:
        if held:
            yield pl.concat(held, rechunk=True)
        return
    shutil.rmtree(PLACE, ignore_errors=True)  # of a run that was killed
    PLACE.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=PLACE) as folder:
        yield from _spilled(chain(held, batches), Path(folder))


def _spilled(batches: Iterable[pl.DataFrame], folder: Path) -> Iterator[pl.DataFrame]:
    counts = pl.DataFrame(schema={USER: pl.String, "len": pl.UInt32})
    came: list[Path] = []
    for number, batch in enumerate(batches):
        came.append(folder / f"came-{number}")
        batch.write_ipc(came[-1], compression="lz4")
        new = batch.group_by(USER).len()
        counts = pl.concat([counts, new]).group_by(USER).agg(pl.col("len").sum())
    first = _first_users(counts)
    written: list[list[Path]] = [[] for _ in range(len(first) + 1)]
    for number, path in enumerate(came):
        batch = pl.read_ipc(path)
        place = first.search_sorted(batch[USER], side="right").fill_null(0)
        batch = batch.with_columns(place.alias("part"))
        for (part,), own in batch.group_by("part", maintain_order=True):
            written[part].append(folder / f"part-{part}-{number}")
            own.drop("part").write_ipc(written[part][-1], compression="lz4")
        path.unlink()
    for paths in written:
        if paths:
            yield pl.concat([pl.read_ipc(path) for path in paths], rechunk=True)
        for path in paths:
            path.unlink()


def _first_users(counts: pl.DataFrame) -> pl.Series:
    """The first user of every part but the first, ascending."""
    counts = counts.drop_nulls(USER).sort(USER)
    ends = counts["len"].cast(pl.Int64).cum_sum().to_numpy()
    starts: list[int] = []
    begin = 0
    while True:
        before = ends[begin - 1] if begin else 0
        begin = max(begin + 1, int(np.searchsorted(ends, before + AT_ONCE, side="right")))
        if begin >= len(ends):
            return counts[USER].gather(starts)
        starts.append(begin)
