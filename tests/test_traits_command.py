"""`palette traits`: what it shows, what it complains of, and what it freezes."""

import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from palette import cli, tables
from palette.core import spread

SHORT = {"kind": "brevity", "best": 8, "worst": 34}


@pytest.fixture
def palette(tmp_path, monkeypatch, capsys):
    """Run `palette traits` on some traits in an empty folder; (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")

    def run(named: dict, *arguments: str) -> tuple[int, str, str]:
        Path("params.yaml").write_text(yaml.safe_dump({"traits": named}))
        monkeypatch.setattr(sys, "argv", ["palette", "traits", *arguments])
        with pytest.raises(SystemExit) as exit:
            cli.app()
        out, err = capsys.readouterr()
        if isinstance(exit.value.code, str):
            return 1, out, exit.value.code
        return exit.value.code, out, err

    return run


def write_rollouts(texts: list[str]) -> None:
    """Rollouts of two train prompts and of a test prompt, which says something else."""
    prompts = pl.DataFrame({"prompt_id": ["a", "b", "c"], "prompt": ["How?", "Why?", "Who?"],
                            "topic": ["a", "b", "c"], "split": ["train", "train", "test"]})  # fmt: skip
    tables.write("prompts", prompts)
    rows = [
        {"prompt_id": name, "sample": sample, "response": text if name != "c" else "test",
         "tokens": [1], "logprob": -1.0}
        for name in "abc" for sample, text in enumerate(texts)
    ]  # fmt: skip
    tables.write("rollouts", pl.DataFrame(rows))


def test_traits_that_are_fine_are_shown_on_the_sandboxs_texts(palette):
    traits = {
        "brevity": SHORT,
        "humor": {"kind": "humor"},
        "care": {"kind": "safety", "role": "judge"},
    }
    status, out, err = palette(traits, "check")
    assert (status, err) == (0, "")
    assert "512 texts of the sandbox, since the base has no rollouts yet" in out
    rows = {line.split()[0]: line for line in out.splitlines() if line.split()}
    assert "safety, judge" in rows["care"] and "█" in rows["humor"]
    assert all(float(rows[name].split()[-1]) < 5 for name in traits)  # ms an answer
    assert out.count("correlation of") == 3


def test_the_bases_own_train_rollouts_come_first(palette):
    write_rollouts([f"{'word ' * n}" for n in range(1, 41)])
    status, out, err = palette({"brevity": SHORT}, "check", "--answers", "40")
    assert (status, err) == (0, "") and "40 rollouts of the base's train prompts" in out


def test_what_is_wrong_is_said_with_its_cure(palette):
    write_rollouts(["haha"] * 2 + ["no"] * 58)
    traits = {
        "dull": {"kind": "regex", "pattern": "nowhere"}, "rare": {"kind": "regex", "pattern": "haha"},
        "wit": {"kind": "humor"}, "broken": {"kind": "regex", "pattern": "("}, "short": SHORT,
    }  # fmt: skip
    status, out, err = palette(traits, "check", "--answers", "120")
    assert status == 1
    said = err.splitlines()
    assert all(line.startswith("palette: ") for line in said)
    for part in (
        "traits.broken of kind 'regex' failed", "traits.dull gives 0 to every answer",
        "traits.rare gives 0 to 96.7% of the answers",
        "rare and wit are nearly one trait (correlation 1.00)",
        "traits.short gives 1 to every answer",
    ):  # fmt: skip
        assert any(part in line for line in said), part
    assert "rare" in out and "broken" not in out


def test_a_calibration_is_fitted_to_train_rollouts_and_used(palette):
    length = {"kind": "python", "function": "size:score", "calibrate": "quantiles"}
    traits = {"length": length, "short": SHORT}
    Path("inputs/traits").mkdir(parents=True)
    Path("inputs/traits/size.py").write_text(
        "def score(prompts, responses):\n    return [float(len(text)) for text in responses]\n"
    )
    status, _, err = palette(traits, "calibrate", "length")
    assert (status, err) == (
        1,
        "palette: data/prompts/prompts.parquet does not exist; run `dvc repro` to make it",
    )
    write_rollouts(["x" * n for n in range(101)])
    assert "traits.length is not calibrated yet" in palette(traits, "check")[2]
    status, out, _ = palette(traits, "calibrate", "length")
    assert status == 0
    # Of each of the two train prompts the first 64, whose lengths are 0 to 63.
    low, high = np.quantile(np.repeat(np.arange(64), 2), [0.01, 0.99])
    assert (
        f"a score of {low:.4g} means 0 and {high:.4g} means 1, by 128 of the base's answers" in out
    )
    assert "traits.length" not in palette(traits, "check")[2]
    assert "fitted already, and frozen" in palette(traits, "calibrate", "length")[2]
    assert "traits.short is not to be calibrated; add" in palette(traits, "calibrate", "short")[2]
    assert "no trait 'lenght'; did you mean 'length'?" in palette(traits, "calibrate", "lenght")[2]


@given(arrays(float, st.integers(1, 60), elements=st.floats(0, 1)))
def test_a_histogram_has_a_bar_wherever_there_is_an_answer(rewards):
    found = spread.histogram(rewards, bins=10)
    assert len(found) == 10 and spread.BARS[-1] in found
    counts = np.histogram(rewards, 10, (0, 1))[0]
    assert [bar != " " for bar in found] == (counts > 0).tolist()


def test_complaints_have_their_bounds():
    rng = np.random.default_rng(0)
    one = rng.random(1000)
    assert spread.complaints({"a": one, "b": rng.random(1000), "c": 1 - one}) == []
    assert len(spread.complaints({"a": one, "b": 0.5 * one})) == 1
    for zeros, said in ((950, 0), (951, 1)):
        rewards = np.r_[np.zeros(zeros), np.linspace(0.1, 1, 1000 - zeros)]
        assert len(spread.complaints({"a": rewards, "b": one})) == said
