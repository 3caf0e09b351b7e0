"""Teacher-forced scores of answers: log-probabilities and the full-vocabulary KL to the base.

Rows that ask the same share its prefill, as they do in generation: only answers pass through the model
row by row.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palette.core.editing import Edits
from palette.lm.models import LanguageModel
from palette.lm.row_adapters import RowAdapters

CELLS = 1_500_000
"""Logits in a batch (rows × answer length × vocabulary): past this they leave the cache, and slow down."""
ASKED = 8192
"""Tokens of different prompts whose prefill is held at once."""

Own = Sequence[Edits | RowAdapters]
"""what rows have of their own"""


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

    `kl` sums, over the generated tokens, KL(π(·|prefix) ‖ π_ref(·|prefix)): nonnegative, and of far
    lower variance than the log-ratio of the sampled tokens. (Of `w·r − β·KL` it is the other way
    round near π*_w, where `w·r − β log(π/π_ref)` is the same for all answers of a prompt.)

    Args:
        prompts, answers: token ids per row.
        reference_prompts: what the reference is asked, where the policy is asked otherwise.
        edits, adapters: each row's own part of the policy; the reference never has one.
    """
    own = [part for part in (adapters, edits) if part is not None]
    reference_prompts = prompts if reference_prompts is None else reference_prompts
    kl, policy, other = (np.zeros(len(answers)) for _ in range(3))
    for some in _sharing(prompts):
        asked = _Asked(lm, prompts, some, own)
        asked_reference = _Asked(reference, reference_prompts, some)
        for rows in _batches(lm, answers, some):
            p, mask, target = asked.logprobs(rows, answers)
            q, _, _ = asked_reference.logprobs(rows, answers)
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
    for some in _sharing(prompts):
        asked = _Asked(lm, prompts, some)
        for rows in _batches(lm, answers, some):
            own[rows] = _of_targets(*asked.logprobs(rows, answers))
            if progress:
                progress(len(rows))
    return own


class _Asked:
    """Prompts that were read once, and rows that go on from them."""

    def __init__(
        self, lm: LanguageModel, prompts: Sequence[Sequence[int]], rows: list[int], own: Own = ()
    ):
        self.lm, self.own = lm, own
        groups = [part.group.tolist() for part in own]
        heads: dict[Any, int] = {}
        first: list[int] = []
        self.head = {}
        """row → number of its prompt"""
        for row in rows:
            key = (tuple(prompts[row]), *(group[row] for group in groups))
            if key not in heads:
                heads[key] = len(first)
                first.append(row)
            self.head[row] = heads[key]
        width = max(len(prompts[row]) for row in first)
        ids = torch.full((len(first), width), lm.pad)
        self.mask = torch.zeros((len(first), width), dtype=torch.long)
        for place, row in enumerate(first):
            ids[place, width - len(prompts[row]) :] = torch.tensor(prompts[row])
            self.mask[place, width - len(prompts[row]) :] = 1
        mask = self.mask.to(lm.device)
        with self._focused(first, None):
            out = lm.model(
                input_ids=ids.to(lm.device), attention_mask=mask, use_cache=True,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0), logits_to_keep=1,
            )  # fmt: skip
        self.logits, self.cache = out.logits, out.past_key_values

    def logprobs(
        self, rows: list[int], answers: Sequence[Sequence[int]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities (rows, longest, vocabulary), mask (rows, longest) and targets."""
        device = self.lm.device
        heads = torch.tensor([self.head[row] for row in rows])
        longest = max(len(answers[row]) for row in rows)
        ids = torch.full((len(rows), longest), self.lm.pad)
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for place, row in enumerate(rows):
            ids[place, : len(answers[row])] = torch.tensor(answers[row])
            mask[place, : len(answers[row])] = 1
        ids, mask, before = ids.to(device), mask.to(device), self.mask[heads].to(device)
        logits = self.logits[heads.to(device)]
        if longest > 1:
            positions = before.sum(1, keepdim=True) + torch.arange(longest - 1, device=device)
            with self._focused(rows, torch.zeros(len(rows), dtype=torch.long)):
                more = self.lm.model(
                    input_ids=ids[:, :-1], attention_mask=torch.cat([before, mask[:, :-1]], 1),
                    position_ids=positions, past_key_values=_of(self.cache, heads.to(device)),
                    use_cache=True,
                ).logits  # fmt: skip
            logits = torch.cat([logits, more], 1)
        return logits.float().log_softmax(-1), mask, ids[..., None]

    @contextmanager
    def _focused(self, rows: list[int], first: Tensor | None) -> Iterator[None]:
        with ExitStack() as attached:
            for part in self.own:
                part.focus(torch.tensor(rows), first=first)
                attached.enter_context(part.attach(self.lm.model))
            yield


def _of(cache: Any, heads: Tensor) -> Any:
    """The cache of some heads, in their order; the whole one stays as it is."""
    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    chosen.batch_select_indices(heads)
    return chosen


def _sharing(prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Row numbers in parts that ask the same, or little enough to be held at once."""
    order = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), prompts[row], row))
    some: list[int] = []
    held = 0
    for row in order:
        if not some or prompts[row] != prompts[some[-1]]:
            held += len(prompts[row])
            if some and held > ASKED:
                yield some
                some, held = [], len(prompts[row])
        some.append(row)
    if some:
        yield some


def _batches(
    lm: LanguageModel, answers: Sequence[Sequence[int]], some: list[int]
) -> Iterator[list[int]]:
    """Row numbers, rows of like length together, at most CELLS logits a batch."""
    order = sorted(some, key=lambda row: (len(answers[row]), row))
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


def _of_targets(logprobs: Tensor, mask: Tensor, target: Tensor) -> np.ndarray:
    """(rows,) log-probabilities of the whole answers."""
    return (logprobs.gather(2, target).squeeze(2) * mask).sum(1).cpu().numpy()
