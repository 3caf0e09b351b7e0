"""A step's parts side by side, each on a thread of its own.

The operations of a small model are too small to be shared: two threads that share every operation of a
pass took 0.67 of one thread's time, two that take a step's parts in turn 0.55 (two cores, the sandbox's
base). What a part gives depends on the part alone, and parts are added up in their order: the sum has the
same bits on however many threads.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any, TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")


class Threads:
    """Calls functions side by side; each call has one of PyTorch's threads.

    Backward passes of tensors on the CPU run where they are called, so they too are side by side.
    """

    def __init__(self, count: int):
        self._pool = _begun(count) if count > 1 else None

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """`function(item)` of every item, in order; begun with the last, which by habit is the longest.

        Gradients are recorded, or not, as where this is called.
        """
        items = list(items)
        if self._pool is None:
            return [function(item) for item in items]
        recorded, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

        def call(item: Item) -> Result:
            with torch.inference_mode(inference), torch.set_grad_enabled(recorded):
                return function(item)

        return list(self._pool.map(call, reversed(items)))[::-1]

    def add_up(
        self, losses: Callable[[Item], Tensor], parts: Iterable[Item], parameters: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The losses of a step whose parts pass through the model each by itself.

        A part's graph is gone before its thread begins another.

        Args:
            losses: of a part, (n,).
            parameters: that get gradients.

        Returns:
            the sum of all losses, whose way back gives its gradient; and the losses, (n,).
        """

        def passed(part: Item) -> tuple[Tensor, Sequence[Tensor | None]]:
            found = losses(part)
            return found.detach(), torch.autograd.grad(found.sum(), parameters, allow_unused=True)

        each, gradients = zip(*self.map(passed, parts), strict=True)
        sums = torch.stack(each).sum(0)
        own = [_sum(of_parts) for of_parts in zip(*gradients, strict=True)]
        return _Known.apply(sums.sum(), own, *parameters), sums

    @classmethod
    def on(cls, device: torch.device) -> "Threads":
        """As many as PyTorch has here; one where an accelerator computes."""
        return cls(torch.get_num_threads() if device.type == "cpu" else 1)


def _begun(count: int) -> ThreadPoolExecutor:
    """Threads that have one of PyTorch's each; the caller's own are left to it."""
    here, all_begun = torch.get_num_threads(), Barrier(count)

    def begin(_: int) -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # a thread's number is that set last, by any, when it first needs one
        all_begun.wait()

    pool = ThreadPoolExecutor(count)
    list(pool.map(begin, range(count)))
    torch.set_num_threads(here)
    return pool


def _sum(gradients: Sequence[Tensor | None]) -> Tensor | None:
    known = [each for each in gradients if each is not None]
    return torch.stack(known).sum(0) if known else None


class _Known(torch.autograd.Function):
    """A value whose gradient is known."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, gradients: Sequence[Tensor | None], *parameters: Tensor
    ) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> Any:
        own = (None if each is None else above[0] * each for each in ctx.gradients)
        return None, None, *own
