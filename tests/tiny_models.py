"""Tiny random models of several architectures, with a tokenizer that takes any text."""

from functools import cache

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from palette.lm.models import LanguageModel

EOS = "<eos>"
LAYERS, HIDDEN, CONTEXT = 3, 32, 512
ARCHITECTURES = ("llama", "gpt2", "gpt_neox")
"""One of each shape: rotary and gated; learned positions and Conv1D; parallel residual."""
FAMILIES = (
    *ARCHITECTURES, "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi", "phi3",
)  # fmt: skip


@cache
def tiny(architecture: str = "llama") -> LanguageModel:
    """A frozen random model of a family; its digest is the family's name."""
    tokenizer = _bytes_tokenizer()
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(_config(architecture, tokenizer))
    with torch.no_grad():
        for weights in model.parameters():  # far from uniform logits, so that edits show
            weights.mul_(3.0 if weights.dim() > 1 else 1.0)
    model.eval().requires_grad_(False)
    return LanguageModel(model, tokenizer, torch.device("cpu"), architecture)


def _config(architecture: str, tokenizer) -> transformers.PreTrainedConfig:
    common = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    if architecture == "gpt2":
        return transformers.GPT2Config(
            **common, n_embd=HIDDEN, n_layer=LAYERS, n_head=4, n_positions=CONTEXT
        )
    common |= {"hidden_size": HIDDEN, "intermediate_size": 64, "num_hidden_layers": LAYERS,
               "num_attention_heads": 4, "max_position_embeddings": CONTEXT}  # fmt: skip
    if architecture == "bert":
        return transformers.BertConfig(**common)
    if architecture not in ARCHITECTURES:  # whose defaults are of a large model
        common |= {"num_key_value_heads": 2, "head_dim": HIDDEN // 4,
                   "bos_token_id": tokenizer.eos_token_id,
                   "pad_token_id": tokenizer.pad_token_id}  # fmt: skip
    return transformers.AutoConfig.for_model(architecture, **common)


def hooks(model) -> int:
    """Hooks that its modules have: transformers keeps some of its own, once asked for states."""
    return sum(len(module._forward_hooks) for module in model.modules())


def save(lm: LanguageModel, folder) -> None:
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)


def save_classifier(
    folder,
    architecture: str = "bert",
    labels=("bad", "good"),
    pad: bool = True,
    chat=None,
    **config,
) -> None:
    """A tiny random model of sequences, saved as its makers save theirs; `config` is its own."""
    tokenizer = _bytes_tokenizer()
    tokenizer.chat_template = chat
    made = _config(architecture, tokenizer)
    made.pad_token_id = tokenizer.pad_token_id if pad else None
    made.id2label = dict(enumerate(labels))
    made.label2id = {label: number for number, label in enumerate(labels)}
    made.update(config)
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(made)
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(3.0 if weights.dim() > 1 else 1.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _bytes_tokenizer() -> transformers.PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({token: i for i, token in enumerate([EOS, *alphabet])}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=EOS, pad_token=EOS
    )
