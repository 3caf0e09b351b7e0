"""Resampling rollouts of the base toward the ideal policy π*_w ∝ π_ref exp(w·r/β)."""

import numpy as np


def resample(
    tilt: np.ndarray, draws: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw rollouts of every prompt in proportion to exp(w·r/β), as often for each prompt.

    Self-normalised importance resampling within a prompt: for many samples the draws are answers
    of π*_w. Systematic (one uniform number per prompt), so that a rollout of weight p is drawn
    ⌊p·draws⌋ or ⌈p·draws⌉ times: the least variance that resampling can have.

    Args:
        tilt: (prompts, samples) w·r/β of the base's rollouts.
        draws: answers drawn per prompt.

    Returns:
        prompt and sample indices, (prompts * draws,) each, prompt by prompt.

    Raises:
        ValueError: a tilt is not finite.
    """
    if not np.isfinite(tilt).all():
        raise ValueError("every tilt must be a finite number")
    weights = np.exp(tilt - tilt.max(axis=1, keepdims=True))
    cumulative = np.cumsum(weights, axis=1)
    # Scaled by the sum itself, since a sum of shares may round to less than 1.
    positions = (np.arange(draws) + rng.random((len(tilt), 1))) / draws * cumulative[:, -1:]
    samples = [
        np.searchsorted(sums, row, side="right")
        for sums, row in zip(cumulative, positions, strict=True)
    ]
    prompts = np.repeat(np.arange(len(tilt)), draws)
    return prompts, np.minimum(np.concatenate(samples), tilt.shape[1] - 1)
