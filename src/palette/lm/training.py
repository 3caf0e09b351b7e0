"""Training one adapter toward π*_w ∝ π_ref exp(w·r/β), on a frozen base that many adapters share.

Two phases, both with TRL and both with π*_w as their only optimum:

- `supervised`: maximum likelihood of the base's rollouts, resampled toward π*_w (SFTTrainer);
- `reinforce`: on-policy, the objective J_w itself, the KL to the base in the reward (RLOOTrainer).
"""

import copy
import json
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from palette.core.resampling import resample
from palette.lm.generation import generate, row_uniforms
from palette.lm.models import LanguageModel
from palette.params import Adapters

BASE_NAME = "palette/base"
"""What an adapter calls its base, wherever the base lies."""
ALPHA = 16.0
"""LoRA's alpha at every rank: AdamW moves each of the r columns alike, and α/r takes that out."""
WARM_UP = 0.1
"""Share of the steps in which the learning rate rises, before it falls along a cosine."""
LENGTH_GROUPS = 4
"""A batch is passed through the model sorted by length, in so many parts, to spare padding."""

Log = list[tuple[str, int, float]]
"""(phase, step, loss): columns of the table `training`"""
Progress = Callable[[int], None] | None


@dataclass(frozen=True)
class Task:
    """What one adapter is trained for: one weight vector w, on the train split's prompts."""

    prompts: list[list[int]]
    """encoded prompts"""
    questions: list[str]
    """the same prompts as the reward reads them"""
    answers: list[list[list[int]]]
    """per prompt, the base's rollouts as token ids; eos only where it was reached"""
    rewards: np.ndarray
    """(prompts, samples) w·r of the rollouts"""
    reward: Callable[[list[str], list[str]], np.ndarray]
    """w·r of (questions, responses), (rows,)"""
    beta: float
    """price of one nat of KL to the base"""
    max_new_tokens: int


def train(
    lm: LanguageModel, task: Task, settings: Adapters, progress: Progress = None
) -> tuple[dict[str, bytes], Log]:
    """Train an adapter: supervised steps, then RLOO steps. The base is left as it was.

    Args:
        progress: called with 1 after each of the `steps + rloo_steps` steps.

    Returns:
        the files of an ordinary PEFT adapter, by name, and the log.

    Raises:
        PaletteError: the loss became infinite or not a number.
    """
    log: Log = []
    with warnings.catch_warnings():
        # PEFT reads attributes that transformers has renamed: nothing that a user could mend.
        warnings.simplefilter("ignore", FutureWarning)
        policy = adapted(lm, settings)
        if settings.steps:
            log += supervised(policy, task, settings, progress)
        if settings.rloo_steps:
            log += reinforce(policy, task, settings, progress)
        return adapter_files(policy), log


def adapted(lm: LanguageModel, settings: Adapters) -> LanguageModel:
    """The base with a fresh LoRA adapter on every linear layer of its decoder, in PEFT's format.

    It is a twin of the base that shares its weights: whatever PEFT and TRL wrap, patch or
    configure goes with the twin, and many adapters can be trained one after another.
    """
    from peft import LoraConfig, get_peft_model

    shared = (*lm.model.parameters(), *lm.model.buffers())
    twin = copy.deepcopy(lm.model, {id(tensor): tensor for tensor in shared})
    config = LoraConfig(
        r=settings.rank, lora_alpha=ALPHA, lora_dropout=0.0, bias="none",
        target_modules="all-linear", task_type="CAUSAL_LM",
    )  # fmt: skip
    torch.manual_seed(settings.seed)
    model = get_peft_model(twin, config)
    return replace(lm, model=model, tokenizer=copy.deepcopy(lm.tokenizer))


