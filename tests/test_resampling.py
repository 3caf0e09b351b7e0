"""Resampling toward exp(w·r/β): right proportions, as many draws for each prompt, low variance."""

import numpy as np
import pytest

from palette.core.resampling import resample


def counts(tilt, draws, seed=0):
    prompts, samples = resample(tilt, draws, np.random.default_rng(seed))
    table = np.zeros(tilt.shape)
    np.add.at(table, (prompts, samples), 1)
    return table


def test_each_rollout_is_drawn_its_share_of_times_up_to_one():
    tilt = np.random.default_rng(1).normal(0, 4, (5, 40))
    share = np.exp(tilt) / np.exp(tilt).sum(axis=1, keepdims=True)
    table = counts(tilt, 1000)
    assert (table.sum(axis=1) == 1000).all()
    assert (np.abs(table - 1000 * share) < 1).all()


def test_draws_are_unbiased_where_there_are_few():
    tilt = np.log([[0.1, 0.2, 0.7]])
    mean = np.mean([counts(tilt, 2, seed) for seed in range(3000)], axis=0) / 2
    assert np.allclose(mean, [[0.1, 0.2, 0.7]], atol=0.02)


def test_a_constant_added_to_a_prompt_changes_nothing_and_no_tilt_overflows():
    tilt = np.random.default_rng(2).random((3, 10)) * 5
    shifted = tilt + np.array([[0.0], [5000.0], [-5000.0]])
    assert (counts(tilt, 64) == counts(shifted, 64)).all()


def test_a_tilt_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="finite"):
        resample(np.array([[0.0, np.nan]]), 4, np.random.default_rng(0))
