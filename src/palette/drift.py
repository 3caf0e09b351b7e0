"""Users' new rows beside those of an earlier run, and what that run's routes would cost them now."""

import math
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import numpy as np
import polars as pl

from palette import tables
from palette.core.drift import SURE, Drift, changes, losses
from palette.core.envelope import Planes
from palette.errors import PaletteError
from palette.lm.models import BASE
from palette.params import Params
from palette.params_file import load
from palette.preferences import compare, learn
from palette.routes import read_planes

PARAMS = Path("params.yaml")
PORTFOLIO = tables.DATA / "portfolio" / "portfolio.json"
TABLES = ("users", "histories", "contrasts", "pairs", "routes")
NEEDED = (PARAMS, PORTFOLIO, *(tables.path(name) for name in TABLES))
"""Files of the earlier run that it is compared by."""
MEANING = ("traits", "objective", "weights", "preferences")
"""Sections of params.yaml under which choices and worths mean the same."""
ROW = ["user_id", "prompt", "response"]


def measure(params: Params, earlier: Path) -> Drift:
    """Compare the histories under data/ with an earlier run's.

    Users count who have rows that the earlier run did not have, and were routed then.

    Args:
        earlier: a folder with the files NEEDED, to which links are added.

    Raises:
        PaletteError: choices mean different things in the two runs, or a file is missing.
    """
    then = load(earlier / PARAMS)
    for section in MEANING:
        if getattr(then, section) != getattr(params, section):
            raise PaletteError(f"{section} in params.yaml is another: tastes cannot be compared")
    histories, contrasts = tables.read("histories"), tables.read("contrasts")
    offered = read_planes(tables.read_json(PORTFOLIO), params)
    with _within(earlier):
        rows = histories.join(tables.read("histories"), on=ROW, how="anti")
        everyone = tables.read("users").sort("user_id")
        users = everyone.with_row_index("place").join(tables.read("routes"), on="user_id")
        users = users.join(rows, on="user_id", how="semi").sort("user_id")
        before = read_planes(tables.read_json(PORTFOLIO), params)
        if users.is_empty():
            return Drift(0, 0.0, 0.0, 0.0, 0.0, params.routes.hysteresis)
        choices = compare(params, everyone)
        chooser, prior = learn(params, everyone, choices)
    with tempfile.TemporaryDirectory() as folder, _within(Path(folder)):
        tables.write("histories", rows)
        tables.write("contrasts", contrasts.join(rows, on=["user_id", "row"], how="semi"))
        tables.write("pairs", tables.empty("pairs"))
        new = compare(params, users.select(everyone.columns))
    old = choices.of(users["place"].to_numpy().astype(np.int64))
    change = changes(prior, chooser, old, new, len(users))
    served, member = _served(offered, before, users["member"])
    lost = losses(offered, served, member, change.mean)
    return Drift(
        len(users),
        float(change.probability.mean()),
        change.log_evidence,
        float(lost.mean()),
        float(lost.max()),
        params.routes.hysteresis,
    )


def sentence(found: Drift) -> str:
    """What is to be said where tastes have drifted."""
    return (
        f"the users' tastes have drifted: of {found.users:,} with new rows, {found.changed:.0%} "
        "like something else than when they were routed, and staying with their routes costs "
        f"{found.loss:.3f} on average"
    )


def lines(found: Drift) -> list[tuple[str, str]]:
    """(label, value) of all that was found."""
    evidence = math.exp(min(found.log_evidence, 700))  # a float holds no more
    return [
        ("users with new rows, who were routed then", f"{found.users:,}"),
        ("of them, expected to like something else now", f"{found.changed:.1%}"),
        (f"evidence that any do (believed from {SURE:.0f})", f"{evidence:.3g}"),
        ("loss of staying with the old routes, mean", f"{found.loss:.4f}"),
        ("the same, at worst", f"{found.worst:.4f}"),
        ("mean loss that is borne (routes.hysteresis)", f"{found.bearable:.4f}"),
    ]


@contextmanager
def _within(folder: Path) -> Iterator[None]:
    """Work in a folder with tables of its own; all else that scoring may need is this project's."""
    (folder / BASE.parent).mkdir(exist_ok=True)
    here = [path for path in Path.cwd().iterdir() if path.name not in (BASE.parts[0], PARAMS.name)]
    for path in [*here, BASE.absolute()]:
        link = folder / path.relative_to(Path.cwd())
        if path.exists() and not link.exists():
            link.symlink_to(path)
    with chdir(folder):
        yield


def _served(offered: Planes, before: Planes, members: pl.Series) -> tuple[Planes, np.ndarray]:
    """The policies that users were routed to, and which: measured as now, or as then if gone."""
    gone = [k for k, name in enumerate(before.names) if name not in offered.names]
    served = offered + before.take(gone)
    places = {name: place for place, name in enumerate(served.names)}
    return served, np.array([places[name] for name in members], dtype=int)
