"""Cells of the tables in a pull request: numbers, what they turned to, and text that stays inert."""

import html
from collections.abc import Mapping
from typing import Any

from palette.reporting.samples import plain
from palette.review.changes import worded

ROWS = 40  # of a table
PERCENT = "{:.2%}"
CUT = 240  # characters of a text


def section(title: str, header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """A heading and a table under it; nothing where there are no rows."""
    return f"### {title}\n\n{table(header, rows)}" if rows else ""


def table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """As many rows as a reader looks at; cells are Markdown already."""
    lines = [header, ("---",) * len(header), *rows[:ROWS]]
    text = "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
    return text if len(rows) <= ROWS else f"{text}\n\nand {len(rows) - ROWS} more."


def turned(old: str, new: str) -> str:
    """What something was and is; either may be nothing."""
    return old or new if old == new or not (old and new) else f"{old} → {new}"


def figure(metrics: Mapping[str, Any], key: str, shape: str) -> str:
    """A number of the metrics; null there is what nothing of the run bounds."""
    if key not in metrics:
        return ""
    return "none" if metrics[key] is None else shape.format(metrics[key])


def apart(before: Mapping[str, Any], after: Mapping[str, Any], key: str) -> str:
    """Whether the intervals of a number leave any doubt that it changed."""
    ends = [metrics.get(f"{key}.{end}") for metrics in (before, after) for end in ("low", "high")]
    if None in ends:
        return ""
    low, high, new_low, new_high = ends
    return "overlap" if low <= new_high and new_low <= high else "**apart**"


def inert(value: Any) -> str:
    """A value as Markdown that does nothing, in one cell."""
    return plain(shortened(worded(value)))


def literal(text: str | None) -> str:
    """A model's text as code in HTML: no markup, mention or link of its own, nothing hidden."""
    return "" if text is None else f"<code>{html.escape(shortened(text), quote=False)}</code>"


def shortened(text: str) -> str:
    """One line of signs that can be seen, and not too many."""
    seen = "".join(sign for sign in " ".join(text.split()) if sign.isprintable())
    return seen if len(seen) <= CUT else f"{seen[: CUT - 1]}…"
