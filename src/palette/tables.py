"""Reading and writing of every artifact, whole or not at all.

All tables go through here, so that one that does not fit its schema is never written or read.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from palette.errors import PaletteError
from palette.schema import DATA, TABLES, F, Table


def path(name: str, trait: str | None = None) -> Path:
    """The file of a table; `trait` fills the place of tables that exist once per trait."""
    table = TABLES[name]
    return DATA / table.file.format(trait=trait)


def write(name: str, frame: pl.DataFrame, trait: str | None = None) -> Path:
    """Check a frame against its schema and write it, whole or not at all."""
    table, target = TABLES[name], path(name, trait)
    frame = frame.select(_columns(table, frame, target))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".tmp")
    frame.write_parquet(temporary)
    temporary.replace(target)
    return target


@contextmanager
def writing(name: str) -> Iterator[Callable[[pl.DataFrame], None]]:
    """A table that is written part by part, whole or not at all: call what this hands over with each.

    Of one part the file is the same as `write`'s.
    """
    writer = _Writer(name)
    try:
        yield writer.add
        writer.finish()
    finally:
        writer.close()


class _Writer:
    def __init__(self, name: str):
        self.name, self.target = name, path(name)
        self.temporary = self.target.with_suffix(".tmp")
        self.first: pl.DataFrame | None = None
        self.file: Any = None

    def add(self, frame: pl.DataFrame) -> None:
        if self.file is None and self.first is None:
            self.first = frame
            return
        if self.first is not None:
            self._append(self.first)
            self.first = None
        self._append(frame)

    def finish(self) -> None:
        if self.file is None:
            write(self.name, empty(self.name) if self.first is None else self.first)
        else:
            self.close()
            self.temporary.replace(self.target)

    def close(self) -> None:
        if self.file is not None and self.file.is_open:
            self.file.close()

    def _append(self, frame: pl.DataFrame) -> None:
        from pyarrow.parquet import ParquetWriter

        part = frame.select(_columns(TABLES[self.name], frame, self.target)).to_arrow()
        if self.file is None:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self.file = ParquetWriter(self.temporary, part.schema, compression="zstd")
        self.file.write_table(part)


def read(name: str, trait: str | None = None) -> pl.DataFrame:
    """Read a table and check it against its schema.

    Raises:
        PaletteError: the file is missing or does not have the columns of its schema.
    """
    table, source = TABLES[name], path(name, trait)
    with _readable(source):
        frame = pl.read_parquet(source)
    return frame.select(_columns(table, frame, source))


def read_users(name: str, users: pl.Series) -> pl.DataFrame:
    """The rows of some users, in the order of the table, of which no more is held.

    Args:
        users: user_ids; reading is fast where they stand beside each other in a table sorted by user.

    Raises:
        PaletteError: as `read`.
    """
    table, source = TABLES[name], path(name)
    with _readable(source):
        if users.is_empty():
            return empty(name)
        among = pl.col("user_id").is_between(pl.lit(users.min()), pl.lit(users.max()))
        rows = pl.scan_parquet(source).filter(among, pl.col("user_id").is_in(users.implode()))
        frame = rows.collect(engine="streaming")
    return frame.select(_columns(table, frame, source))


@contextmanager
def _readable(source: Path) -> Iterator[None]:
    """One sentence, with the cure, where a table cannot be read."""
    if not source.exists():
        raise PaletteError(f"{source} does not exist; run `dvc repro` to make it")
    try:
        yield
    except pl.exceptions.ColumnNotFoundError:
        raise PaletteError(f"{source} lacks the column user_id; run `dvc repro` again") from None
    except pl.exceptions.PolarsError:
        raise PaletteError(f"{source} is damaged; delete it and run `dvc repro`") from None


def read_rewards(traits: list[str]) -> pl.DataFrame:
    """The base's rollouts with one column `reward_TRAIT` per trait."""
    frame = read("rollouts")
    for trait in traits:
        scores = read("rewards", trait).rename({"reward": f"reward_{trait}"})
        frame = frame.join(scores, on=["prompt_id", "sample"], how="left", validate="1:1")
    return frame


def empty(name: str, traits: Sequence[str] = ()) -> pl.DataFrame:
    """A table without rows."""
    table = TABLES[name]
    schema = {key: kind for key, (kind, _) in table.columns.items()}
    schema |= {prefix + trait: F for prefix in table.per_trait for trait in traits}
    return pl.DataFrame(schema=schema)


def write_json(target: Path, content: Any) -> Path:
    """Write JSON that diffs well: indented, one value a line, ending in a newline."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(target)
    return target


def read_json(source: Path) -> Any:
    """Read what `write_json` wrote.

    Raises:
        PaletteError: the file is missing or damaged.
    """
    if not source.exists():
        raise PaletteError(f"{source} does not exist; run `dvc repro` to make it")
    try:
        return json.loads(source.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        raise PaletteError(f"{source} is damaged; delete it and run `dvc repro`") from None


def _columns(table: Table, frame: pl.DataFrame, where: Path) -> list[pl.Expr]:
    missing = [name for name in table.columns if name not in frame.columns]
    missing += [p + "*" for p in table.per_trait if not any(c.startswith(p) for c in frame.columns)]
    if missing:
        raise PaletteError(f"{where} lacks the columns {', '.join(missing)}; run `dvc repro` again")
    own = [pl.col(name).cast(kind) for name, (kind, _) in table.columns.items()]
    prefixes = tuple(table.per_trait)
    traits = [
        c for c in frame.columns if prefixes and c.startswith(prefixes) and c not in table.columns
    ]
    return own + [pl.col(name).cast(F) for name in traits]
