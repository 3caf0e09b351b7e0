"""What commands print: coloured on a terminal, plain text elsewhere and where NO_COLOR is set."""

import errno
import io
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

COLOURS = {"PASS": "bold green", "FAIL": "bold red", "warning": "bold yellow"}
UNBROKEN = 10_000
"""Columns of what is no terminal: programs want a row on one line."""


def console(stderr: bool = False) -> "Console":
    """Where tables go. Nothing in what is printed is taken for markup."""
    from rich.console import Console

    class Screen(Console):
        def on_broken_pipe(self) -> None:
            """The caller knows with which status to end; Rich would end with 1."""
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    made = Screen(
        stderr=stderr, highlight=False, markup=False, emoji=False,
        color_system=None if os.environ.get("NO_COLOR") else "auto",
    )  # fmt: skip
    if not made.is_terminal and not os.environ.get("COLUMNS"):
        made.width = UNBROKEN
    return made


def table(*titles: str, numbers: tuple[str, ...] = ()) -> "Table":
    """An empty table.

    Args:
        titles: of its columns.
        numbers: of further columns, aligned to the right.
    """
    from rich import box
    from rich.table import Table

    made = Table(*titles, box=box.SIMPLE_HEAD, pad_edge=False)
    for title in numbers:
        made.add_column(title, justify="right")
    return made


def say(line: str, stderr: bool = False) -> None:
    """Print a line as it is, verdicts coloured."""
    from rich.text import Text

    text = Text(line)
    for word, style in COLOURS.items():
        text.highlight_words([word], style)
    console(stderr).print(text, soft_wrap=True)


def prepare() -> None:
    """Let no locale stop a command by what it cannot write, and Typer be as plain as asked for."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    if os.environ.get("NO_COLOR"):
        from typer import rich_utils

        rich_utils.COLOR_SYSTEM = None
