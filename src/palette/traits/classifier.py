"""Classifier: a Hugging Face sequence-classification or reward model reads the prompt and the answer.

tone: {kind: classifier, model: inputs/traits/tone, label: polite}
help: {kind: classifier, model: 'owner/name@COMMIT', output: raw, calibrate: quantiles}

A local directory or a pinned hub id, safetensors alone, none of its own code. A model with a chat
template reads an exchange, one whose tokenizer marks pairs a pair, any other two lines.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from palette.errors import PaletteError
from palette.lm import hub

OUTPUTS = ("sigmoid", "softmax", "raw")
READS = ("both", "response")
TOKENS = 16_384
"""Tokens in a batch."""
UNSAID = 10**9
"""Tokenizers that know no limit name a larger number."""
NO_TOKEN = -1
"""Padding of a model that has none: no token is one, so that its answer is taken from the last."""

Encoded = dict[str, list[int]]


def reward(
    prompts: Sequence[str], responses: Sequence[str], device: str, model: str,
    label: str | int | None = None, output: str | None = None, reads: str = "both",
) -> np.ndarray:  # fmt: skip
    """(rows,) What the model makes of one label.

    Args:
        label: its name or number; a model with one output needs none.
        output: `sigmoid` or `softmax` of the logits, or the `raw` logit. Unless told, what the model
            was trained with: sigmoid for one output or several labels at once, else softmax.
        reads: `both`, or the `response` alone, as models of tone or toxicity were trained to.

    Raises:
        PaletteError: the model cannot be loaded, has no such label, or a parameter is not allowed.
    """
    import torch

    folder = hub.find("model", model) if hub.is_local("model", model) else _fetched(model)
    found = _load(folder.resolve(), device, hub.stamp(folder))
    place = found.place(label)
    output = output or found.output
    for name, value, allowed in (("output", output, OUTPUTS), ("reads", reads, READS)):
        if value not in allowed:
            raise PaletteError(f"{name} is '{value}', but must be one of {', '.join(allowed)}")
    rows = found.encode(prompts, responses, reads)
    scores = np.zeros(len(rows))
    with torch.inference_mode():
        for some, inputs in found.batches(rows):
            logits = found.model(**inputs).logits.double()
            if output == "softmax":
                logits = logits.softmax(1)
            own = logits[:, place].sigmoid() if output == "sigmoid" else logits[:, place]
            scores[some] = own.cpu().numpy()
    return scores


def digest(model: str, **_: Any) -> str:
    """sha256 of the files of a local directory; a hub id's commit says the same of its files."""
    return hub.digest(hub.find("model", model)) if hub.is_local("model", model) else ""


@dataclass(frozen=True)
class Classifier:
    """A frozen model with its tokenizer."""

    model: Any
    tokenizer: Any

    @property
    def labels(self) -> dict[int, str]:
        return self.model.config.id2label

    @property
    def output(self) -> str:
        """What the logits are to go through, by how the model was trained."""
        several = self.model.config.problem_type == "multi_label_classification"
        return "sigmoid" if several or len(self.labels) == 1 else "softmax"

    def place(self, label: str | int | None) -> int:
        """The logit that a label names.

        Raises:
            PaletteError: there is no such label, or none is named of several.
        """
        if label is None and len(self.labels) == 1:
            return 0
        for number, name in self.labels.items():
            if label in (number, name):
                return int(number)
        known = ", ".join(f"{number} ({name})" for number, name in self.labels.items())
        raise PaletteError(f"label is {label!r}, but must be one of the model's own: {known}")

    def encode(self, prompts: Sequence[str], responses: Sequence[str], reads: str) -> list[Encoded]:
        """Token ids and what goes with them, per row; a row too long loses its middle, or an end.

        Control tokens that a text spells are read as the characters they are written with.
        """
        from palette.lm import templates

        own, texts = self.tokenizer, [list(prompts), list(responses)]
        if reads == "both" and own.chat_template:
            pairs = zip(*texts, strict=True)
            told = (templates.encode(own, templates.exchange(*pair), whole=True) for pair in pairs)
            cut = map(self._cut, told)
            return [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in cut]
        if reads == "response":
            texts = texts[1:]
        elif own.num_special_tokens_to_add(pair=True) == own.num_special_tokens_to_add(pair=False):
            texts = [[f"{prompt}\n{answer}" for prompt, answer in zip(*texts, strict=True)]]
        limit = {"truncation": True, "max_length": self.limit} if self.limit else {}
        found = own(*texts, split_special_tokens=True, **limit)
        rows = [{key: found[key][row] for key in found} for row in range(len(responses))]
        nothing = {"input_ids": [own.eos_token_id or 0], "attention_mask": [1]}
        return [row if row["input_ids"] else nothing for row in rows]

    @property
    def limit(self) -> int | None:
        """The most tokens that the model takes, where it or its tokenizer says so."""
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        told = [size for size in (positions, self.tokenizer.model_max_length) if size]
        return min((size for size in told if size < UNSAID), default=None)

    def batches(self, rows: Sequence[Encoded]) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """Yield (row numbers, model inputs) of rows of like length, padded on the right.

        A model that knows no padding, or another than its tokenizer, takes its answer from whatever
        comes last: rows of one length alone are together then.
        """
        import torch

        pad = self.model.config.get_text_config().pad_token_id
        same = pad != self.tokenizer.pad_token_id
        length = [len(row["input_ids"]) for row in rows]
        order = sorted(range(len(rows)), key=lambda row: (-length[row], row))
        while order:
            width = length[order[0]]
            some = order[: max(1, TOKENS // width)]
            some = [row for row in some if length[row] == width] if same else some
            order = order[len(some) :]
            inputs = {
                key: [rows[row][key] + [fill] * (width - length[row]) for row in some]
                for key, fill in {**dict.fromkeys(rows[0], 0), "input_ids": pad}.items()
            }
            yield some, {k: torch.tensor(v, device=self.model.device) for k, v in inputs.items()}

    def _cut(self, ids: list[int]) -> list[int]:
        if self.limit is None or len(ids) <= self.limit:
            return ids
        head = self.limit // 2
        return ids[:head] + ids[len(ids) - (self.limit - head) :]


@lru_cache
def _fetched(model: str) -> Path:
    """The hub is asked once in a process."""
    return hub.find("model", model)


@lru_cache(maxsize=4)
def _load(folder: Path, device: str, _: hub.Stamp) -> Classifier:
    """Loaded once in each worker process; again where the folder has become another model."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    from palette.lm.models import pick_device

    disable_progress_bar()
    place = pick_device(device)
    dtype = torch.bfloat16 if place.type == "cuda" else torch.float32
    own = {"trust_remote_code": False, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **own)
        model, told = AutoModelForSequenceClassification.from_pretrained(
            folder, use_safetensors=True, dtype=dtype, output_loading_info=True, **own
        )
    except Exception as error:  # of whatever kind the libraries raise on a file that is damaged
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise PaletteError(f"model {folder} cannot be loaded: {said}; name another") from None
    if missing := sorted(told["missing_keys"]):
        raise PaletteError(
            f"model {folder} has no weights for {missing[0]}, which would be random: name one that "
            "was trained to classify"
        )
    config = model.config.get_text_config()
    if config.pad_token_id is None:
        config.pad_token_id = NO_TOKEN
    return Classifier(model.to(place).eval().requires_grad_(False), tokenizer)
