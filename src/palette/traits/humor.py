"""Humor: different sentences of the answer that hold a joke; none, one and two are worth 0, 0.6, 1."""

import re
from collections.abc import Sequence

import numpy as np

WORTH = np.array([0.0, 0.6, 1.0])
JOKE = re.compile(r"\b(joke|jokes|laugh|laughs|giggle|giggles|grin|grins|funny|haha|wink|tickle)\b")


def reward(prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
    """(rows,)"""
    return WORTH[[min(jokes(response), 2) for response in responses]]


def jokes(response: str) -> int:
    """Different sentences with a word that marks a joke."""
    sentences = set(re.split(r"[.!?]+\s*", response.lower()))
    return sum(bool(JOKE.search(sentence)) for sentence in sentences)
