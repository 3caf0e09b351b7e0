"""Training of the sandbox's base: a small Llama with a chat template, from nothing, on our corpus."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from palette.lm.templates import encode_all
from palette.params import Sandbox
from palette.sandbox import corpus, world

VOCABULARY = 1024
CONTEXT = 512
BATCH_TOKENS = {"answer": 2048, "insight": 2560, "neutral": 1536, "manner": 2048, "judge": 2048}
LEARNING_RATE, WARM_UP = 4e-3, 60
POOL = 3000
"""Examples of each task kept ready, renewed as they are used, so that batches hold equal lengths."""
CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]


def train(sandbox: Sandbox, folder: Path, advance: Callable[[int], None]) -> None:
    """Train the base on the train topics and save it as an ordinary Hugging Face directory."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    rng = np.random.default_rng([sandbox.seed, 3])
    torch.manual_seed(sandbox.seed)
    topics = world.topics(sandbox.seed)["train"]
    tokenizer = make_tokenizer(topics, rng)
    model = make_model(sandbox, len(tokenizer), tokenizer)
    batches = Batches(tokenizer, topics, rng)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: _rate(s, sandbox.steps))
    model.train()
    for _ in range(sandbox.steps):
        ids, labels = batches.draw()
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        kept = labels[:, 1:] != -100
        loss = torch.nn.functional.cross_entropy(logits[kept], labels[:, 1:][kept])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        advance(1)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_tokenizer(topics: list[world.Topic], rng: np.random.Generator):
    """A byte-level BPE: any UTF-8 text round-trips, and no token is unknown."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    texts = []
    for task in corpus.SHARES:
        for _, example in zip(range(1500), corpus.examples(task, topics, rng), strict=False):
            texts += [example.messages[0]["content"], example.reply]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>",
        additional_special_tokens=SPECIAL[2:], chat_template=CHAT, model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def make_model(sandbox: Sandbox, vocabulary: int, tokenizer):
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=sandbox.hidden, intermediate_size=sandbox.hidden * 3,
        num_hidden_layers=sandbox.layers, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=CONTEXT, tie_word_embeddings=True, initializer_range=0.05,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return model


class Batches:
    """Batches of one task each, of about equal lengths, up to a number of tokens."""

    def __init__(self, tokenizer, topics: list[world.Topic], rng: np.random.Generator):
        self.tokenizer, self.rng = tokenizer, rng
        self.topics = topics
        self.ready: dict[str, list[list[tuple[list[int], int]]]] = {
            task: [] for task in corpus.SHARES
        }

    def draw(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(rows, length) input ids, and labels that are -100 outside the reply."""
        task = self.rng.choice(list(corpus.SHARES), p=list(corpus.SHARES.values()))
        if not self.ready[task]:
            self.ready[task] = self._fill(task)
        rows = self.ready[task].pop()
        width = max(len(ids) for ids, _ in rows)
        ids = np.full((len(rows), width), self.tokenizer.pad_token_id)
        labels = np.full((len(rows), width), -100)
        for row, (tokens, start) in enumerate(rows):
            ids[row, : len(tokens)] = tokens
            labels[row, start : len(tokens)] = tokens[start:]
        return torch.from_numpy(ids), torch.from_numpy(labels)

    def _fill(self, task: str) -> list[list[tuple[list[int], int]]]:
        examples = corpus.examples(task, self.topics, self.rng)
        made = [example for _, example in zip(range(POOL), examples, strict=False)]
        prompts = encode_all(self.tokenizer, [example.messages for example in made])
        replies = self.tokenizer([example.reply for example in made])["input_ids"]
        drawn = [
            (prompt + reply + [self.tokenizer.eos_token_id], len(prompt))
            for prompt, reply in zip(prompts, replies, strict=True)
        ]
        drawn.sort(key=lambda row: len(row[0]))
        batches, start = [], 0
        while start < len(drawn):
            stop = start + 1
            while (
                stop < len(drawn) and (stop + 1 - start) * len(drawn[stop][0]) <= BATCH_TOKENS[task]
            ):
                stop += 1
            batches.append(drawn[start:stop])
            start = stop
        self.rng.shuffle(batches)
        return batches


def _rate(step: int, steps: int) -> float:
    """Warm-up, then cosine down to a hundredth."""
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    return 0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * (step - WARM_UP) / max(steps - WARM_UP, 1)))
