"""Traits: one dimension of preference each, with a reward r(x, y) in [0, 1].

A trait's `kind` is a module here with one function, `reward(prompts, responses, **parameters) ->
(rows,)`; `params.yaml` gives the parameters. One module per kind, so that editing one makes DVC score
its traits again and no others. A module whose rewards come from files of the user's has a second one,
`digest(**parameters)`: sha256 of these files.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np

from palette import calibration
from palette.core import scaling
from palette.errors import PaletteError
from palette.params import Trait
from palette.store import key

BATCH = 4096
"""Rows that a reward is asked for at once at most."""
MODELS = ("classifier", "rubric")
"""Kinds that ask a model, on a device: equal rows are asked once."""
SHOWN = 60
"""Characters of a prompt or response that a message quotes."""
MOST = 300
"""Characters of what an error says: it may quote a text, too."""

Reward = Callable[[Sequence[str], Sequence[str]], Any]
Keeper = Callable[[range, Callable[[], np.ndarray]], np.ndarray]
"""of some rows, and of what scores them: their scores, kept from before where they can be"""


def score(
    traits: Mapping[str, Trait], prompts: Sequence[str], responses: Sequence[str],
    device: str = "auto",
) -> np.ndarray:  # fmt: skip
    """Rewards (rows, traits), in the order of the mapping."""
    return np.column_stack([
        score_one(name, trait, prompts, responses, device) for name, trait in traits.items()
    ])  # fmt: skip


def score_one(
    name: str, trait: Trait, prompts: Sequence[str], responses: Sequence[str],
    device: str = "auto", advance: Callable[[int], None] | None = None,
    keep: Keeper | None = None,
) -> np.ndarray:  # fmt: skip
    """Rewards (rows,) of one trait, in [0, 1].

    Args:
        device: as runtime.device names it, for kinds that ask a model.
        advance: called with rows done.
        keep: where scores are to outlive the process.

    Raises:
        PaletteError: the trait's module or parameters fail, a reward is not in its range, or the
            trait is not calibrated.
    """
    ends = calibration.read(name, identity(name, trait)) if trait.calibrate else trait.range
    found = raw(name, trait, prompts, responses, device, advance, keep)
    if trait.calibrate and ends:
        return scaling.rewards(found, *ends)
    low, high = sorted(ends or (0.0, 1.0))
    wrong = ~((found >= low) & (found <= high))
    if wrong.any():
        row = int(wrong.argmax())
        cure = (
            f"mend the reward so that it is in its range, {low:g} to {high:g}"
            if trait.range
            else "mend the reward so that it is in [0, 1], or give the trait a `range`, or "
            "`calibrate: quantiles`"
        )
        said = f"gave {found[row]} for {_row(row, prompts, responses)}"
        raise PaletteError(f"traits.{name} {said}; {cure}")
    return scaling.rewards(found, *ends) if ends else found


def raw(
    name: str, trait: Trait, prompts: Sequence[str], responses: Sequence[str],
    device: str = "auto", advance: Callable[[int], None] | None = None,
    keep: Keeper | None = None,
) -> np.ndarray:  # fmt: skip
    """Scores (rows,) of one trait as its kind gives them, before range or calibration.

    Raises:
        PaletteError: the trait's module or parameters fail, or a score is no finite number.
    """
    reward = bound(name, trait, device)
    found = np.zeros(len(responses))
    for start in range(0, len(responses), BATCH):
        rows = range(start, min(start + BATCH, len(responses)))
        ask = partial(_asked, name, trait, reward, prompts, responses, rows)
        found[start : rows.stop] = keep(rows, ask) if keep else ask()
        if advance:
            advance(len(rows))
    wrong = ~np.isfinite(found)
    if wrong.any():
        row = int(wrong.argmax())
        raise PaletteError(
            f"traits.{name} gave {found[row]} for {_row(row, prompts, responses)}; mend the reward so "
            "that it is a finite number for every answer"
        )
    return found


def bound(name: str, trait: Trait, device: str = "auto") -> Reward:
    """The function of a trait's kind with the trait's parameters.

    Raises:
        PaletteError: its kind takes no such parameters, or needs more.
    """
    given = {"device": device} if trait.kind in MODELS else {}
    with _explained(name, trait):
        reward = import_module(f"palette.traits.{trait.kind}").reward
        signature(reward).bind((), (), **given, **(trait.model_extra or {}))
    reward = partial(reward, **given, **(trait.model_extra or {}))
    return partial(_once, reward) if trait.kind in MODELS else reward


def files(name: str, trait: Trait) -> dict[str, str]:
    """Digests of what a trait is made of besides its parameters and its kind's code; empty if nothing.

    Raises:
        PaletteError: the trait names files that are not there, or not what its kind reads.
    """
    found = {}
    with _explained(name, trait):
        module = import_module(f"palette.traits.{trait.kind}")
        if hasattr(module, "digest"):
            found["files"] = module.digest(**(trait.model_extra or {}))
    if trait.calibrate:
        found["calibration"] = calibration.digest(name)
    return found


def code(trait: Trait) -> str:
    """The source of its kind's module; empty where there is none."""
    found = find_spec(f"palette.traits.{trait.kind}")
    return Path(found.origin).read_text(encoding="utf-8") if found and found.origin else ""


