"""Models as somebody else saves them: tiny random ones of several families, each with a habit of its own.

Their words are those of tests/tiny_chain.py, so that what a policy is worth is an exact sum; a second
token may end an answer.
"""

from itertools import product
from pathlib import Path

import tiny_chain
import torch
import transformers
from tokenizers import Tokenizer, models, processors
from tokenizers.pre_tokenizers import WhitespaceSplit
from worlds import EOS, LONGEST, PAD, World

WORDS = [*tiny_chain.WORDS, "<turn>", "<bos>"]
TURN, BOS = len(WORDS) - 2, len(WORDS) - 1
CHAT = (
    "{{ bos_token }}{% for m in messages %} {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}how{% endif %}"
)
SAMPLER = {"do_sample": True, "temperature": 0.1, "top_k": 1, "repetition_penalty": 5.0}
"""what a maker recommends, and no policy here is"""
SIZE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 64}  # fmt: skip
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
FAMILIES = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "resid_pdrop": 0.5},
    "gpt_neox": {**SIZE, "tie_word_embeddings": False, "attention_dropout": 0.5},
    "phi3": {**SIZE, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "gemma2": {**SIZE, **GROUPED, "sliding_window": 3, "final_logit_softcapping": 5.0},
    "mistral": {**SIZE, **GROUPED, "sliding_window": 3},
}
"""family → its config: learned positions, Conv1D and dropout; parallel residual; fused projections;
capped logits and windows of every other layer; windows of all"""


def save(family: str, folder: Path) -> None:
    """A family's model: gpt2 and gpt_neox have no pad token and no chat template; mistral pads with
    its end and begins every text; phi3 and gemma2 chat, and end a turn by a token of its own."""
    chats = family in ("phi3", "gemma2")
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="mend"))
    backend.pre_tokenizer = WhitespaceSplit()
    own = {"eos_token": "<eos>"}
    if family == "mistral":
        own |= {"pad_token": "<eos>", "bos_token": "<bos>"}
        backend.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", BOS)]
        )
    if chats:
        own |= {"pad_token": "<pad>", "bos_token": "<bos>", "chat_template": CHAT}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **own)
    config = transformers.AutoConfig.for_model(
        family, vocab_size=len(WORDS), eos_token_id=EOS, bos_token_id=BOS if chats else None,
        pad_token_id=PAD if chats else None, initializer_range=0.25, **FAMILIES[family],
    )  # fmt: skip
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(config)
    if chats:
        model.generation_config = transformers.GenerationConfig(
            eos_token_id=[TURN, EOS], pad_token_id=PAD, **SAMPLER
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


class Answers(World):
    """A world in which any of several tokens ends an answer."""

    @property
    def prompts(self) -> list[list[int]]:
        from palette.lm import templates

        return [templates.encode(self.lm.tokenizer, templates.question(q)) for q in self.questions]

    @property
    def answers(self) -> list[list[int]]:
        ends = sorted(self.lm.eos)
        words = [token for token in range(len(self.lm.tokenizer)) if token not in ends]
        bodies = [body for n in range(LONGEST) for body in product(words, repeat=n)]
        ended = [[*body, end] for body in bodies for end in ends]
        return ended + [list(body) for body in product(words, repeat=LONGEST)]
