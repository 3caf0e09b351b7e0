"""The table that `palette select` reads: policies that exist, what they are worth, what they cost.

policy, OBJECTIVE, ..., [cost], [prompt]
"""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from palette.errors import PaletteError

if TYPE_CHECKING:
    import polars as pl

    from palette.core.paired import Measured

KNOWN = ("policy", "cost", "prompt")
NEAR = 0.85  # how like a known column another must be named to be taken for a misspelt one


@dataclass(frozen=True)
class PolicyTable:
    objectives: tuple[str, ...]
    measured: "Measured"
    """policies in the table's order; a table without prompts is one prompt"""
    prompts: tuple[str, ...] | None


def read(path: Path) -> PolicyTable:
    """Read and check a CSV, Parquet or JSONL table.

    Raises:
        PaletteError: the table cannot be used; one sentence says why.
    """
    frame = _load(path)
    for name in frame.columns:
        near = difflib.get_close_matches(name.strip().lower(), KNOWN, n=1, cutoff=NEAR)
        if name not in KNOWN and near:
            raise PaletteError(f"{path} has a column '{name}': rename it to '{near[0]}'")
    if "policy" not in frame.columns:
        raise PaletteError(f"{path} has no column 'policy': it needs one, with a name in each row")
    objectives = tuple(name for name in frame.columns if name not in KNOWN)
    if not objectives:
        raise PaletteError(f"{path} has no objective: add a column of numbers for each")
    keys = [name for name in ("policy", "prompt") if name in frame.columns]
    frame = frame.with_columns(_text(path, frame, name) for name in keys)
    numbers = [name for name in frame.columns if name not in ("policy", "prompt")]
    frame = frame.with_columns(_numbers(path, frame, name) for name in numbers)
    return _arrange(path, frame, objectives)


def refuse_negative(table: PolicyTable) -> None:
    """Where a share of the best is asked, values below 0 are wrong.

    Raises:
        PaletteError: names the first of them.
    """
    import numpy as np

    below = np.argwhere(table.measured.values < 0)
    if len(below):
        policy, prompt, objective = below[0]
        raise PaletteError(
            f"policy '{table.measured.names[policy]}' has "
            f"{table.measured.values[policy, prompt, objective]:g} for "
            f"'{table.objectives[objective]}', and a share of a negative value means nothing: "
            "shift or --normalize the objective, or use --epsilon 0 with a --delta"
        )


def _load(path: Path) -> "pl.DataFrame":
    import polars as pl

    readers = {
        ".csv": lambda: pl.read_csv(path, infer_schema=False),
        ".parquet": lambda: pl.read_parquet(path),
        ".jsonl": lambda: pl.read_ndjson(path, infer_schema_length=None),
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise PaletteError(f"{path} is none of {', '.join(readers)}: save it as one of these")
    if not path.is_file():
        raise PaletteError(f"{path} does not exist: name a table of policies")
    try:
        frame = reader()
    except (pl.exceptions.PolarsError, OSError):
        raise PaletteError(f"{path} cannot be read as {path.suffix}: write it again") from None
    twice = [name for name in frame.columns if "_duplicated_" in name]
    if twice:
        name = twice[0].rsplit("_duplicated_", 1)[0]
        raise PaletteError(f"{path} has two columns '{name}': keep one")
    if frame.is_empty():
        raise PaletteError(f"{path} has no rows: it needs one for each policy")
    return frame


def _text(path: Path, frame: "pl.DataFrame", name: str) -> "pl.Series":
    import polars as pl

    column = frame[name].cast(pl.String, strict=False).str.strip_chars()
    missing = (column.is_null() | (column == "")).arg_true()
    if len(missing):
        raise PaletteError(f"{path}, row {missing[0] + 1}, has no {name}: fill it in")
    return column


def _numbers(path: Path, frame: "pl.DataFrame", name: str) -> "pl.Series":
    import polars as pl

    column = frame[name]
    if column.dtype == pl.String:
        column = column.str.strip_chars().replace("", None)
    elif not column.dtype.is_numeric() and column.dtype != pl.Null:
        raise PaletteError(f"{path} has a column '{name}' of {column.dtype}: it must hold numbers")
    found = column.cast(pl.Float64, strict=False)
    missing = (column.is_null() | (found.is_not_null() & ~found.is_finite())).arg_true()
    if len(missing):
        raise PaletteError(
            f"{path}, row {missing[0] + 1}, has no value of '{name}': fill it in or drop the row"
        )
    text = found.is_null().arg_true()
    if len(text):
        raise PaletteError(
            f"{path}, row {text[0] + 1}, has '{column[text[0]]}' for '{name}': it must be a number"
        )
    return found


def _arrange(path: Path, frame: "pl.DataFrame", objectives: tuple[str, ...]) -> PolicyTable:
    import numpy as np
    import polars as pl

    from palette.core.paired import Measured

    by_prompt = "prompt" in frame.columns
    if not by_prompt:
        frame = frame.with_columns(pl.lit("").alias("prompt"))
    names = tuple(frame["policy"].unique(maintain_order=True))
    prompts = tuple(frame["prompt"].unique(maintain_order=True))
    twice = frame.filter(frame.select("policy", "prompt").is_duplicated())
    if len(twice):
        policy, prompt = twice.row(0, named=True)["policy"], twice.row(0, named=True)["prompt"]
        where = f" with prompt '{prompt}'" if by_prompt else ""
        raise PaletteError(f"{path} has policy '{policy}'{where} in two rows: keep one")
    if len(names) == 1:
        raise PaletteError(f"{path} has one policy, '{names[0]}': there is nothing to choose")
    if len(frame) < len(names) * len(prompts):
        pairs = set(frame.select("policy", "prompt").iter_rows())
        policy, prompt = next((n, p) for n in names for p in prompts if (n, p) not in pairs)
        raise PaletteError(
            f"{path} has no row for policy '{policy}' with prompt '{prompt}': every policy needs "
            "every prompt"
        )
    row = {name: index for index, name in enumerate(names)}
    column = {prompt: index for index, prompt in enumerate(prompts)}
    at = (
        [row[name] for name in frame["policy"]],
        [column[prompt] for prompt in frame["prompt"]],
    )
    values = np.zeros((len(names), len(prompts), len(objectives)))
    costs = np.zeros((len(names), len(prompts)))
    values[at] = frame.select(objectives).to_numpy()
    if "cost" in frame.columns:
        costs[at] = frame["cost"].to_numpy()
    return PolicyTable(objectives, Measured(names, values, costs), prompts if by_prompt else None)
