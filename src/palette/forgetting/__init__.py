"""Forgetting users: what holds them in inputs, artifacts, store, cache and remote, and taking it out.

Each module finds steps without changing anything; doing a step twice does no more than doing it once,
so whatever was interrupted is run again.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One thing to do."""

    where: str
    what: str
    """in words, for whoever is asked"""
    do: Callable[[], None]
