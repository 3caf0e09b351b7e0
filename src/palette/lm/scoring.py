"""Teacher-forced scores of answers: log-probabilities and the full-vocabulary KL to the base.

`c = β·KL` sums, over the generated tokens, KL(π(·|prefix) ‖ π_ref(·|prefix)): nonnegative and of
far lower variance than the log-ratio of the sampled tokens (DESIGN of the value plane).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch

from palette.core.editing import Edits
from palette.lm.models import LanguageModel
from palette.lm.row_adapters import RowAdapters

CELLS = 1_500_000
"""Logits in a batch (rows × answer length × vocabulary): past this they leave the cache, and slow down."""


@dataclass(frozen=True)
class Scores:
    """Per answer, in nats."""

    kl: np.ndarray
    """(rows,) KL of the policy to the reference, summed over the answer's tokens"""
    logprob: np.ndarray
    logprob_reference: np.ndarray


@torch.inference_mode()
def score(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    reference: LanguageModel,
    reference_prompts: Sequence[Sequence[int]] | None = None,
    edits: Edits | None = None,
    progress: Callable[[int], None] | None = None,
    adapters: RowAdapters | None = None,
) -> Scores:
    """Score answers under a policy and under the reference.

    Args:
        prompts, answers: token ids per row.
        reference_prompts: what the reference is asked, where the policy is asked otherwise.
        edits, adapters: each row's own part of the policy; the reference never has one.
    """
    own = [part for part in (adapters, edits) if part is not None]
    reference_prompts = prompts if reference_prompts is None else reference_prompts
    kl, policy, other = (np.zeros(len(answers)) for _ in range(3))
    for rows in _batches(lm, prompts, answers):
        ids = [answers[row] for row in rows]
        p, mask, target = _logprobs(lm, [prompts[row] for row in rows], ids, own, rows)
        q, _, _ = _logprobs(reference, [reference_prompts[row] for row in rows], ids)
        kl[rows] = ((p.exp() * (p - q)).sum(-1) * mask).sum(1).cpu().numpy()
        policy[rows] = _of_targets(p, mask, target)
        other[rows] = _of_targets(q, mask, target)
        if progress:
            progress(len(rows))
    return Scores(np.maximum(kl, 0.0), policy, other)


@torch.inference_mode()
def logprobs(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """(rows,) log-probabilities of answers under one policy, nats: half of `score`'s forwards, no KL.

    Args:
        prompts, answers: token ids per row.
    """
    own = np.zeros(len(answers))
    for rows in _batches(lm, prompts, answers):
        ids = [answers[row] for row in rows]
        p, mask, target = _logprobs(lm, [prompts[row] for row in rows], ids)
        own[rows] = _of_targets(p, mask, target)
        if progress:
            progress(len(rows))
    return own


def _batches(lm: LanguageModel, prompts, answers) -> Iterator[list[int]]:
    """Row numbers, rows of like length together, at most CELLS logits a batch."""
    order = sorted(range(len(answers)), key=lambda row: (len(answers[row]), len(prompts[row]), row))
    vocabulary = lm.model.config.get_text_config().vocab_size
    start = 0
    while start < len(order):
        rows = [order[start]]
        while start + len(rows) < len(order):
            row = order[start + len(rows)]
            if (len(rows) + 1) * len(answers[row]) * vocabulary > CELLS:
                break
            rows.append(row)
        yield rows
        start += len(rows)


def _of_targets(logprobs: torch.Tensor, mask: torch.Tensor, target: torch.Tensor) -> np.ndarray:
    """(rows,) log-probabilities of the whole answers."""
    return (logprobs.gather(2, target).squeeze(2) * mask).sum(1).cpu().numpy()


def _logprobs(lm: LanguageModel, prompts, answers, own=(), rows=()):
    """Log-probabilities (rows, answer, vocabulary), mask (rows, answer) and targets.

    Sequences are padded on the left, so that all answers end in the last column and only the
    logits of the answers' columns are computed.
    """
    longest = max(map(len, answers))
    width = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
    ids = torch.full((len(answers), width), lm.pad)
    attention = torch.zeros((len(answers), width), dtype=torch.long)
    mask = torch.zeros((len(answers), longest))
    first = torch.zeros(len(answers), dtype=torch.long)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        length = len(prompt) + len(answer)
        ids[row, width - length :] = torch.tensor([*prompt, *answer])
        attention[row, width - length :] = 1
        mask[row, longest - len(answer) :] = 1
        first[row] = width - len(answer) - 1
    ids, attention, mask = ids.to(lm.device), attention.to(lm.device), mask.to(lm.device)
    with ExitStack() as attached:
        for part in own:
            part.focus(torch.tensor(rows), first=first)
            attached.enter_context(part.attach(lm.model))
        logits = lm.model(
            input_ids=ids, attention_mask=attention, use_cache=False,
            position_ids=(attention.cumsum(1) - 1).clamp(min=0), logits_to_keep=longest + 1,
        ).logits[:, :-1]  # fmt: skip
    return logits.float().log_softmax(-1), mask, ids[:, width - longest :, None]
