"""A training's way through its budget of steps and minutes, and the learning rate that follows it.

The rate rises linearly over a tenth of the budget and falls along a cosine to nothing (SGDR, Loshchilov
and Hutter, arXiv 1608.03983, without restarts). Where minutes run out before the steps do, the fall
comes sooner, instead of the training being cut at a high rate: the last steps still settle.
"""

import math
from collections.abc import Callable

WARM_UP = 0.1
"""Share of the budget in which the learning rate rises."""


class Clock:
    """How much of a training's budget is spent; it starts when it is made.

    Without a limit in minutes nothing here depends on time.
    """

    def __init__(
        self, steps: int, minutes: float | None, now: Callable[[], float], spent: float = 0.0
    ):
        """
        Args:
            steps: of the whole training.
            minutes: limit for all of it; None: no limit.
            now: seconds of a clock that never goes back.
            spent: seconds that it took before it was interrupted, as `elapsed` had them.
        """
        self.steps = steps
        self._limit = math.inf if minutes is None else 60 * minutes
        self._now = now
        self.spent = spent
        self.restart()

    def restart(self) -> None:
        """Begin to count now, with what was spent before."""
        self._started = self._now() - self.spent

    @property
    def elapsed(self) -> float:
        """Seconds of training so far, those before an interruption included."""
        return self._now() - self._started

    def progress(self, step: int) -> float:
        """The share of the budget, in [0, 1], that is spent once `step` steps are done."""
        return min(self._reached(step) / self.steps, 1.0) if self.steps else 1.0

    def over(self, step: int) -> bool:
        """Whether there is nothing left for another step."""
        return self.progress(step) >= 1.0

    def rate(self, step: int) -> float:
        """Factor, in [0, 1], of the learning rate of the step after `step` steps.

        Without a limit it is that of transformers' `get_cosine_schedule_with_warmup`, to the bit.
        """
        reached, warm_up = self._reached(step), int(WARM_UP * self.steps)
        if reached < warm_up:
            return reached / warm_up
        fallen = min((reached - warm_up) / max(1, self.steps - warm_up), 1.0)
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * fallen)))

    def _reached(self, step: int) -> float:
        """In steps: those done, or what the time spent is worth, whichever is more."""
        return max(step, self.elapsed / self._limit * self.steps)
