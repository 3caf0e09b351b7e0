"""Takes users out of what the last run left: tables, edits, the report, and the store.

What many users share is made anew by `dvc repro`; until then the others are served as they were.
"""

import html
import json
import re
import shutil
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

import polars as pl

from palette import tables
from palette.by_user import PLACE
from palette.edits import DIRECTIONS, INDEX, SIDES
from palette.forgetting import Step
from palette.forgetting.holding import mine
from palette.own_adapters import FOLDER, METHODS
from palette.store import SHARED, Store, folder_of
from palette.subspaces import OWN

REPORTS = Path("reports")
OF_GROUPS = ("shift", *SIDES)
"""Tensors of directions.safetensors with a row for each group."""
OWN_ADAPTERS = tuple(f"{kind}-" for kind in ("user", *METHODS))
"""How folders of single users' adapters begin."""
BORROWED = ["method", "user_id", "prompt_id"]
OTHER = "edit_other"
"""The method that gives users the edit of somebody else."""


def steps(root: Path, users: Collection[str]) -> Iterator[Step]:
    """Steps for everything under data/ and reports/ of a project, or of the worker's clone of it.

    The table of users comes last: it says whom reports may show.
    """
    data, gone = root / tables.DATA, sorted(users)
    lent = _lent(data, gone)
    listed = data / tables.TABLES["users"].file
    found = sorted(data.rglob("*.parquet"), key=lambda path: (path == listed, path))
    for path in found:
        rows = _mine(path, gone, lent)
        if rows is not None and (count := _count(path, rows)):
            yield Step(str(path), f"{count:,} rows", partial(_filter, path, rows))
    index = root / INDEX
    groups = {OWN + user for user in gone}
    if index.exists() and groups & set(_named(tables.read_json(index))):
        yield Step(str(index.parent), "their own directions", partial(_drop_groups, root, groups))
    shown = _perhaps_shown(data, gone)
    for path in sorted((root / REPORTS).rglob("*")):
        if path.is_file() and tells_of(path.read_bytes(), shown):
            yield Step(str(path), "the whole file: dvc repro makes it anew", path.unlink)


def store_steps(store: Store, users: Collection[str]) -> Iterator[Step]:
    """Steps for the store: all that was made of one of these users alone."""
    for user in users:
        yield from _clearing(store, folder_of(user), "bundles of one user")


def nameless_steps(store: Store, roots: Collection[Path]) -> Iterator[Step]:
    """Steps for what does not say whose it is: made of several users together, or lies there to be read."""
    yield from _clearing(store, SHARED, "bundles of several users' data")
    for root in roots:
        if (rows := root / PLACE).exists():
            yield Step(str(rows), "rows that a killed run left", partial(shutil.rmtree, rows))
        for folder in sorted((root / FOLDER).glob("*")):
            if folder.name.startswith(OWN_ADAPTERS):
                yield Step(str(folder), "an adapter of one user's", partial(shutil.rmtree, folder))


def tells_of(content: bytes, users: Collection[str]) -> bool:
    """Whether a text names one of the users, as text, as JSON or as HTML."""
    forms = {form for u in users for form in (u, json.dumps(u)[1:-1], html.escape(u))}
    return any(
        re.search(rb"(?<!\w)" + re.escape(form.encode()) + rb"(?!\w)", content) for form in forms
    )


def _clearing(store: Store, folder: str, what: str) -> Iterator[Step]:
    if found := store.listed(folder):
        yield Step(f"{store.url}: {folder}", f"{len(found):,} {what}", partial(store.clear, folder))


def _perhaps_shown(data: Path, users: list[str]) -> list[str]:
    """Those of whom reports may tell: public users, and those who are no longer listed."""
    path = data / tables.TABLES["users"].file
    if not path.exists():
        return users
    private = pl.scan_parquet(path).filter(pl.col("user_id").is_in(users), ~pl.col("public"))
    hidden = private.select("user_id").collect()["user_id"].to_list()
    return [user for user in users if user not in hidden]


def _mine(path: Path, users: list[str], lent: pl.DataFrame) -> pl.Expr | None:
    """Which rows of a table are these users', or lent from them; None where none can be."""
    schema = pl.read_parquet_schema(path)
    own = mine(schema, users)
    if own is None or lent.is_empty() or not set(BORROWED) <= set(schema):
        return own
    return own | pl.struct(BORROWED).is_in(lent.to_struct().implode())


def _lent(data: Path, users: list[str]) -> pl.DataFrame:
    """Rows of the baselines that are others' answers under these users' edits."""
    path = data / tables.TABLES["baselines"].file
    if not path.exists():
        return pl.DataFrame()
    table = pl.scan_parquet(path)
    own = table.filter(pl.col("method") == "edit", pl.col("user_id").is_in(users))
    borrowed = table.filter(method=OTHER).join(own, on="policy", how="semi")
    return borrowed.select(BORROWED).collect()


def _count(path: Path, rows: pl.Expr) -> int:
    return pl.scan_parquet(path).select(rows.sum()).collect().item()


def _filter(path: Path, rows: pl.Expr) -> None:
    part = path.with_suffix(".part")
    pl.scan_parquet(path).filter(~rows).sink_parquet(part)
    part.replace(path)


def _named(index: dict) -> list[str]:
    return [*index["groups"], *(name for key in ("layers", "ccs_loss") for name in index[key])]


def _drop_groups(root: Path, groups: Collection[str]) -> None:
    """Take groups out of the tensors first: they are as long as the index where that is not done yet."""
    from safetensors.numpy import load_file, save_file

    index = tables.read_json(root / INDEX)
    kept = [place for place, name in enumerate(index["groups"]) if name not in groups]
    tensors = load_file(root / DIRECTIONS)
    for name in OF_GROUPS:
        if name in tensors and len(tensors[name]) == len(index["groups"]):
            tensors[name] = tensors[name][kept]
    part = (root / DIRECTIONS).with_suffix(".part")
    save_file(tensors, part)
    part.replace(root / DIRECTIONS)
    index["groups"] = [index["groups"][place] for place in kept]
    for key in ("layers", "ccs_loss"):
        index[key] = {name: own for name, own in index[key].items() if name not in groups}
    tables.write_json(root / INDEX, index)
