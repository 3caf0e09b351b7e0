"""Says when a run ends a promise: the certificate no longer passes, or tastes have drifted.

Each is an event that automations may react to, a line in an artifact and, where the user named a
notification block, a message.
"""

import asyncio
import inspect
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import yaml
from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from prefect.events import emit_event
from prefect.runtime import flow_run

from flows.artifacts import METRICS, WATCH
from flows.vcs import git, resolve
from palette import summary, tables
from palette.errors import PaletteError
from palette.params import Params

STOPPED, DRIFTED = "palette.certificate.stopped-passing", "palette.tastes.drifted"


@dataclass(frozen=True)
class Finding:
    """A promise that ended with this run."""

    event: str
    words: str


def find_block(name: str | None) -> NotificationBlock | None:
    """The notification block of this name, as TYPE/NAME.

    Raises:
        PaletteError: there is none, or it sends no messages.
    """
    if name is None:
        return None
    try:
        block = Block.load(name)
    except ValueError:
        raise PaletteError(
            f"notify is '{name}', and the server has no such block: name one as TYPE/NAME, as "
            "`prefect block ls` lists them"
        ) from None
    if not isinstance(block, NotificationBlock):
        raise PaletteError(f"notify is '{name}', which is no block that sends messages")
    return block


def watch(
    root: Path, revision: str | None, params: Params, block: NotificationBlock | None
) -> list[str]:
    """Compare this run with the one published before, and report what no longer holds; in words.

    Args:
        revision: the commit of the results published before; None if nothing ever was.
        block: also tells its reader.
    """
    if revision is None:
        return []
    found = [_certificate(root, revision)]
    try:
        drifted, table = _tastes(root, revision, params)
        found.append(drifted)
    except PaletteError as error:
        table = f"Tastes were not compared: {error}"
    findings = [finding for finding in found if finding]
    for finding in findings:
        _tell(finding, revision, block)
    words = [f"**Now {finding.words}.**" for finding in findings]
    words = words or ["Every promise holds as it did."]
    since = f"Compared with the results of {revision[:10]}."
    create_markdown_artifact(
        "\n\n".join([*words, since, table]),
        key=WATCH,
        description="What no longer holds since the run before",
    )
    return [finding.words for finding in findings]


def _certificate(root: Path, revision: str) -> Finding | None:
    if resolve(root, f"{revision}:{METRICS}") is None or not METRICS.exists():
        return None
    then = json.loads(git(root, "show", f"{revision}:{METRICS}"))
    now = tables.read_json(METRICS)
    if then["certificate.passed"] != 1 or now["certificate.passed"] == 1:
        return None
    verdict = dict(summary.headline(now))["ε certified"]
    return Finding(STOPPED, f"the certificate stopped passing: ε certified {verdict}")


def _tastes(root: Path, revision: str, params: Params) -> tuple[Finding | None, str]:
    """What is found of the users' tastes, and a table of it.

    Raises:
        PaletteError: the runs cannot be compared.
    """
    from palette import drift

    if params.routes.previous:
        # Users are held to routes that were kept long ago, perhaps: what matters is since then.
        kept = git(root, "log", "-1", "--format=%H", revision, "--", params.routes.previous)
        revision = kept or revision
    lock = root / "dvc.lock"
    now = _hash(lock.read_text(encoding="utf-8")) if lock.exists() else None
    if now is None:
        raise PaletteError("this project has no histories")
    if resolve(root, f"{revision}:dvc.lock") is None:
        raise PaletteError(f"{revision[:10]} has no dvc.lock")
    if now == _hash(git(root, "show", f"{revision}:dvc.lock")):
        return None, "No user has new rows."
    with tempfile.TemporaryDirectory() as folder:
        _fetch(root, revision, drift.NEEDED, Path(folder))
        found = drift.measure(params, Path(folder))
    rows = [f"| {label} | {value} |" for label, value in drift.lines(found)]
    table = "\n".join(["| tastes | |", "|---|---|", *rows])
    return Finding(DRIFTED, drift.sentence(found)) if found.drifted else None, table


def _fetch(root: Path, revision: str, files: tuple[Path, ...], folder: Path) -> None:
    """Copy files as of a revision, from git or DVC's cache."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException

    try:
        source = DVCFileSystem(str(root), rev=revision)
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            source.get_file(str(file), str(folder / file))
    except (DvcException, OSError) as error:
        raise PaletteError(f"the files of {revision[:10]} are not at hand: {error}") from None


def _hash(lock: str) -> str | None:
    """Of the users' histories, as a dvc.lock has it."""
    stages = (yaml.safe_load(lock) or {}).get("stages", {}).values()
    outs = {out["path"]: out.get("md5") for stage in stages for out in stage.get("outs", [])}
    return outs.get(str(tables.path("histories")))


def _tell(finding: Finding, revision: str, block: NotificationBlock | None) -> None:
    logger = get_run_logger()
    logger.warning(finding.words)
    resource = {
        "prefect.resource.id": f"prefect.flow-run.{flow_run.id}",
        "prefect.resource.name": flow_run.name,
    }
    emit_event(finding.event, resource, payload={"words": finding.words, "since": revision})
    if block is None:
        return
    try:
        sent: object = block.notify(f"{finding.words}\n\nRun: {flow_run.name}", subject="palette")
        if inspect.iscoroutine(sent):  # most blocks wait by themselves where nothing else is done
            asyncio.run(sent)
    except Exception as error:  # whatever the block's service answers, the run itself is fine
        logger.warning("the notification could not be sent: %s", error)
