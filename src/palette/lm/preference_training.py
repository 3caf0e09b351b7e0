"""Adapters of one user's own, from that user's self-generated pairs alone: by SFT and by DPO.

What a team would try first, and what the paper compares with. Importing TRL takes seconds: import
this module inside the function that trains.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer, SFTConfig

from palette.lm import peft_files, templates
from palette.lm.learner import common, twin
from palette.lm.models import LanguageModel
from palette.lm.trainers import Quiet, SupervisedTrainer, run
from palette.params import Adapters

Pair = tuple[str, str, str]
"""prompt, personal answer, neutral answer"""


class PreferenceTrainer(Quiet, DPOTrainer):
    """DPOTrainer on token ids, with the base as its reference.

    TRL would tokenize the texts with the tokenizer's own template, and control tokens spelt in an
    answer would act; and it keeps a copy of the fresh adapter as reference, which is the base.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        model: Any = self.model
        model.delete_adapter("ref")

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


def train(
    lm: LanguageModel,
    pairs: Sequence[Pair],
    method: str,
    settings: Adapters,
    steps: int,
    beta: float,
) -> dict[str, bytes]:
    """Train one adapter, every step over all pairs. The base is left as it was.

    Args:
        method: `sft`, maximum likelihood of the personal answers; or `dpo`, personal preferred to
            neutral (Rafailov et al., arXiv 2305.18290, eq. 7).
        beta: price of one nat of KL to the base, as everywhere; DPO's β. SFT has none.

    Returns:
        the files of an ordinary PEFT adapter, by name.

    Raises:
        PaletteError: the loss became infinite or not a number.
    """
    fit = {"sft": supervised, "dpo": preferred}[method]
    with warnings.catch_warnings():
        # PEFT reads attributes that transformers has renamed: nothing that a user could mend.
        warnings.simplefilter("ignore", FutureWarning)
        policy = adapted(lm, settings)
        with TemporaryDirectory() as folder:
            shared = common(policy, folder, steps, settings.learning_rate, settings.seed)
            shared |= {"per_device_train_batch_size": len(pairs), "max_length": None}
            run(fit(policy, pairs, shared, beta), "adapters.learning_rate")
        return peft_files.of_policy(policy.model)


def adapted(lm: LanguageModel, settings: Adapters) -> LanguageModel:
    """A twin of the base with a fresh LoRA adapter on every linear layer of its decoder, by PEFT."""
    from peft import get_peft_model

    torch.manual_seed(settings.seed)
    own = twin(lm)
    model = get_peft_model(own.model, peft_files.config(settings.rank, "all-linear"))
    return replace(own, model=model)


def supervised(
    policy: LanguageModel, pairs: Sequence[Pair], shared: dict[str, Any], _: float
) -> SupervisedTrainer:
    rows = []
    for prompt, personal, _neutral in pairs:
        asked, said = question(policy, prompt), answer(policy, personal)
        rows.append({"input_ids": asked + said, "labels": [-100] * len(asked) + said})
    return SupervisedTrainer(
        model=policy.model,
        args=SFTConfig(
            **shared,
            train_sampling_strategy="sequential",
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=policy.tokenizer,
        tokens_per_step=sum(label >= 0 for row in rows for label in row["labels"]),
    )


def preferred(
    policy: LanguageModel, pairs: Sequence[Pair], shared: dict[str, Any], beta: float
) -> PreferenceTrainer:
    rows = [
        {
            "prompt_ids": question(policy, prompt),
            "chosen_ids": answer(policy, personal),
            "rejected_ids": answer(policy, neutral),
        }
        for prompt, personal, neutral in pairs
    ]
    return PreferenceTrainer(
        model=policy.model,
        args=DPOConfig(**shared, train_sampling_strategy="sequential", beta=beta),
        train_dataset=Dataset.from_list(rows),
        processing_class=policy.tokenizer,
    )


def question(lm: LanguageModel, prompt: str) -> list[int]:
    return templates.encode(lm.tokenizer, templates.question(prompt))


def answer(lm: LanguageModel, text: str) -> list[int]:
    """Token ids of a whole answer, with its end; a control token spelt inside is read as text."""
    ids = lm.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    own = lm.tokenizer.eos_token_id
    return ids + ([own] if own in lm.eos else sorted(lm.eos)[:1])
