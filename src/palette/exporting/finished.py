"""A finished run as it is handed over: the base, the members, the routes and what was certified."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from palette import tables
from palette.errors import PaletteError
from palette.lm.models import BASE, REFERENCE
from palette.params import Params

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LAST = "evaluation"
"""The stage whose upstreams make all that is exported."""
UNMADE = "check"
"""It only looks at params.yaml, as every command does by itself: stale by a change of runtime alone."""


@dataclass(frozen=True)
class Base:
    """Where a server finds the model that the adapters belong to."""

    name: str
    """hub id, or absolute path of a directory"""
    revision: str | None
    """commit of a hub id"""

    @property
    def hub_id(self) -> str | None:
        """None for a directory: a path of this machine is no name that others could use."""
        return None if self.revision is None else self.name


@dataclass(frozen=True)
class Member:
    """A member of the portfolio and its adapter."""

    id: str
    told: dict[str, Any]
    """its entry in portfolio.json"""
    folder: Path

    @property
    def rank(self) -> int:
        return self._config()["r"]

    def files(self, base: Base) -> dict[str, bytes]:
        """The adapter as PEFT reads it, by file name; it names the base as others find it."""
        named = {"base_model_name_or_path": base.hub_id, "revision": base.revision}
        config = self._config() | named
        return {
            CONFIG: (json.dumps(config, indent=2, sort_keys=True) + "\n").encode(),
            WEIGHTS: (self.folder / WEIGHTS).read_bytes(),
        }

    def _config(self) -> dict[str, Any]:
        return tables.read_json(self.folder / CONFIG)


@dataclass(frozen=True)
class Finished:
    params: Params
    base: Base
    members: list[Member]
    portfolio: dict[str, Any]
    routes: pl.DataFrame
    """the table routes"""
    evaluation: pl.DataFrame
    """the table evaluation"""

    def write_adapters(self, folder: Path) -> dict[str, str]:
        """A PEFT directory for every member; returns the sha256 of each one's weights."""
        hashes = {}
        for member in self.members:
            own = folder / member.id
            own.mkdir(parents=True)
            for name, content in member.files(self.base).items():
                (own / name).write_bytes(content)
            hashes[member.id] = hashlib.sha256((own / WEIGHTS).read_bytes()).hexdigest()
        return hashes


def read(params: Params) -> Finished:
    """Read what the last run left, and make sure that it is all there and up to date.

    Raises:
        PaletteError: nothing has run, something is stale, or the base alone serves everyone.
    """
    portfolio = tables.read_json(tables.DATA / "portfolio" / "portfolio.json")
    require_current()
    if not portfolio["members"]:
        raise PaletteError("the base alone serves every user: there is no adapter to export")
    members = [
        Member(told["id"], told, tables.DATA / "adapters" / told["id"])
        for told in portfolio["members"]
    ]
    routes, evaluation = tables.read("routes"), tables.read("evaluation")
    return Finished(params, read_base(), members, portfolio, routes, evaluation)


def read_base() -> Base:
    """The model that stage `base` made, or refers to."""
    reference = BASE / REFERENCE
    if not reference.exists():
        return Base(str(BASE.resolve()), None)
    told = tables.read_json(reference)
    if Path(told["model"]).exists():
        return Base(str(Path(told["model"]).resolve()), None)
    return Base(told["model"], told["revision"])


def require_current() -> None:
    """Make sure that what would be exported follows from the present params, inputs and code.

    Raises:
        PaletteError: DVC calls a stage stale, or is busy.
    """
    # -P: no file of the project's top folder may stand in for one of DVC's modules.
    asked = [sys.executable, "-P", "-m", "dvc", "status", "--json", "--with-deps", LAST]
    said = subprocess.run(asked, capture_output=True, text=True, check=False)
    if said.returncode:
        lines = [line for line in said.stderr.splitlines() if line.startswith("ERROR")] or ["ERROR"]
        raise PaletteError(
            f"DVC cannot tell whether the last run is up to date ({lines[0]}); see `dvc status`"
        )
    stale = [stage for stage in json.loads(said.stdout) if stage != UNMADE]
    if stale:
        raise PaletteError(
            f"the last run is not up to date ({_few(stale)} changed); run `dvc repro` first, "
            "or `dvc checkout` where only data/ is missing"
        )


def _few(names: Sequence[str]) -> str:
    """At most three of them, with how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
