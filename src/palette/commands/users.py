"""`palette users`: looks at histories before anything runs on them, and forgets users.

palette users check inputs/users/histories.csv
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palette.commands import screen
from palette.commands.forget import forget
from palette.errors import PaletteError

if TYPE_CHECKING:
    import polars as pl

    from palette.histories import Validated

SHOWN = 60
"""Characters shown of a text."""
LENGTHS = (1, 5, 10, 20)
"""Users are counted with at least so many rows."""

users = typer.Typer(
    help="Check histories before they are used, and forget users.\n\n"
    "Example: palette users check chats.jsonl",
    no_args_is_help=True,
)


@users.callback()
def _group() -> None:
    pass


@users.command()
def check(
    file: Annotated[Path, typer.Argument(help="histories, as users.file may name them")],
) -> None:
    """Say what would be kept of a file, what would be dropped, and why.

    Nothing is run. Exit status: 0 when something is kept, 1 otherwise.

    Example: palette users check inputs/users/chats.jsonl
    """
    from palette import forgotten
    from palette.histories import read_histories, validate, without

    rows = read_histories(file)
    left = without(rows, forgotten.read())
    if len(left) < len(rows):
        print(f"{'forgotten':12} {len(rows) - len(left):,} rows, which are left out of all below")
    found = validate(left, unseen=0.0)
    _show(found)
    if found.histories.is_empty() and len(found.rejected):
        raise PaletteError(f"{file}: no row can be kept: mend what is listed above")


users.command()(forget)


def _show(found: "Validated") -> None:
    for label, value in (*_counts(found), *_example(found), *_doubts(found.users)):
        print(f"{label:12} {value}")
    if found.rejected.is_empty():
        return
    table = screen.table("rejected", "reason", "first row", "which says")
    for reason, count, row, content in _reasons(found.rejected):
        table.add_row(f"{count:,}", reason, str(row), printable(content))
    screen.console().print(table)


def _counts(found: "Validated") -> list[tuple[str, str]]:
    kept, lengths = found.histories, found.users["rows"]
    said = {"a rating": kept["rating"], "a timestamp": kept["timestamp"]}
    told = ", ".join(
        f"{len(column) - column.null_count():,} with {k}" for k, column in said.items()
    )
    spread = ", ".join(f"{(lengths >= least).sum():,} with {least}+" for least in LENGTHS)
    return [
        ("kept", f"{len(kept):,} rows; {told}"),
        ("rejected", f"{len(found.rejected):,} rows"),
        ("users", f"{len(lengths):,}; by rows: {(lengths == 0).sum():,} without, {spread}"),
        ("public", f"{found.users['public'].sum():,} users: no others are shown in reports"),
    ]


def _example(found: "Validated") -> list[tuple[str, str]]:
    """The first kept row, of those with letters beyond ASCII where there are any."""
    import polars as pl

    beyond = pl.concat_str("user_id", "prompt", "response").str.contains(r"[^\x00-\x7f]")
    first = found.histories.sort(beyond, descending=True, maintain_order=True).head(1)
    return [
        (f"{'e.g. ' if name == 'user_id' else ''}{name}", printable(row[name]))
        for row in first.iter_rows(named=True)
        for name in ("user_id", "prompt", "response")
    ]


def _doubts(listed: "pl.DataFrame") -> list[tuple[str, str]]:
    """Ids that may be one user's: they differ in case, spaces or the form of their letters alone."""
    import unicodedata

    same: dict[str, list[str]] = {}
    for user in listed["user_id"]:
        form = unicodedata.normalize("NFKC", user).casefold()
        same.setdefault(" ".join(form.split()), []).append(user)
    alike = [ids for ids in same.values() if len(ids) > 1]
    first = " and ".join(map(repr, alike[0][:2])) if alike else ""
    return [("note", f"{len(alike):,} × ids alike, such as {printable(first)}")] if alike else []


def _reasons(rejected: "pl.DataFrame") -> list[tuple[str, int, int, str]]:
    """(reason, rows, first row, its content), the most frequent first; duplicates are one reason."""
    import polars as pl

    reason = pl.col("reason").str.replace(r"^the same as row \d+$", "the same as an earlier row")
    return (
        rejected.group_by(reason, maintain_order=True)
        .agg(pl.len(), pl.col("source_row", "content").first())
        .sort("len", descending=True, maintain_order=True)
        .rows()
    )


def printable(text: str) -> str:
    """The beginning of a text, for a terminal: what is no plain character is written out."""
    shown = text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
