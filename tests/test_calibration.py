"""Scores of any scale become rewards: by a range, or by quantiles fitted once and frozen."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from palette import calibration, traits
from palette.core import scaling
from palette.errors import PaletteError
from palette.params import Trait

NUMBERS = st.floats(-1e6, 1e6)
LENGTH = Trait(kind="python", function="size:score", calibrate="quantiles")
SIZE = "def score(prompts, responses):\n    return [float(len(text)) for text in responses]\n"


@given(st.lists(NUMBERS, min_size=1, max_size=9), NUMBERS, NUMBERS)
def test_scaling_is_affine_between_its_ends_and_flat_beyond(scores, low, high):
    assume(abs(high - low) > 1e-3)
    values = np.array(scores)
    found = scaling.rewards(values, low, high)
    assert ((found >= 0) & (found <= 1)).all()
    inside = (values >= min(low, high)) & (values <= max(low, high))
    np.testing.assert_allclose(low + found[inside] * (high - low), values[inside], atol=1e-6)
    order = np.argsort(values if high > low else -values, kind="stable")
    assert (np.diff(found[order]) >= 0).all()
    np.testing.assert_allclose(scaling.rewards(values, high, low), 1 - found, atol=1e-9)


@given(st.integers(0, 10**6), st.floats(-9, 9), st.floats(0.1, 9))
def test_a_calibration_knows_no_units_and_no_outliers(seed, shift, scale):
    values = np.random.default_rng(seed).standard_t(3, size=400)
    found = scaling.rewards(values, *scaling.ends(values))
    assert (found > 0).mean() > 0.98 and (found < 1).mean() > 0.98
    moved = shift + scale * values
    np.testing.assert_allclose(scaling.rewards(moved, *scaling.ends(moved)), found, atol=1e-9)
    assert scaling.ends(np.append(values, 1e12))[1] <= values.max()


@pytest.fixture
def size(tmp_path, monkeypatch) -> Path:
    """A project with a trait whose scores are lengths."""
    monkeypatch.chdir(tmp_path)
    module = Path("inputs/traits/size.py")
    module.parent.mkdir(parents=True)
    module.write_text(SIZE)
    return module


def give(responses: list[str], trait: Trait = LENGTH) -> list[float]:
    return traits.score_one("size", trait, [""] * len(responses), responses).tolist()


def fit(scores: np.ndarray, trait: Trait = LENGTH) -> tuple[float, float]:
    return calibration.write("size", traits.identity("size", trait), scores)


def test_a_calibration_is_fitted_once_and_decides_from_then_on(size):
    with pytest.raises(PaletteError, match=(
        r"^traits\.size is not calibrated yet; run `palette traits calibrate size` and commit "
        r"inputs/traits/calibration/size\.json$"
    )):  # fmt: skip
        give(["a"])
    assert traits.files("size", LENGTH)["calibration"] == ""
    assert fit(np.linspace(0, 100, 101)) == (1, 99)
    np.testing.assert_allclose(give(["", "a", "b" * 50, "c" * 99, "d" * 500]), [0, 0, 0.5, 1, 1])
    assert traits.files("size", LENGTH)["calibration"] != ""
    with pytest.raises(PaletteError, match=r"is fitted already, and frozen .* delete it"):
        fit(np.linspace(0, 7, 101))
    assert json.loads(calibration.path("size").read_text())["high"] == 99


def test_a_calibration_is_of_the_reward_that_it_was_fitted_to(size):
    fit(np.linspace(0, 100, 101))
    judge = LENGTH.model_copy(update={"role": "judge"})
    assert give(["b" * 50], judge) == give(["b" * 50])  # the role is no part of a reward
    size.write_text(SIZE.replace("len(text)", "2 * len(text)"))
    with pytest.raises(
        PaletteError, match=r"was fitted to another reward than traits\.size is now; run"
    ):
        give(["a"])
    assert fit(np.linspace(0, 200, 201)) == (2, 198)
    np.testing.assert_allclose(give(["b" * 50]), [0.5])


def test_scores_without_a_scale_are_refused(size):
    with pytest.raises(
        PaletteError, match=r"\(at least 98% of the scores are 3\); declare its range"
    ):
        fit(np.r_[np.full(997, 3.0), 1, 2, 5])
    assert not calibration.path("size").exists()


@pytest.mark.parametrize("text", ["<<<<<<< HEAD", "[1, 2]", '{"low": 0}', "null"])
def test_a_calibration_that_is_damaged_is_named(size, text):
    calibration.path("size").parent.mkdir()
    calibration.path("size").write_text(text)
    for act in (lambda: give(["a"]), lambda: fit(np.arange(9.0))):
        with pytest.raises(
            PaletteError, match=r"size\.json is (no calibration|damaged); delete it"
        ):
            act()
