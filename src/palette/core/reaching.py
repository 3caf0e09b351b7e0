"""Whether a policy has reached a share of what is possible at its weights, judged from fresh answers.

An answer's `w·r − β log(π/π_ref)` has J_w(π) as its mean and, at π*_w, no variance within a prompt: a
few answers decide. A share s is reached where the mean over answers of `J − J_base − s (f* − J_base)`
is above zero by more than chance allows.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

REACHED = "reached"
"""In place of a phase in a training's log: where it reached its share and ended."""
SURE = NormalDist().inv_cdf(0.95)
"""Standard errors by which the mean must be above zero: one look errs one time in twenty."""


@dataclass(frozen=True)
class Reached:
    """What one look at some policies shows, each at its own weights and by answers to the same prompts."""

    objective: np.ndarray
    """(policies, answers) `w·r − β log(π/π_ref)`"""
    base: np.ndarray
    """(policies, answers) J of the base for the answer's prompt"""
    ideal: np.ndarray
    """(policies, answers) f* for the answer's prompt"""

    @property
    def shares(self) -> np.ndarray:
        """(policies,) the point estimates; 1 where the base is ideal already."""
        gained, possible = (
            (part - self.base).mean(axis=1) for part in (self.objective, self.ideal)
        )
        return np.divide(gained, possible, out=np.ones(len(gained)), where=possible > 0)

    def at_least(self, share: float) -> np.ndarray:
        """(policies,) bool: is each share at least so large, at 95 % confidence?"""
        ahead = self.objective - self.base - share * (self.ideal - self.base)
        error = ahead.std(axis=1, ddof=1) / np.sqrt(ahead.shape[1])
        return ahead.mean(axis=1) >= SURE * error
