"""Regex: what of an answer matches a pattern. Never more than a second an answer.

wit: {kind: regex, pattern: '\\b(joke|haha)', flags: [ignorecase], measure: count, most: 2}
"""

from collections.abc import Callable, Sequence

import numpy as np

FLAGS = ("ascii", "dotall", "ignorecase", "multiline", "verbose")
SECONDS = 1.0
"""A pattern such as (a+)+b takes ages on a few characters; one that is sound takes microseconds."""


def reward(
    prompts: Sequence[str],
    responses: Sequence[str],
    pattern: str,
    measure: str = "presence",
    flags: Sequence[str] = (),
    most: int = 1,
) -> np.ndarray:
    """(rows,) in [0, 1].

    Args:
        measure: `presence`, 1 where anything matches; `count`, matches up to `most`, as a part of
            these; or `share`, the part of the answer's characters that lie in matches.

    Raises:
        ValueError: a parameter is none of those allowed.
        TimeoutError: the pattern takes too long on an answer.
    """
    import regex

    if unknown := set(flags) - set(FLAGS):
        raise ValueError(f"flags may be {', '.join(FLAGS)}, not {', '.join(sorted(unknown))}")
    if most < 1:
        raise ValueError(f"most is {most}, but must be at least 1")
    compiled = regex.compile(pattern, sum(getattr(regex, flag.upper()) for flag in flags))

    def lengths(text: str) -> list[int]:
        try:
            return [len(match[0]) for match in compiled.finditer(text, timeout=SECONDS)]
        except TimeoutError:
            raise TimeoutError(f"more than {SECONDS:g} s on an answer: simplify pattern") from None

    measures: dict[str, Callable[[str], float]] = {
        "presence": lambda text: float(bool(lengths(text))),
        "count": lambda text: min(len(lengths(text)), most) / most,
        "share": lambda text: sum(lengths(text)) / max(len(text), 1),
    }
    if measure not in measures:
        raise ValueError(f"measure is '{measure}', but may be {', '.join(measures)}")
    return np.array([measures[measure](text) for text in responses])
