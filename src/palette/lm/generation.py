"""Sampling from a policy: one sampler for everything (temperature 1, no top-k, no top-p).

A row's answer depends on its own numbers alone: each generated token is the inverse CDF of one
uniform number, so that batching, order and the number of workers change nothing.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from palette.core.editing import Edits, RowWise
from palette.errors import PaletteError
from palette.lm.backends import answer
from palette.lm.models import LanguageModel

ROWS = 512
"""Rows in a batch: past this, two cores gain nothing and the cache leaves their L2."""
CHECK_EVERY = 4
"""Decoding steps between two looks at which rows are finished."""


@dataclass(frozen=True)
class Answers:
    """Sampled answers, in the order of the prompts."""

    tokens: list[list[int]]
    """generated ids; the end-of-answer token is included where it was reached"""
    texts: list[str]
    logprobs: np.ndarray
    """(rows,) log-probability of the tokens under the sampling policy, nats"""


def row_uniforms(rows: int, steps: int, *key: int | str) -> np.ndarray:
    """(rows, steps) uniform numbers that depend on the key alone."""
    seed = hashlib.sha256(repr(key).encode()).digest()
    return np.random.default_rng(np.frombuffer(seed, np.uint32)).random((rows, steps), np.float32)


@torch.inference_mode()
def generate(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    uniforms: np.ndarray | None = None,
    edits: Edits | None = None,
    progress: Callable[[int], None] | None = None,
    adapters: RowWise | None = None,
) -> Answers:
    """Answer every prompt.

    Args:
        prompts: token ids per row; equal neighbours share one prefill.
        uniforms: (rows, max_new_tokens) numbers in [0, 1), one per token; None answers greedily.
        edits: of every row's hidden states.
        progress: called with the number of rows just finished.
        adapters: that each row goes through, beside its edit.

    Raises:
        PaletteError: a prompt and its answer do not fit into the model's context.
    """
    longest = max(map(len, prompts), default=0)
    if lm.context is not None and longest + max_new_tokens > lm.context:
        raise PaletteError(
            f"a prompt of {longest} tokens and an answer of {max_new_tokens} exceed the model's "
            f"context of {lm.context}; shorten the prompt or lower rollouts.max_new_tokens"
        )
    order = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), row))
    tokens: list[list[int]] = [[] for _ in prompts]
    logprobs = np.zeros(len(prompts))
    own = [part for part in (adapters, edits) if part is not None]
    if lm.engine is not None and not own and prompts:
        for row, (ids, logprob) in enumerate(answer(lm, prompts, max_new_tokens, uniforms)):
            tokens[row], logprobs[row] = ids, logprob
        if progress:
            progress(len(prompts))
        return Answers(tokens, _texts(lm, tokens), logprobs)
    with ExitStack() as attached:
        for part in own:
            attached.enter_context(part.attach(lm.model))
        for start in range(0, len(order), ROWS):
            rows = order[start : start + ROWS]
            chosen = None if uniforms is None else torch.from_numpy(uniforms[rows])
            batch = _Batch(lm, [prompts[row] for row in rows], rows, own)
            for row, ids, logprob in batch.run(max_new_tokens, chosen):
                tokens[row], logprobs[row] = ids, logprob
            if progress:
                progress(len(rows))
    return Answers(tokens, _texts(lm, tokens), logprobs)


def _texts(lm: LanguageModel, tokens: list[list[int]]) -> list[str]:
    return [lm.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in tokens]


class _Batch:
    """Decoding of up to ROWS rows; finished rows leave the batch."""

    def __init__(
        self,
        lm: LanguageModel,
        prompts: list[Sequence[int]],
        rows: list[int],
        own: Sequence[RowWise],
    ):
        self.lm, self.own, self.rows = lm, own, torch.tensor(rows)
        unique: list[Sequence[int]] = []
        self.source, first = [], []  # row → its prompt among the unique ones, and back
        groups = [part.group[self.rows].tolist() for part in own]
        for row, prompt in enumerate(prompts):
            same = row > 0 and prompt == prompts[row - 1]
            if not (same and all(group[row] == group[row - 1] for group in groups)):
                unique.append(prompt)
                first.append(row)
            self.source.append(len(unique) - 1)
        self.first = torch.tensor(first)
        width = max(map(len, unique))
        self.ids = torch.full((len(unique), width), lm.pad)
        self.mask = torch.zeros((len(unique), width), dtype=torch.long)
        for row, prompt in enumerate(unique):
            self.ids[row, width - len(prompt) :] = torch.tensor(prompt)
            self.mask[row, width - len(prompt) :] = 1

    def _focus(self, rows: torch.Tensor) -> None:
        for part in self.own:
            part.focus(self.rows[rows])

    def run(self, steps: int, uniforms: torch.Tensor | None):
        """Yield (row, token ids, log-probability) of every row."""
        device, model = self.lm.device, self.lm.model
        eos = torch.tensor(sorted(self.lm.eos))
        logits, cache = self._prefill(model, device)
        mask = self.mask[self.source].to(device)
        position = mask.sum(1)
        alive = torch.arange(len(self.source))
        self._focus(alive)
        drawn = torch.full((len(self.source), steps), -1)
        total = torch.zeros(len(self.source))
        done = torch.zeros(len(self.source), dtype=torch.bool)
        for step in range(steps):
            u = None if uniforms is None else uniforms[alive, step]
            token, logprob = _draw(logits, u)
            running = ~done[alive]
            drawn[alive[running], step] = token[running]
            total[alive[running]] += logprob[running]
            done[alive] |= torch.isin(token, eos)
            if step + 1 == steps or bool(done[alive].all()):
                break
            if step % CHECK_EVERY == CHECK_EVERY - 1:
                keep = (~done[alive]).nonzero().squeeze(1)
                if len(keep) < len(alive):
                    alive, token = alive[keep], token[keep]
                    cache.batch_select_indices(keep.to(device))
                    mask, position = mask[keep.to(device)], position[keep.to(device)]
                    self._focus(alive)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            logits = model(
                input_ids=token[:, None].to(device), attention_mask=mask,
                position_ids=position[:, None], past_key_values=cache, use_cache=True,
            ).logits[:, -1].float().cpu()  # fmt: skip
            position = position + 1
        for row in range(len(drawn)):
            ids = drawn[row]
            yield int(self.rows[row]), ids[ids >= 0].tolist(), float(total[row])

    def _prefill(self, model: Any, device: torch.device):
        self._focus(self.first)
        mask = self.mask.to(device)
        out = model(
            input_ids=self.ids.to(device), attention_mask=mask, use_cache=True,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0), logits_to_keep=1,
        )  # fmt: skip
        source = torch.tensor(self.source)
        if len(source) > len(self.ids):
            out.past_key_values.batch_select_indices(source.to(device))
        return out.logits[:, -1].float().cpu()[source], out.past_key_values


def _draw(logits: torch.Tensor, u: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Next token and its log-probability per row; greedy where `u` is None."""
    if u is None:
        logprob, token = logits.log_softmax(-1).max(-1)
        return token, logprob
    p = logits.softmax(-1)
    cdf = p.cumsum(-1)
    token = torch.searchsorted(cdf, (u * cdf[:, -1])[:, None], right=True)
    token = token.clamp(max=p.shape[1] - 1)
    return token.squeeze(1), p.gather(1, token).log().squeeze(1)
