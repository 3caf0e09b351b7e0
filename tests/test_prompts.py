"""The shared prompts: splits by topic, without memory; and every refusal is a sentence."""

import json

import polars as pl
import pytest

from palette import prompts, tables
from palette.errors import PaletteError
from palette.params import Params
from palette.sandbox import world
from palette.schema import SPLITS

TRAITS = {"humor": {"kind": "humor"}}
ROWS = [
    {"prompt": f"Question {n} of {split}?", "topic": f"{split} {n // 2}", "split": split}
    for split in SPLITS
    for n in range(4)
]


def written(tmp_path, rows, name="prompts.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def refusal(path) -> str:
    with pytest.raises(PaletteError) as error:
        prompts.read(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_formats_agree(tmp_path, kind):
    path, frame = tmp_path / f"p.{kind}", pl.DataFrame(ROWS)
    {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[kind](
        path
    )
    found = prompts.read(path)
    assert found.select("prompt", "topic", "split").rows(named=True) == ROWS
    assert found["prompt_id"].n_unique() == len(ROWS)


def test_a_prompt_keeps_its_name_whatever_stands_around_it(tmp_path):
    found = prompts.read(written(tmp_path, ROWS))
    spaced = [row | {"prompt": f"  {row['prompt']}\t"} for row in reversed(ROWS)]
    again = prompts.read(written(tmp_path, [*spaced, spaced[0]]))
    assert dict(found.select("prompt", "prompt_id").rows()) == dict(
        again.select("prompt", "prompt_id").rows()
    )
    assert len(again) == len(ROWS)  # the repeated row is one prompt


def test_without_topics_and_splits_each_prompt_has_its_own_by_its_hash(tmp_path):
    rows = [{"prompt": f"Question {n}?"} for n in range(200)]
    found = prompts.read(written(tmp_path, rows))
    assert (found["topic"] == found["prompt"]).all()
    counts = dict(found["split"].value_counts().rows())
    assert {split: counts[split] / 200 for split in counts} == pytest.approx(
        prompts.SHARES, abs=0.1
    )
    fewer = prompts.read(written(tmp_path, rows[:150]))
    assert fewer.equals(found[:150])


def test_topics_without_splits_stay_whole(tmp_path):
    rows = [{"prompt": f"Question {n}?", "topic": f"topic {n // 5}"} for n in range(200)]
    found = prompts.read(written(tmp_path, rows))
    assert found["topic"].n_unique() == 40
    assert all(prompts.split_of(topic) == split for topic, split in found.select(
        "topic", "split"
    ).rows())  # fmt: skip


def test_split_of_has_no_memory_and_keeps_its_shares():
    assert {prompts.split_of(f"topic {n}") for n in range(100)} == set(SPLITS)
    assert [prompts.split_of(topic) for topic in ("mend a lamp", "sell a bike", "naïve ☕")] == [
        prompts.split_of(topic) for topic in ("mend a lamp", "sell a bike", "naïve ☕")
    ]
    drawn = [prompts.split_of(str(n)) for n in range(4000)]
    for split, share in prompts.SHARES.items():
        assert drawn.count(split) / 4000 == pytest.approx(share, abs=0.03)


def test_rows_may_lack_a_topic_or_a_split(tmp_path):
    lone = [{"prompt": "Alone?", "topic": None, "split": ""}, {"prompt": "7", "topic": 7}]
    found = prompts.read(written(tmp_path, [*ROWS, *lone]))
    for prompt, topic in (("Alone?", "Alone?"), ("7", "7")):
        row = found.row(by_predicate=pl.col("prompt") == prompt, named=True)
        assert (row["topic"], row["split"]) == (topic, prompts.split_of(topic))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([*ROWS, {"prompt": "  "}], "row 16: the prompt is empty"),
        ([*ROWS, {"prompt": None}], "row 16: the prompt is empty"),
        ([*ROWS, {"prompt": ["a", "b"]}], "row 16: prompt is not text"),
        ([{"question": "Why?"}], "no column 'prompt'"),
        ([{"prompt": "Why?", "splits": "train"}], "no column 'split': rename 'splits'"),
        ([*ROWS, {"prompt": "Why?", "split": "validation"}], "names the split 'validation'"),
        (
            [*ROWS, {"prompt": "Why?", "topic": "train 0", "split": "test"}],
            "puts topic 'train 0' into several splits; a topic must be in one",
        ),
        ([row for row in ROWS if row["topic"] != "test 1"], "has 1 topics in split 'test'"),
        ([row for row in ROWS if row["split"] != "select"], "has 0 topics in split 'select'"),
        ([], "is empty"),
    ],
    ids=str,
)
def test_rows_that_cannot_be_used_are_refused(tmp_path, rows, said):
    assert said in refusal(written(tmp_path, rows))


def test_files_that_cannot_be_used_are_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "none.csv")
    for name, content, said in (
        ("a.xlsx", b"PK", "none of .parquet, .csv, .jsonl"),
        ("a.parquet", b"no parquet at all", "not a readable Parquet file"),
        ("a.csv", b'prompt\n"open', "opens a quote"),
        ("b.csv", b"prompt\n", "has no rows"),
        ("a.jsonl", b"{", "holds no JSON object"),
    ):
        (tmp_path / name).write_bytes(content)
        assert said in refusal(tmp_path / name)


def test_the_sandboxs_prompts_are_one_a_topic(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prompts.main(Params.model_validate({"traits": TRAITS}))
    found = tables.read("prompts")
    assert found["topic"].n_unique() == found["prompt_id"].n_unique() == len(found)
    assert dict(found["split"].value_counts().rows()) == {
        "train": prompts.SANDBOX_TRAIN, **world.SPLIT_TOPICS
    }  # fmt: skip
    of = {topic.name: split for split, topics in world.topics(0).items() for topic in topics}
    assert all(of[topic] == split for topic, split in found.select("topic", "split").rows())
    assert not found.equals(prompts.sandbox(1))


def test_the_file_that_params_name_is_what_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inputs/prompts").mkdir(parents=True)
    written(tmp_path / "inputs/prompts", ROWS)
    file = "inputs/prompts/prompts.jsonl"
    prompts.main(Params.model_validate({"traits": TRAITS, "prompts": {"file": file}}))
    assert tables.read("prompts")["prompt"].to_list() == [row["prompt"] for row in ROWS]
