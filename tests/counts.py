"""Counts what really passes through models: answers, and tokens generated, read, traced and trained."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch


@contextmanager
def counted() -> Iterator[Counter]:
    """What passes inside the block, in this process; padding is not counted."""
    from palette.lm import activations, generation, gradients, scoring, trainers

    found: Counter = Counter()
    batch, asked = generation._Batch, scoring._Asked
    run, begin, go_on = batch.run, asked.__init__, asked.logprobs
    rows, traced = activations.batches, gradients.batches
    fit, scored = trainers.RowTrainer.fit, trainers.ReinforceTrainer._scored

    def answer(self, *given):
        found["read"] += int(self.mask.sum())
        for row, ids, logprob in run(self, *given):
            found.update(answers=1, generated=len(ids))
            yield row, ids, logprob

    def ask(self, *given):
        begin(self, *given)
        found["read"] += int(self.mask.sum())

    def score(self, some, answers):
        found["read"] += sum(len(answers[row]) - 1 for row in some)
        return go_on(self, some, answers)

    def read(kind, batches):
        def counting(*given):
            for numbers, inputs in batches(*given):
                found[kind] += int(inputs["attention_mask"].sum())
                yield numbers, inputs

        return counting

    def learn(self, model, inputs):
        found["trained"] += int(inputs["attention_mask"].sum())
        return fit(self, model, inputs)

    def polish(self, ids, attention, longest):
        found["trained" if torch.is_grad_enabled() else "read"] += int(attention.sum())
        return scored(self, ids, attention, longest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "run", answer)
        patch.setattr(asked, "__init__", ask)
        patch.setattr(asked, "logprobs", score)
        patch.setattr(activations, "batches", read("read", rows))
        patch.setattr(gradients, "batches", read("traced", traced))
        patch.setattr(trainers.RowTrainer, "fit", learn)
        patch.setattr(trainers.ReinforceTrainer, "_scored", polish)
        yield found
