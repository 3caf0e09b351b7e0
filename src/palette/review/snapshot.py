"""A run as git tracks it, at a commit or in the working tree: its report, params and lock."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palette.errors import PaletteError
from palette.review.changes import Row, flat
from palette.review.history import Files

PICTURES = ("reports/simplex.svg", "reports/methods.svg")
ROUTES, GROUPS = "data/routes/routes.parquet", "data/evaluation/evaluation.parquet"
Cached = Callable[[str | None], Path | None]
"""The file with this md5 in DVC's cache, if it is there."""


@dataclass(frozen=True)
class Snapshot:
    """What is not there is empty."""

    metrics: dict[str, float | int | None]
    members: list[Row]
    """of portfolio.csv"""
    served: list[Row]
    """of routes.csv: group, member, users"""
    samples: list[Row]
    """of samples.json: prompt, answers"""
    pictures: dict[str, bytes]
    params: dict[str, Any]
    """dotted key → value"""
    outputs: dict[str, str]
    """artifact → md5, as dvc.lock has them"""
    makers: dict[str, str]
    """artifact → the stage that makes it"""
    routes: dict[str, tuple[str, str]] | None
    """user → (group, member); None where DVC's cache on this machine has no such tables"""


def snapshot(read: Files, cached: Cached) -> Snapshot:
    """Read what the report, params.yaml and dvc.lock say.

    Raises:
        PaletteError: one of these files is damaged.
    """
    import yaml

    stages = _parsed("dvc.lock", read, yaml.safe_load, {}).get("stages") or {}
    outs = [(name, out) for name, stage in stages.items() for out in stage.get("outs", [])]
    outputs = {out["path"]: out["md5"] for _, out in outs if "md5" in out}
    return Snapshot(
        metrics=_parsed("reports/metrics.json", read, json.loads, {}),
        members=_parsed("reports/portfolio.csv", read, _rows, []),
        served=_parsed("reports/routes.csv", read, _rows, []),
        samples=_parsed("reports/samples.json", read, json.loads, []),
        pictures={path: found for path in PICTURES if (found := read(path))},
        params=flat(_parsed("params.yaml", read, yaml.safe_load, {})),
        outputs=outputs,
        makers={out["path"]: name for name, out in outs},
        routes=_routes(cached(outputs.get(ROUTES)), cached(outputs.get(GROUPS))),
    )


def _parsed(path: str, read: Files, parse: Callable[[bytes], Any], empty: Any) -> Any:
    """The content of a file; empty where there is none."""
    import yaml

    content = read(path)
    if not content:
        return empty
    try:
        found = parse(content)
    except (ValueError, yaml.YAMLError):
        found = None
    if not isinstance(found, type(empty)):
        raise PaletteError(f"{path} is damaged: run `dvc repro`, or take it from git again")
    return found


def _rows(content: bytes) -> list[Row]:
    import polars as pl

    try:
        return pl.read_csv(content, infer_schema_length=None).rows(named=True)
    except pl.exceptions.PolarsError as error:
        raise ValueError(str(error)) from error


def _routes(routes: Path | None, groups: Path | None) -> dict[str, tuple[str, str]] | None:
    """Another commit's tables need not fit today's schemas: only what is needed is asked for."""
    import polars as pl

    if routes is None or groups is None:
        return None
    try:
        served = pl.read_parquet(routes, columns=["user_id", "member"])
        placed = pl.read_parquet(groups, columns=["user_id", "group"]).unique()
    except pl.exceptions.PolarsError:
        return None
    joined = served.join(placed, on="user_id", how="left").fill_null("unknown")
    return {user: (group, member) for user, member, group in joined.iter_rows()}
