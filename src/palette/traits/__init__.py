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


def score_one(name: str, trait: Trait, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
    """Rewards (rows,) of one trait.

    Raises:
        PaletteError: the trait's parameters do not fit its kind, or a reward is not in [0, 1].
    """
    reward = import_module(f"palette.traits.{trait.kind}").reward
    try:
        values = np.asarray(reward(prompts, responses, **(trait.model_extra or {})), dtype=float)
    except TypeError as error:
        raise PaletteError(f"traits.{name} does not fit kind '{trait.kind}': {error}") from None
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