def supervised(
    policy: LanguageModel, task: Task, settings: Adapters, progress: Progress = None
) -> Log:
    """Maximum likelihood of rollouts resampled toward π*_w: minimises E_x KL(π*_w ‖ π).

    Every answer token of every drawn rollout weighs the same, whatever its answer or batch, and
    answers end where they ended: a truncated one gets no eos.
    """
    from datasets import Dataset
    from trl import SFTConfig

    from palette.lm.trainers import SupervisedTrainer, run

    rows = _drawn(task, settings)
    tokens = sum(label >= 0 for row in rows for label in row["labels"])
    parts = math.gcd(LENGTH_GROUPS, settings.batch)
    with TemporaryDirectory() as folder:
        config = SFTConfig(
            **common(policy, folder, settings.steps, settings.learning_rate, settings.seed),
            per_device_train_batch_size=settings.batch // parts,
            gradient_accumulation_steps=parts,
            train_sampling_strategy="sequential",
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        trainer = SupervisedTrainer(
            model=policy.model,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=policy.tokenizer,
            tokens_per_step=tokens / settings.steps,
        )
        logged = run(trainer, "adapters.learning_rate", progress)
    return [("supervised", entry["step"], entry["loss"]) for entry in logged]


def reinforce(
    policy: LanguageModel, task: Task, settings: Adapters, progress: Progress = None
) -> Log:
    """Policy gradient of J_w by REINFORCE with a leave-one-out baseline (arXiv 2402.14740).

    The reward of an answer is w·r − β log(π/π_ref), π_ref the base: unbiased for the gradient of
    J_w, and free of variance at π*_w, where it is the same for all answers of a prompt. One
    update per sample, so that TRL's ratio is 1 and its clipping never acts.
    """
    from datasets import Dataset
    from trl import RLOOConfig

    from palette.lm.trainers import ReinforceTrainer, run

    def sample(prompts: list[list[int]], step: int) -> list[list[int]]:
        uniforms = row_uniforms(len(prompts), task.max_new_tokens, "rloo", settings.seed, step)
        return generate(policy, prompts, task.max_new_tokens, uniforms).tokens

    def reward(completions: list[str], question: list[str], **_: Any) -> list[float]:
        return task.reward(question, [text.strip() for text in completions]).tolist()

    order = _shuffled(
        len(task.prompts),
        settings.rloo_steps * settings.batch // settings.generations,
        np.random.default_rng([settings.seed, 1]),
    )
    rows = [{"prompt": task.prompts[row], "question": task.questions[row]} for row in order]
    with TemporaryDirectory() as folder:
        config = RLOOConfig(
            **common(
                policy, folder, settings.rloo_steps, settings.rloo_learning_rate, settings.seed
            ),
            per_device_train_batch_size=settings.batch,
            num_generations=settings.generations,
            shuffle_dataset=False,
            beta=task.beta,
            temperature=1.0,
            num_iterations=1,
            normalize_advantages=False,
            reward_clip_range=None,
            mask_truncated_completions=False,
            disable_dropout=True,
        )
        trainer = ReinforceTrainer(
            model=policy.model,
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=policy.tokenizer,
            sample=sample,
        )
        logged = run(trainer, "adapters.rloo_learning_rate", progress)
    return [("rloo", entry["step"], -entry["reward"]) for entry in logged]


def adapter_files(policy: LanguageModel) -> dict[str, bytes]:
    """The adapter as PEFT saves it: the same bytes on every machine that computes the same."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save

    tensors = get_peft_model_state_dict(policy.model, save_embedding_layers=False)
    config = policy.model.peft_config["default"].to_dict()
    config |= {"base_model_name_or_path": BASE_NAME, "revision": None, "inference_mode": True}
    # PEFT keeps the target modules in a set, whose order differs from process to process.
    text = json.dumps(config, indent=2, sort_keys=True, default=sorted)
    return {
        "adapter_config.json": text.encode(),
        "adapter_model.safetensors": save(
            {name: tensor.cpu().contiguous() for name, tensor in sorted(tensors.items())},
            metadata={"format": "pt"},
        ),
    }


def _drawn(task: Task, settings: Adapters) -> list[dict[str, list[int]]]:
    """The rows of all supervised steps, batch after batch; labels cover the answers alone."""
    rng = np.random.default_rng([settings.seed, 0])
    total = settings.steps * settings.batch
    prompts, samples = resample(task.rewards / task.beta, -(-total // len(task.prompts)), rng)
    rows = []
    for row in rng.permutation(len(prompts))[:total]:
        prompt = task.prompts[prompts[row]]
        answer = task.answers[prompts[row]][samples[row]]
        labels = [-100] * len(prompt) + answer
        rows.append({"input_ids": prompt + answer, "labels": labels})
    batches = [rows[start : start + settings.batch] for start in range(0, total, settings.batch)]
    return [row for batch in batches for row in sorted(batch, key=lambda row: len(row["labels"]))]


def _shuffled(size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` indices below `size`: one random order after another."""
    orders = [rng.permutation(size) for _ in range(-(-count // size))]
    return np.concatenate(orders)[:count]


def common(
    policy: LanguageModel, folder: str, steps: int, learning_rate: float, seed: int
) -> dict[str, Any]:
    """What both phases share. No clipping of gradients: a clipped mean is another fixed point."""
    return {
        "output_dir": folder, "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
        "log_level": "error", "logging_steps": 1, "logging_nan_inf_filter": False,
        "max_steps": steps, "seed": seed,
        "learning_rate": learning_rate, "lr_scheduler_type": "cosine",
        "warmup_steps": int(WARM_UP * steps), "weight_decay": 0.0, "max_grad_norm": 0.0,
        "bf16": False, "activation_checkpointing": False, "use_cpu": policy.device.type == "cpu",
        "dataloader_pin_memory": False,
    }  # fmt: skip
