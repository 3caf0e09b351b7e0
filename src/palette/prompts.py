"""Stage `prompts`: the shared questions on which policies are compared.

    python -m palette.prompts

A frozen input of its own, never derived from users' rows; splits are by topic, never within one.
"""

import hashlib
from pathlib import Path

import numpy as np
import polars as pl

from palette import stage, tables
from palette.errors import PaletteError
from palette.params import Params

SANDBOX_TRAIN = 64
SHARES = {"train": 0.4, "select": 0.2, "certify": 0.25, "test": 0.15}
READERS = {".csv": pl.read_csv, ".jsonl": pl.read_ndjson, ".parquet": pl.read_parquet}


def main(params: Params) -> None:
    file = params.prompts.file
    tables.write("prompts", read(Path(file)) if file else sandbox(params.sandbox.seed))


def sandbox(seed: int) -> pl.DataFrame:
    """One question on each topic of the sandbox."""
    from palette.sandbox import world

    rng = np.random.default_rng([seed, 5])
    rows = [
        {"prompt": topic.ask(rng), "topic": topic.name, "split": split}
        for split, topics in world.topics(seed).items()
        for topic in (topics[:SANDBOX_TRAIN] if split == "train" else topics)
    ]
    return _name(pl.DataFrame(rows))


def read(file: Path) -> pl.DataFrame:
    """Prompts from a file: `prompt`, optional `topic` (else each its own) and `split` (else by hash).

    Raises:
        PaletteError: the file cannot be used; the sentence says which row or column.
    """
    if file.suffix not in READERS:
        raise PaletteError(f"prompts.file '{file}' must end in {', '.join(READERS)}")
    if not file.exists():
        raise PaletteError(f"prompts.file '{file}' does not exist")
    try:
        frame = READERS[file.suffix](file)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise PaletteError(
            f"prompts.file '{file}' cannot be read: {str(error).splitlines()[0]}"
        ) from None
    if "prompt" not in frame.columns:
        raise PaletteError(f"prompts.file '{file}' has no column 'prompt', only {frame.columns}")
    frame = frame.with_columns(pl.col("prompt").cast(pl.String).str.strip_chars())
    empty = frame["prompt"].fill_null("").eq("")
    if frame.is_empty() or empty.any():
        where = f"row {empty.arg_max()} has an empty prompt" if len(frame) else "it has no rows"
        raise PaletteError(f"prompts.file '{file}': {where}; mend or remove it")
    frame = frame.unique("prompt", keep="first", maintain_order=True)
    if "topic" not in frame.columns:
        frame = frame.with_columns(topic=pl.col("prompt"))
    if "split" not in frame.columns:
        frame = frame.with_columns(split=pl.col("topic").map_elements(split_of, pl.String))
    _check_splits(frame, file)
    return _name(frame)


def split_of(topic: str) -> str:
    """The split of a topic: by its hash, so that another topic changes nothing."""
    place = int(hashlib.sha256(topic.encode()).hexdigest()[:8], 16) / 2**32
    edges = np.cumsum(list(SHARES.values()))
    return list(SHARES)[min(int(np.searchsorted(edges, place, side="right")), len(SHARES) - 1)]


def _check_splits(frame: pl.DataFrame, file: Path) -> None:
    unknown = set(frame["split"]) - set(tables.SPLITS)
    if unknown:
        raise PaletteError(
            f"prompts.file '{file}' names the split '{min(unknown)}'; use {tables.SPLITS}"
        )
    torn = frame.group_by("topic").agg(pl.col("split").n_unique()).filter(pl.col("split") > 1)
    if len(torn):
        raise PaletteError(
            f"prompts.file '{file}' puts topic '{torn['topic'].sort()[0]}' into several splits; "
            "a topic must be in one"
        )
    for split in tables.SPLITS:
        topics = frame.filter(pl.col("split") == split)["topic"].n_unique()
        if topics < 2:
            raise PaletteError(
                f"prompts.file '{file}' has {topics} topics in split '{split}', but every split "
                "needs 2; add prompts or name the splits yourself"
            )


def _name(frame: pl.DataFrame) -> pl.DataFrame:
    """Stable names, from the text alone."""
    digest = [hashlib.sha256(prompt.encode()).hexdigest()[:10] for prompt in frame["prompt"]]
    return frame.with_columns(prompt_id=pl.Series(digest))


if __name__ == "__main__":
    stage.run(main)
