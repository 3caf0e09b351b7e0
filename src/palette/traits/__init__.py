"""Traits: one dimension of preference each, with a reward r(x, y) in [0, 1].

A trait is a module here with one function, `reward(prompts, responses, **parameters) -> (rows,)`;
`params.yaml` names the module as the trait's `kind` and gives the parameters. One module per trait,
so that editing one makes DVC score that one again and no other.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module

import numpy as np

from palette.errors import PaletteError
from palette.params import Trait


def score_one(
    name: str, trait: Trait, prompts: Sequence[str], responses: Sequence[str]
) -> np.ndarray:
    """Rewards (rows,) of one trait.

    Raises:
        PaletteError: the trait's module or parameters fail, or a reward is not in [0, 1].
    """
    try:
        reward = import_module(f"palette.traits.{trait.kind}").reward
        values = np.asarray(reward(prompts, responses, **(trait.model_extra or {})), dtype=float)
    except Exception as error:  # a reward is anyone's code, and may fail in any way
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise PaletteError(
            f"traits.{name} of kind '{trait.kind}' failed ({said}); mend its parameters or its code"
        ) from error
    if values.shape != (len(responses),):
        raise PaletteError(
            f"traits.{name} gave an array of shape {values.shape} for {len(responses)} answers; "
            "mend the reward so that it gives one number an answer"
        )
    wrong = ~((values >= 0) & (values <= 1))
    if wrong.any():
        row = int(wrong.argmax())
        raise PaletteError(
            f"traits.{name} gave {values[row]} for row {row}; mend the reward so that it is in [0, 1]"
        )
    return values


def score(
    traits: Mapping[str, Trait], prompts: Sequence[str], responses: Sequence[str]
) -> np.ndarray:
    """Rewards (rows, traits), in the order of the mapping."""
    return np.column_stack([score_one(n, t, prompts, responses) for n, t in traits.items()])
