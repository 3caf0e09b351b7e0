"""Asking the base on behalf of users: prompts that fit, and answers drawn by each user's own name."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from palette.lm import templates
from palette.lm.generation import Answers, generate, row_uniforms
from palette.lm.models import LanguageModel


@dataclass(frozen=True)
class Request:
    """Prompts that are answered together by random numbers of their own."""

    prompts: list[list[int]]
    """token ids"""
    key: tuple[int | str, ...]
    """names the random numbers: nothing else decides the answers"""


def sample(lm: LanguageModel, requests: Sequence[Request], limit: int) -> Iterator[Answers]:
    """Yield the answers to each request, all of them made in one batch.

    Args:
        limit: most tokens of an answer.
    """
    if not requests:
        return
    prompts = [ids for request in requests for ids in request.prompts]
    uniforms = [row_uniforms(len(one.prompts), limit, *one.key) for one in requests]
    made = generate(lm, prompts, limit, np.concatenate(uniforms))
    start = 0
    for request in requests:
        own = slice(start, start + len(request.prompts))
        yield Answers(made.tokens[own], made.texts[own], made.logprobs[own])
        start = own.stop


def fitting(lm: LanguageModel, messages: templates.Messages, limit: int) -> list[int]:
    """Token ids; where the context cannot hold them and an answer, their middle is left out."""
    ids, room = templates.encode(lm.tokenizer, messages), lm.context
    if room is None or len(ids) <= room - limit:
        return ids
    head = (room - limit) // 2
    return ids[:head] + ids[len(ids) - (room - limit - head) :]
