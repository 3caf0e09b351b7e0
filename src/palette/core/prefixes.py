"""The prefix tree of a prompt's rollouts: the distribution over next tokens that supervision aims at.

A rollout drawn with weight exp(w·r/β) and learnt token by token has one-hot targets. Given the prefix,
their conditional expectation is the weighted distribution over the next tokens of *all* rollouts that
share it: as a target it has the same expected gradient and less noise (Rao–Blackwell).
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

POSITION, TOKEN, START, LOW, HIGH = range(5)
"""the rows of an edge table: edge of a prefix of `position` tokens, which the sorted rollouts
LOW to HIGH continue, those from START on by `token`; token -1 closes a prefix's edges"""


class Prefixes:
    """The branching prefixes of every prompt's rollouts.

    Rollouts are sorted, so those that share a prefix are neighbours; a prefix with one continuation
    needs no entry. A prompt holds four bytes a rollout and at most sixty more, whatever the lengths.
    """

    def __init__(self, answers: Sequence[Sequence[Sequence[int]]]):
        """
        Args:
            answers: prompts → rollouts → token ids, of any counts and lengths; held, not copied.
        """
        self._answers = answers
        self._order, self._place, self._edges = [], [], []
        for rollouts in answers:
            rows = [tuple(map(int, rollout)) for rollout in rollouts]
            order = np.array(sorted(range(len(rows)), key=rows.__getitem__), dtype=np.int32)
            place = np.empty_like(order)
            place[order] = np.arange(len(order))
            self._order.append(order)
            self._place.append(place)
            self._edges.append(_edges([rows[i] for i in order]))

    def targets(
        self, prompt: int, sample: int, mass: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The distribution of the next token at every position of one rollout.

        A rollout that has ended says nothing of what follows it. Where all that share a prefix have
        mass 0, the target is the rollout's own token.

        Args:
            prompt, sample: which rollout.
            mass: (samples,) nonnegative weights of the prompt's rollouts, such as exp(tilt - max).

        Returns:
            position, token and share, (entries,) each, by position; a position's shares add to 1.

        Raises:
            ValueError: the prompt has another number of rollouts than `mass`.
        """
        order, edges = self._order[prompt], self._edges[prompt]
        if len(mass) != len(order):
            raise ValueError(f"{len(mass)} masses for {len(order)} rollouts")
        own = np.asarray(self._answers[prompt][sample], dtype=np.int64)
        row = self._place[prompt][sample]
        edges = edges[:, (edges[LOW] <= row) & (row < edges[HIGH])]
        alone = np.ones(len(own), dtype=bool)
        alone[edges[POSITION]] = False
        single = np.flatnonzero(alone)
        if not edges.size:
            return single, own, np.ones(len(own))
        # One more, because a prefix that the last rollout has closes behind it.
        sums = np.add.reduceat(np.append(mass[order].astype(float), 0.0), edges[START])
        real = edges[TOKEN] >= 0
        position, token, sums = edges[POSITION, real], edges[TOKEN, real], sums[real]
        total = np.bincount(position, sums)[position]
        share = np.divide(sums, total, out=(token == own[position]) * 1.0, where=total > 0)
        position = np.concatenate([single, position])
        by_position = np.argsort(position, kind="stable")
        token, share = np.append(own[single], token), np.append(np.ones(len(single)), share)
        return position[by_position], token[by_position], share[by_position]


def _edges(rows: Sequence[tuple[int, ...]]) -> np.ndarray:
    """(5, edges) the table of all prefixes with two continuations or more, by position.

    Args:
        rows: sorted.
    """
    table = [
        (depth, token, start, starts[0], high)
        for depth, starts, high in _prefixes(rows)
        for token, start in [*((rows[start][depth], start) for start in starts), (-1, high)]
    ]
    edges = np.array(table, dtype=np.int32).reshape(-1, 5).T
    # Stable, so the edges of one prefix stay together, the closing one last.
    return edges[:, np.argsort(edges[POSITION], kind="stable")]


def _prefixes(rows: Sequence[tuple[int, ...]]) -> Iterator[tuple[int, list[int], int]]:
    """Length, first row of each continuation, and the row behind the last, of each such prefix.

    One walk over the sorted rows with a stack of the prefixes still open: the intervals of an array
    of longest common prefixes (Abouelhoda, Kurtz and Ohlebusch 2004, algorithm 4.4).
    """
    open_: list[tuple[int, list[int]]] = []
    shared = [_shared(*pair) for pair in pairwise(rows)]
    for row, length in enumerate([*shared, -1], start=1):
        first = row - 1
        while open_ and open_[-1][0] > length:
            depth, starts = open_.pop()
            first = starts[0]
            going_on = [start for start in starts if len(rows[start]) > depth]
            if len(going_on) > 1:
                yield depth, going_on, row
        if open_ and open_[-1][0] == length:
            open_[-1][1].append(row)
        elif length >= 0:
            open_.append((length, [first, row]))


def _shared(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """How many first tokens two rollouts have in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