def identity(name: str, trait: Trait) -> str:
    """Names what scores answers for a trait, whatever is made of the scores."""
    given = {part: of for part, of in trait.makes.items() if part not in ("range", "calibrate")}
    return key("trait", given, files(name, trait).get("files"))


def _once(reward: Reward, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
    """Rewards of rows, equal ones of which are asked once."""
    rows = list(zip(prompts, responses, strict=True))
    place = {row: number for number, row in enumerate(dict.fromkeys(rows))}
    found = np.asarray(reward(*map(list, zip(*place, strict=True))))
    return found[[place[row] for row in rows]]


def _asked(
    name: str, trait: Trait, reward: Reward, prompts: Sequence[str], responses: Sequence[str],
    rows: range,
) -> np.ndarray:  # fmt: skip
    """What the reward gives to some rows.

    Raises:
        PaletteError: it fails, with the first row that it fails on, or gives no number for each.
    """

    def ask(rows: range) -> np.ndarray:
        some = slice(rows.start, rows.stop)
        return np.asarray(reward(prompts[some], responses[some]), dtype=float)

    with _explained(name, trait, lambda: _culprit(ask, rows, prompts, responses)):
        values = ask(rows)
    if values.shape != (len(rows),):
        raise PaletteError(
            f"traits.{name} gave an array of shape {values.shape} for {len(rows)} answers; "
            "mend the reward so that it gives one number an answer"
        )
    return values


def _culprit(
    ask: Callable[[range], Any], rows: range, prompts: Sequence[str], responses: Sequence[str]
) -> str:
    """The first row that fails by itself, in words; nothing where only all together fail."""

    def fails(some: range) -> bool:
        try:
            ask(some)
        except Exception:  # whatever it was that failed before
            return True
        return False

    while len(rows) > 1:
        half = rows[: len(rows) // 2]
        rows = half if fails(half) else rows[len(half) :]
    return f" on {_row(rows.start, prompts, responses)}" if fails(rows) else ""


@contextmanager
def _explained(name: str, trait: Trait, where: Callable[[], str] = str) -> Iterator[None]:
    """Whatever fails inside becomes one sentence that names the trait; `where` tells on which row."""
    try:
        yield
    except PaletteError as error:
        raise PaletteError(f"traits.{name} cannot be scored: {error}") from error
    except Exception as error:  # a reward is anyone's code, and may fail in any way
        said = " ".join(f"{type(error).__name__}: {error}"[:MOST].split())
        said = "".join(letter if letter.isprintable() else "\ufffd" for letter in said)
        raise PaletteError(
            f"traits.{name} of kind '{trait.kind}' failed{where()} ({said}); mend its parameters or "
            "its code"
        ) from error


def _row(row: int, prompts: Sequence[str], responses: Sequence[str]) -> str:
    """A row in words. Texts are data: what could move a terminal's cursor is escaped."""
    prompt, answer = (
        repr(text if len(text) <= SHOWN else text[: SHOWN - 1] + "…")
        for text in (prompts[row], responses[row])
    )
    return f"row {row}, the answer {answer} to {prompt}"
