"""The one exception that a user is meant to read, and a phrase for its sentences."""

import difflib
from collections.abc import Iterable


class PaletteError(Exception):
    """What is wrong, in one sentence that names the cure. Stages print it and exit with status 1."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Tail of a sentence that names the closest valid name, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"allowed: {', '.join(known)}"
