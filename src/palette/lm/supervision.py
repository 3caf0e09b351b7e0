"""Maximum likelihood of the base's rollouts, resampled toward π*_w, on soft targets (SFTTrainer)."""

from collections.abc import Callable, Sequence
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from palette.core import draws
from palette.core.draws import Draws
from palette.core.reaching import REACHED
from palette.lm.learner import Course, Learner, Log, Task, common, parts_of
from palette.params import Adapters


def supervised(
    learner: Learner, task: Task, settings: Adapters, course: Course | None = None
) -> list[Log]:
    """Maximum likelihood of rollouts resampled toward π*_w: minimises E_x KL(π*_w ‖ π).

    Every answer token of every drawn rollout weighs the same, whatever its answer or batch, and
    answers end where they ended: a truncated one gets no eos.
    """
    from datasets import Dataset
    from trl import SFTConfig

    from palette.lm.trainers import RowTrainer, run

    course = course or Course.begin(learner, "supervised", settings)
    chosen, lengths = _drawn(learner, task, settings)
    per_step = settings.batch * learner.members
    parts = parts_of(learner, settings.batch, int(lengths.max()))
    order = draws.by_length(lengths, learner.members, settings.batch, parts)
    chosen = chosen[order.ravel()]
    with TemporaryDirectory() as folder:
        config = SFTConfig(
            **common(learner.policy, folder, course.left, course.learning_rate, settings.seed),
            per_device_train_batch_size=per_step,
            train_sampling_strategy="sequential",
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
        )
        trainer = RowTrainer(
            model=learner.policy.model,
            args=config,
            train_dataset=Dataset.from_dict({"row": range(course.first * per_step, len(chosen))}),
            data_collator=_collator(learner, task, chosen, settings.steps, parts),
            processing_class=learner.policy.tokenizer,
            rows=learner.rows,
            threads=learner.threads,
            optimizers=(course.optimizer, course.schedule()),
        )

        def logs() -> list[Log]:
            found = []
            for member, before in enumerate(course.logs):
                own = [
                    (course.phase, course.first + step, losses[member])
                    for step, losses in trainer.losses.items()
                    if member in losses
                ]
                found.append(sorted([*before, *own], key=lambda row: row[0] == REACHED))
            return found

        callbacks = course.callbacks(learner, task, settings.share, logs)
        run(trainer, "adapters.learning_rate", callbacks)
    return logs()


def _drawn(learner: Learner, task: Task, settings: Adapters) -> tuple[Draws, np.ndarray]:
    """The rows of all supervised steps, and their lengths in tokens."""
    if learner.weights is None:
        rows = settings.steps * settings.batch
        chosen = draws.for_all(
            task.rewards, task.beta, task.floor, settings.concentration, rows, settings.seed
        )
    else:
        chosen = draws.for_members(
            task.rewards, task.beta, learner.weights, settings.steps, settings.batch, settings.seed
        )
    asked = np.array([len(prompt) for prompt in task.prompts])
    pairs = zip(chosen.prompts, chosen.samples, strict=True)
    said = [len(task.answers[prompt][sample]) for prompt, sample in pairs]
    return chosen, asked[chosen.prompts] + np.array(said)


def _collator(
    learner: Learner, task: Task, chosen: Draws, steps: int, parts: int
) -> Callable[[Sequence[dict[str, int]]], dict[str, list[dict[str, Tensor]]]]:
    """Makes the parts' batches of a step's row numbers."""
    conditions = learner.conditions(chosen)
    said = [len(task.answers[p][s]) for p, s in zip(chosen.prompts, chosen.samples, strict=True)]
    # Answer tokens of a member and step, on average over its whole training.
    per_step = np.bincount(chosen.members, said) / steps

    def collate(features: Sequence[dict[str, int]]) -> dict[str, list[dict[str, Tensor]]]:
        rows = np.array([feature["row"] for feature in features])
        return {"parts": [part(own) for own in rows.reshape(parts, -1)]}

    def part(rows: np.ndarray) -> dict[str, Tensor]:
        own = chosen[rows]
        sequences, found = [], []
        for place, (prompt, sample) in enumerate(zip(own.prompts, own.samples, strict=True)):
            sequences.append(task.prompts[prompt] + list(task.answers[prompt][sample]))
            tilt = task.rewards[prompt] @ own.weights[place] / task.beta
            position, token, share = task.prefixes.targets(
                int(prompt), int(sample), np.exp(tilt - tilt.max())
            )
            # The logits that foretell a token stand one place before it.
            column = len(task.prompts[prompt]) - 1 + position
            member = np.full(len(token), own.members[place])
            found.append((np.full(len(token), place), column, token, member, share))
        width = max(map(len, sequences))
        ids = torch.full((len(rows), width), learner.policy.pad)
        attention = torch.zeros((len(rows), width), dtype=torch.long)
        for place, sequence in enumerate(sequences):
            ids[place, : len(sequence)] = torch.tensor(sequence)
            attention[place, : len(sequence)] = 1
        row, column, token, member, share = (
            np.concatenate(part) for part in zip(*found, strict=True)
        )
        return {
            "input_ids": ids, "attention_mask": attention,
            "condition": torch.from_numpy(conditions[rows]),
            "place": torch.from_numpy(row * width + column),
            "token": torch.from_numpy(token.astype(np.int64)),
            "member": torch.from_numpy(member),
            "share": torch.from_numpy((share / per_step[member]).astype(np.float32)),
        }  # fmt: skip

    return collate
