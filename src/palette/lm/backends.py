"""Engines that may answer in place of our own loop: `runtime.backend`.

An engine answers rows that are the base, or the base with one PEFT adapter: insights, rollouts, values
and whatever else `generate` is asked for without edits, mixtures of adapters or adapters in training,
which stay with our loop. It draws by seeds of its own, so its answers are others than those of our loop,
of the same distribution. That it answers as the model does is not taken on trust: of every call some rows
are read again by the model itself.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from palette.errors import PaletteError

if TYPE_CHECKING:
    from palette.lm.models import LanguageModel

READ_AGAIN = 2
"""Rows of every call."""
SAME = 0.25
"""Nats a token that half precision may err by; another policy, or another sampler's, errs by more."""

Drawn = list[tuple[list[int], float]]
"""per row the generated ids, its end included where it was reached, and their log-probability, nats"""


class Engine(Protocol):
    """Something that answers."""

    def answer(
        self, prompts: Sequence[Sequence[int]], limit: int, seeds: Sequence[int] | None,
        ends: set[int], adapter: Path | None,
    ) -> Drawn:  # fmt: skip
        """Answer every prompt at temperature 1, nothing cut off, until one of `ends` or the limit.

        Args:
            prompts: token ids per row.
            seeds: one for each row, of 48 bits; None: greedily.
            adapter: a PEFT directory; None: the base.
        """


class Vllm:
    """vLLM in this process, beside the base that scores. NEVER RUN: written after its documentation.

    tests/test_backends.py holds it against the same sums as every engine, wherever vLLM is installed.
    """

    SHARE = 0.5
    """of the GPU's memory; the rest is for the base that scores, and a member's merged copy"""
    RANK = 64
    """the highest of an adapter"""

    def __init__(self, model: str, revision: str | None):
        try:
            from vllm import LLM
        except ImportError:
            raise PaletteError(
                "runtime.backend is vllm, which is not installed: pip install vllm, or set "
                "runtime.backend to transformers"
            ) from None
        self._lora: dict[Path, Any] = {}
        self._llm: Any = LLM(
            model=model, revision=revision, tokenizer_revision=revision, trust_remote_code=False,
            load_format="safetensors", generation_config="vllm", logprobs_mode="raw_logprobs",
            enable_lora=True, max_lora_rank=self.RANK, gpu_memory_utilization=self.SHARE, seed=0,
        )  # fmt: skip

    def answer(
        self, prompts: Sequence[Sequence[int]], limit: int, seeds: Sequence[int] | None,
        ends: set[int], adapter: Path | None,
    ) -> Drawn:  # fmt: skip
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest

        if adapter is not None and adapter not in self._lora:
            number = len(self._lora) + 1
            self._lora[adapter] = LoRARequest(str(number), number, str(adapter.resolve()))
        common = {
            "max_tokens": limit, "stop_token_ids": sorted(ends), "logprobs": 0, "detokenize": False,
            "temperature": 0.0 if seeds is None else 1.0, "top_p": 1.0, "top_k": 0,
        }  # fmt: skip
        rows = [
            SamplingParams(**common, seed=None if seeds is None else seeds[row])
            for row in range(len(prompts))
        ]
        made = self._llm.generate(
            [{"prompt_token_ids": list(prompt)} for prompt in prompts], rows, use_tqdm=False,
            lora_request=None if adapter is None else self._lora[adapter],
        )  # fmt: skip
        found = [each.outputs[0] for each in made]
        return [
            (
                list(one.token_ids),
                sum(at[token].logprob for token, at in zip(one.token_ids, one.logprobs, strict=True)),
            )
            for one in found
        ]  # fmt: skip


@lru_cache(maxsize=1)
def find(backend: str, model: str, revision: str | None, _: str) -> Engine | None:
    """The engine that `runtime.backend` names, once in a process; None: our own loop.

    Raises:
        PaletteError: it is not installed.
    """
    return Vllm(model, revision) if backend == "vllm" else None


def answer(
    lm: "LanguageModel", prompts: Sequence[Sequence[int]], limit: int, uniforms: np.ndarray | None
) -> Drawn:
    """What a model's engine answers.

    Raises:
        PaletteError: it is not the model that answers.
    """
    assert lm.engine is not None, "asked only where there is one"
    seeds = None if uniforms is None else [_seed(row) for row in uniforms]
    made = lm.engine.answer(prompts, limit, seeds, lm.eos, lm.adapter)
    name = type(lm.engine).__name__
    for tokens, _ in made:
        ended = bool(tokens) and tokens[-1] in lm.eos
        if not (ended or len(tokens) == limit) or len(tokens) > limit or lm.eos & {*tokens[:-1]}:
            raise PaletteError(
                f"runtime.backend ({name}) gives answers that do not end where they ended; set it to "
                "transformers"
            )
    for prompt, (tokens, logprob) in list(zip(prompts, made, strict=True))[:READ_AGAIN]:
        apart = abs(alone(lm, prompt, tokens) - logprob) / len(tokens)
        if not apart <= SAME:
            raise PaletteError(
                f"runtime.backend ({name}) answers as another policy than the model (by {apart:.2g} nats "
                "a token); set it to transformers"
            )
    return made


@torch.inference_mode()
def alone(lm: "LanguageModel", prompt: Sequence[int], tokens: Sequence[int]) -> float:
    """Log-probability of one answer, read whole, without padding and cache; nats."""
    ids = torch.tensor([[*prompt, *tokens]], device=lm.device)
    logits = lm.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    chosen = torch.tensor(tokens, device=lm.device)[:, None]
    return float(logits.float().log_softmax(-1).gather(1, chosen).sum())


def _seed(uniforms: np.ndarray) -> int:
    """48 bits of a row's own numbers, of which each has 24."""
    first, *more = (int(number * 2**24) for number in uniforms[:2].tolist())
    return first << 24 | (more[0] if more else 0)
