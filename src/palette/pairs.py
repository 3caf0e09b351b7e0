"""Pairs of a personal and a neutral answer, of which those stay that tell the two tastes apart.

CHAMELEON's self-generated preference data (arXiv 2503.01048, section 3.1). The paper drops identical
pairs; empty answers and echoes of the prompt teach as little, and go as well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from palette.asking import Request, fitting, sample
from palette.core.answers import complaint
from palette.core.selection import select_largest
from palette.lm import templates
from palette.lm.models import LanguageModel
from palette.lm.scoring import logprobs
from palette.params import Insights

REASONS = ("identical", "empty", "echo")
"""why a pair is dropped; a loop is left to the ranking, as it is still an answer in some manner"""
WORDING = {"personal": templates.personal_answer, "neutral": templates.neutral_answer}


@dataclass(frozen=True)
class Side:
    """One answer of a pair."""

    asked: list[int]
    """token ids of the wrapped prompt"""
    tokens: list[int]
    text: str
    logprob: float
    """of the tokens under the wrapped prompt, nats"""


@dataclass(frozen=True)
class Candidate:
    prompt: str
    personal: Side
    neutral: Side


@dataclass(frozen=True)
class Pairs:
    """One user's rows of the tables pairs and dropped."""

    kept: list[dict[str, Any]]
    dropped: list[dict[str, Any]]


def make(
    lm: LanguageModel,
    asked: Mapping[str, Sequence[str]],
    insights: Mapping[str, Mapping[str, str]],
    settings: Insights,
    limit: int,
) -> dict[str, Pairs]:
    """The pairs of some users, batched over all of them.

    Args:
        asked: user → the prompts to try.
        insights: user → kind → insight.
        limit: most tokens of an answer.
    """
    tried = answer(lm, asked, insights, settings.seed, limit)
    reasons = {user: [fault(candidate) for candidate in own] for user, own in tried.items()}
    passed = [
        candidate
        for user, own in tried.items()
        for candidate, reason in zip(own, reasons[user], strict=True)
        if reason is None
    ]
    apart = iter(tell_apart(lm, passed))
    found = {}
    for user, own in tried.items():
        good = [place for place, reason in enumerate(reasons[user]) if reason is None]
        chosen = select_largest(np.array([next(apart) for _ in good]), settings.pairs)
        kept = [own[good[place]] for place in chosen]
        found[user] = Pairs(
            [
                {"user_id": user, "pair": pair, "prompt": candidate.prompt,
                 "personal": candidate.personal.text, "neutral": candidate.neutral.text}
                for pair, candidate in enumerate(kept)
            ],
            [
                {"user_id": user, "prompt": candidate.prompt, "reason": reason}
                for candidate, reason in zip(own, reasons[user], strict=True)
                if reason is not None
            ],
        )  # fmt: skip
    return found


def answer(
    lm: LanguageModel,
    asked: Mapping[str, Sequence[str]],
    insights: Mapping[str, Mapping[str, str]],
    seed: int,
    limit: int,
) -> dict[str, list[Candidate]]:
    """user → a personal and a neutral answer to each prompt, in the order of the prompts."""
    requests = [
        Request(
            [fitting(lm, ask(prompt, insights[user][kind]), limit) for prompt in prompts],
            ("pairs", seed, user, kind),
        )
        for user, prompts in asked.items()
        for kind, ask in WORDING.items()
    ]
    sides = (
        [Side(*side) for side in zip(
            request.prompts, made.tokens, made.texts, made.logprobs.tolist(), strict=True
        )]
        for request, made in zip(requests, sample(lm, requests, limit), strict=True)
    )  # fmt: skip
    return {
        user: [Candidate(*row) for row in zip(prompts, next(sides), next(sides), strict=True)]
        for user, prompts in asked.items()
    }


def fault(candidate: Candidate) -> str | None:
    """Why a pair teaches nothing, one of REASONS, or None."""
    personal, neutral = candidate.personal.text, candidate.neutral.text
    if personal == neutral:
        return "identical"
    found = {complaint(candidate.prompt, text) for text in (personal, neutral)}
    return next((reason for reason in REASONS if reason in found), None)


def tell_apart(lm: LanguageModel, candidates: Sequence[Candidate]) -> np.ndarray:
    """(candidates,) how far apart the two tastes are on each prompt, nats per token.

    With P and N the two answers, p and n the answers' distributions under the two wrapped prompts,
    log p(P)/n(P) + log n(N)/p(N) estimates KL(p ‖ n) + KL(n ‖ p) without bias. It is divided by the
    tokens of both answers: a total grows with an answer's length, so that the pairs kept would be
    those of long answers, and would overstate what the user's taste has to do with length.
    """
    personal = [candidate.personal for candidate in candidates]
    neutral = [candidate.neutral for candidate in candidates]
    crossed = logprobs(
        lm,
        [side.asked for side in neutral + personal],
        [side.tokens for side in personal + neutral],
    )
    own = np.array([side.logprob for side in personal + neutral])
    tokens = np.array([len(side.tokens) for side in personal + neutral])
    nats = (own - crossed).reshape(2, -1).sum(axis=0)
    return nats / tokens.reshape(2, -1).sum(axis=0)
