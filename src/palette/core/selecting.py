"""The smallest subset of existing policies that serves every weight nearly as well as all do.

Set cover over finitely many weights, with constraint generation: wherever in W the chosen few fall
short, exactly, becomes a new point. Every cover of the points bounds the size from below, every
choice that holds on all of W from above; where the two meet, the answer is the smallest there is.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from palette.core.linear_regret import CORNERS_UP_TO, TOLERANCE, Contest
from palette.core.set_cover import at_least, complete, hardest, prove, search

FIRST_STEPS = 200  # of local search, between two looks at all of W
STEPS_AT_ONCE = 4_000
STEPS = 120_000  # of local search in all
LOOK, LONG_LOOK = 100, 1000  # steps that a look at all of W is worth: by cells, by programs
GROWN = 1.2  # how many times more points are worth another lower bound
LARGEST_PROGRAM = 1_000_000  # rows × columns that branch and bound is tried on
NODES = 2_000  # of branch and bound in one program
ROOT = 100  # nodes that its first one, with all its cuts, is worth
WORK = 50_000_000  # nodes × rows × columns of all programs together
CLOSE = 1e-6  # two ε, or two δ in units of the largest worth, that count as the same
ROUGH = 1e-3  # the same, once an answer in between is not proven anyway

Say = Callable[[str], None]


@dataclass(frozen=True)
class Choice:
    members: np.ndarray
    """(K,): indices of the chosen policies, ascending"""
    lower_bound: int
    """no subset of fewer policies holds the asked (ε, δ)"""
    optimal: bool
    """proven: none is smaller (`smallest`), none of the size is better (`best`)"""


@dataclass
class Effort:
    """What may still be spent; counted in steps and nodes, not in time, so that it repeats."""

    steps: int = field(default_factory=lambda: STEPS)
    work: int = field(default_factory=lambda: WORK)


class Points:
    """Weights (as shares of W's corners) at which some choice fell short: true of every (ε, δ)."""

    def __init__(self, contest: Contest) -> None:
        self.contest = contest
        self.shares = contest.starts

    def add_missing(self, columns: np.ndarray, epsilon: float, delta: float) -> int:
        """Add where these policies of the front fall short; how many points that was."""
        short = self.contest.violated(self.contest.front[columns], epsilon, delta)
        self.shares = np.concatenate([self.shares, short])
        return len(short)

    def matrix(self, epsilon: float, delta: float) -> np.ndarray:
        """(P, m) bool: which policies of the front hold (ε, δ) at which points."""
        contest = self.contest
        worth = self.shares @ contest.heights[contest.front].T
        ideal = worth.max(axis=1)
        # half the tolerance: what falls short is never taken for covered. And the best always
        # holds, also where rounding puts it below 0, and a share of it above it
        least = np.minimum((1 - epsilon) * ideal - delta - TOLERANCE / 2, ideal)
        return worth >= least[:, None]


def smallest(
    contest: Contest, epsilon: float, delta: float, say: Say = lambda line: None
) -> Choice:
    """The fewest policies with `max_P (w·v − c) >= (1 − ε) max_all (w·v − c) − δ` on all of W.

    Args:
        contest: the policies; the best of them is worth at least 0 everywhere if ε > 0.
        delta: in the units of the values.
        say: is told how far it has come.
    """
    return _smallest(Points(contest), epsilon, delta / contest.unit, say)


def best(
    contest: Contest, size: int, epsilon: float, delta: float, say: Say = lambda line: None
) -> Choice:
    """At most `size` policies with the least worst ε at δ, found to CLOSE by bisection.

    Where the best of all is somewhere worth less than 0, no ε means anything: the least δ instead.
    """
    points, unit, relative = Points(contest), contest.unit, contest.relative
    asked = _smallest(points, epsilon, delta / unit, say)

    def worst(members: np.ndarray) -> float:
        found = contest.worst(members, delta / unit) if relative else contest.shortfall(members, 0)
        return found[0]

    chosen = asked.members[:size]
    if len(asked.members) > size:
        chosen = min(chosen, _leaders(contest, size), key=worst)
    low, high, optimal = 0.0, min(worst(chosen), 1.0 if relative else np.inf), True
    while high - low > (CLOSE if optimal else ROUGH):
        middle = (low + high) / 2
        aim = (middle, delta / unit) if relative else (0.0, middle)
        columns, least = _at_most(points, *aim, size, Effort(STEPS // 3, WORK // 10))
        if columns is None:
            low = middle
            optimal &= least > size
        else:
            chosen = contest.front[columns]
            high = min(middle, worst(chosen))
        say(f"{size} policies: the least that holds is between {low:.4g} and {high:.4g}")
    return Choice(chosen, asked.lower_bound, optimal)


def _leaders(contest: Contest, size: int) -> np.ndarray:
    """Policies chosen one by one, each the one that lifts the middle and the corners most."""
    worth = contest.starts @ contest.heights.T
    chosen: list[int] = []
    for _ in range(min(size, len(contest.front))):
        held = worth[:, chosen].max(axis=1, initial=worth.min())
        gain = np.maximum(worth - held[:, None], 0).sum(axis=0)
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
    return np.array(sorted(chosen))


def _smallest(points: Points, epsilon: float, delta: float, say: Say) -> Choice:
    """`smallest`, with δ in units of the largest worth; leaves the points that it needed."""
    effort = Effort()
    columns = np.zeros(0, dtype=int)
    while True:
        matrix = points.matrix(epsilon, delta)
        columns, _ = search(matrix, complete(matrix, columns), 1, FIRST_STEPS)
        if not points.add_missing(columns, epsilon, delta):
            break
    bound = 1
    while bound < len(columns):
        say(f"{len(columns)} policies hold; looking for {len(columns) - 1}")
        fewer, least = _at_most(points, epsilon, delta, len(columns) - 1, effort)
        bound = max(bound, least)
        if fewer is None:
            break
        columns = fewer
    bound = min(bound, len(columns))
    return Choice(points.contest.front[columns], bound, bound == len(columns))


def _at_most(
    points: Points, epsilon: float, delta: float, size: int, effort: Effort
) -> tuple[np.ndarray | None, int]:
    """At most `size` columns of the front that hold on all of W.

    Returns:
        The columns, None if none were found, and a lower bound on how many any choice needs: more
        than `size` is the proof that there are none.
    """
    look = LOOK if points.contest.region.d <= CORNERS_UP_TO else LONG_LOOK
    start, bound, bounded = np.zeros(0, dtype=int), 1, 0
    while True:
        matrix = points.matrix(epsilon, delta)
        at_once = STEPS_AT_ONCE if bounded else FIRST_STEPS
        steps = max(0, min(at_once, matrix.size // 10, effort.steps))
        columns, took = search(matrix, complete(matrix, start), size, steps, seed=effort.steps)
        effort.steps = max(0, effort.steps - took - look)
        if len(columns) > size:
            core = matrix[hardest(matrix)]
            if len(matrix) > GROWN * bounded:
                bound, bounded = at_least(core), len(matrix)
            nodes = min(NODES, effort.work // core.size - ROOT)
            if bound > size or (effort.steps == 0 and (core.size > LARGEST_PROGRAM or nodes < 1)):
                return None, bound
            if core.size > LARGEST_PROGRAM or nodes < 1:
                start = columns
                continue
            effort.work -= (ROOT + nodes) * core.size
            found, proven = prove(core, size + 1, nodes)
            if found is None:
                return None, max(bound, proven)
            columns = found
        if not points.add_missing(columns, epsilon, delta):
            return columns, 1
        start = columns
