"""A world small enough to enumerate: every answer of the base, its probability and its rewards.

Two prompts, eight words, answers of at most three tokens; so π*_w, f*, J and KL are exact sums.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from palette.lm.models import LanguageModel

PAD, EOS = 0, 1
VOCABULARY = ["<pad>", "<eos>", "who", "why", "warm", "bye", "dull", "long"]
LONGEST = 3
TRAITS = ("brevity", "warmth")


@dataclass(frozen=True)
class World:
    lm: LanguageModel
    questions: list[str]

    @cached_property
    def prompts(self) -> list[list[int]]:
        return [self.lm.tokenizer(question)["input_ids"] for question in self.questions]

    @cached_property
    def answers(self) -> list[list[int]]:
        """Every answer there is: ended by eos, or truncated at LONGEST tokens without it."""
        words = [token for token in range(len(VOCABULARY)) if token != EOS]
        ended = [[*body, EOS] for n in range(LONGEST) for body in product(words, repeat=n)]
        return ended + [list(body) for body in product(words, repeat=LONGEST)]

    @cached_property
    def rewards(self) -> np.ndarray:
        """(traits, answers)"""
        return rewards(self.lm.tokenizer.batch_decode(self.answers, skip_special_tokens=True))

    @cached_property
    def base(self) -> np.ndarray:
        """(prompts, answers) log-probabilities under the base"""
        return self.logprobs(self.lm.model)

    @torch.no_grad()
    def logprobs(self, model) -> np.ndarray:
        """(prompts, answers) exact log-probabilities under a model, nats."""
        width = max(map(len, self.answers))
        padded = torch.tensor([a + [PAD] * (width - len(a)) for a in self.answers])
        mask = torch.tensor([[1.0] * len(a) + [0.0] * (width - len(a)) for a in self.answers])
        rows = []
        for prompt in self.prompts:
            start = torch.tensor(prompt).expand(len(padded), -1)
            logits = model(input_ids=torch.cat([start, padded], 1)).logits[:, len(prompt) - 1 : -1]
            chosen = logits.double().log_softmax(-1).gather(2, padded[:, :, None]).squeeze(2)
            rows.append((chosen * mask).sum(1).numpy())
        return np.stack(rows)

    def ideal(self, w: np.ndarray, beta: float) -> tuple[np.ndarray, float]:
        """log π*_w (prompts, answers), and f*(w)."""
        tilted = self.base + w @ self.rewards / beta
        partition = np.logaddexp.reduce(tilted, axis=1, keepdims=True)
        return tilted - partition, float(beta * partition.mean())

    def objective(self, policy: np.ndarray, w: np.ndarray, beta: float) -> float:
        """J_w of a policy given by its log-probabilities (prompts, answers)."""
        gain = w @ self.rewards - beta * (policy - self.base)
        return float((np.exp(policy) * gain).sum(1).mean())

    def share(self, policy: np.ndarray, w: np.ndarray, beta: float) -> float:
        base = self.objective(self.base, w, beta)
        return (self.objective(policy, w, beta) - base) / (self.ideal(w, beta)[1] - base)

    def rollouts(self, samples: int, seed: int) -> np.ndarray:
        """(prompts, samples) indices of answers drawn from the base."""
        rng = np.random.default_rng(seed)
        return np.stack([rng.choice(len(p), samples, p=p / p.sum()) for p in np.exp(self.base)])


def world(seed: int = 0) -> World:
    """A tiny Llama with random weights, large enough for its answers to be far from uniform."""
    config = LlamaConfig(
        vocab_size=len(VOCABULARY), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=16, initializer_range=0.25,
        pad_token_id=PAD, eos_token_id=EOS, bos_token_id=None, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    lm = LanguageModel(model, tokenizer(), torch.device("cpu"), f"world {seed}")
    return World(lm, ["who", "why who"])


def tokenizer() -> PreTrainedTokenizerFast:
    words = {word: token for token, word in enumerate(VOCABULARY)}
    backend = Tokenizer(models.WordLevel(words, unk_token="dull"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>")


def rewards(texts: list[str]) -> np.ndarray:
    """(traits, texts) brevity and warmth, which pull apart; each in [0, 1]."""
    words = [text.split() for text in texts]
    brevity = [1 - len(body) / LONGEST for body in words]
    warmth = [0.5 * ("warm" in body) + 0.5 * (body[-1:] == ["bye"]) for body in words]
    return np.array([brevity, warmth])
