"""Rewards of answers that a stage writes down: with progress, and kept in the store where they are dear.

Scores of models and of functions of the user's are stored a batch at a time by the hash of what made
them: an interrupted scoring goes on where it stopped, and another trait's change asks no model again.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import numpy as np

from palette import traits
from palette.params import Params
from palette.progress import progress
from palette.store import Store, key

DEAR = ("python", *traits.MODELS)
"""Kinds whose scores are kept."""
FILE = "scores"


def score(params: Params, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
    """Rewards (rows, traits) of the traits that are trained for."""
    ask = partial(score_one, params, prompts=prompts, responses=responses)
    return np.column_stack([ask(name) for name in params.trait_names])


def score_one(
    params: Params, name: str, prompts: Sequence[str], responses: Sequence[str],
    by: Callable[..., np.ndarray] = traits.score_one,
) -> np.ndarray:  # fmt: skip
    """Rewards (rows,) of one trait.

    Args:
        by: traits.score_one, or traits.raw for scores as they are before range and calibration.
    """
    trait, device = params.traits[name], params.runtime.device
    if trait.kind not in DEAR:
        return by(name, trait, prompts, responses, device)
    keep = keeper(params, name, prompts, responses)
    with progress(f"scores of {name}", len(responses)) as advance, threads(params, name):
        return by(name, trait, prompts, responses, device, advance, keep)


def keeper(
    params: Params, name: str, prompts: Sequence[str], responses: Sequence[str]
) -> traits.Keeper:
    """Takes a batch's scores from the store, or scores it and stores it."""
    trait, store = params.traits[name], Store(params.runtime.store)
    made_of = [traits.identity(name, trait), traits.code(trait), *_asked(trait.kind)]

    def keep(rows: range, ask: Callable[[], np.ndarray]) -> np.ndarray:
        some = slice(rows.start, rows.stop)
        place = key("scores", made_of, prompts[some], responses[some])
        kept = store.load(place)
        if kept is None:
            kept = {FILE: ask().tobytes()}
            store.save(place, kept)
        return np.frombuffer(kept[FILE])

    return keep


def threads(params: Params, name: str) -> AbstractContextManager[None]:
    """A kind that asks a model has the threads of all workers."""
    if params.traits[name].kind not in traits.MODELS:
        return nullcontext()
    from palette.fanout import lent

    return lent(params.runtime)


def _asked(kind: str) -> list[object]:
    """What besides the trait decides the scores of a model: the base, and how it is asked."""
    if kind not in traits.MODELS:
        return []
    from palette.lm import templates
    from palette.lm.models import BASE, digest

    rubric = templates.rubric("p", "a", "s", ("yes", "no"))
    return [digest(BASE), rubric, templates.exchange("p", "a"), templates.PLAIN]
