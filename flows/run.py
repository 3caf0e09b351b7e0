"""A run that was asked for by itself, from what it is refused for to the commit of what it made."""

import os
from dataclasses import dataclass
from pathlib import Path

from prefect import get_run_logger
from prefect.blocks.abstract import NotificationBlock

from flows.artifacts import METRICS
from flows.branch import Branch
from flows.clone import REFUSAL, stay
from flows.options import Options
from flows.vcs import resolve
from flows.watch import find_block, watch
from palette import summary, tables
from palette.errors import PaletteError
from palette.params_file import load


@dataclass(frozen=True)
class Run:
    """A run that has begun: its parameters are in params.yaml."""

    branch: Branch
    before: str | None
    """the commit of the results published before; None where git has none"""
    block: NotificationBlock | None

    def end(self, words: str) -> list[str]:
        """Watch over what was promised, then publish; what there is to say of both.

        Raises:
            PaletteError: the results cannot be committed or pushed.
        """
        said = watch(self.branch.root, self.before, load(), self.block)
        lines = [f"palette: {words}"]
        if METRICS.exists():
            head = summary.headline(tables.read_json(METRICS))
            lines += ["", *(f"{label}: {value}" for label, value in head)]
        done = self.branch.publish("\n".join(lines))
        return [*said, done] if done else said


def begin(options: Options, branch: Branch, notify: str | None) -> Run:
    """Refuse what is wrong before anything runs, then put the options into params.yaml.

    Args:
        notify: a notification block, as TYPE/NAME.

    Raises:
        PaletteError: what is wrong, in one sentence.
    """
    stay()
    if refusal := os.environ.get(REFUSAL):
        raise PaletteError(refusal)
    branch.check()
    block = find_block(notify)
    branch.lay()
    logger = get_run_logger()
    for change in options.apply(Path.cwd()):
        logger.info("params.yaml: %s", change)
    return Run(branch, resolve(branch.root, branch.published()), block)
