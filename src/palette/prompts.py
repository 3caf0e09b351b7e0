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
from palette.readers import read_rows
from palette.records import Columns
from palette.schema import SPLITS

SANDBOX_TRAIN = 96
SHARES = {"train": 0.4, "select": 0.2, "certify": 0.25, "test": 0.15}
COLUMNS = Columns(("prompt",), ("topic", "split"))


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
    """Prompts from a file: `prompt`, and where a row has them, `topic` and `split`.

    A prompt without a topic is a topic of its own; a topic without a split has one by its hash.

    Raises:
        PaletteError: the file cannot be used; the sentence says which row or column.
    """
    frame = read_rows(file, COLUMNS)
    texts = [pl.col(name).str.strip_chars().replace("", None) for name in COLUMNS.all]
    frame = frame.with_columns(texts)
    for row, prompt, fault in frame.select("source_row", "prompt", "fault").iter_rows():
        if fault or prompt is None:
            why = fault or "the prompt is empty"
            raise PaletteError(f"prompts.file '{file}', row {row}: {why}; mend or remove it")
    frame = frame.unique("prompt", keep="first", maintain_order=True)
    frame = frame.with_columns(pl.col("topic").fill_null(pl.col("prompt")))
    by_hash = pl.col("topic").map_elements(split_of, pl.String)
    frame = frame.with_columns(pl.col("split").fill_null(by_hash))
    _check_splits(frame, file)
    return _name(frame)


def split_of(topic: str) -> str:
    """The split of a topic: by its hash, so that another topic changes nothing."""
    place = int(hashlib.sha256(topic.encode()).hexdigest()[:8], 16) / 2**32
    edges = np.cumsum(list(SHARES.values()))
    return list(SHARES)[min(int(np.searchsorted(edges, place, side="right")), len(SHARES) - 1)]


def _check_splits(frame: pl.DataFrame, file: Path) -> None:
    unknown = set(frame["split"]) - set(SPLITS)
    if unknown:
        raise PaletteError(f"prompts.file '{file}' names the split '{min(unknown)}'; use {SPLITS}")
    torn = frame.group_by("topic").agg(pl.col("split").n_unique()).filter(pl.col("split") > 1)
    if len(torn):
        raise PaletteError(
            f"prompts.file '{file}' puts topic '{torn['topic'].sort()[0]}' into several splits; "
            "a topic must be in one"
        )
    for split in SPLITS:
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
