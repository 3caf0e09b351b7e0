"""Minimum set cover: a local search for small covers, and HiGHS for what no cover can beat.

A matrix (P, K) says which of K columns cover which of P rows.
"""

import numpy as np


def complete(matrix: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The chosen columns and, each time, the one that covers most of the rows left; ascending.

    Raises:
        ValueError: a row is in no column.
    """
    if not matrix.any(axis=1).all():
        raise ValueError("a row that no column covers has no cover")
    columns = [int(column) for column in chosen]
    left = matrix[~matrix[:, columns].any(axis=1)]
    while len(left):
        columns.append(int(left.sum(axis=0).argmax()))
        left = left[~left[:, columns[-1]]]
    return np.array(sorted(columns), dtype=int)


def search(
    matrix: np.ndarray, start: np.ndarray, size: int, steps: int, seed: int = 0
) -> tuple[np.ndarray, int]:
    """Make a cover smaller by swapping columns, until it has `size` or the steps are used up.

    Row weighting (Gao, Weise and Li, "An efficient local search heuristic with row weighting for
    the unicost set covering problem", 2015): whenever all rows are covered the least useful column
    leaves; then one leaves and one that covers an open row enters, and open rows gain weight.

    Args:
        start: a cover.

    Returns:
        The smallest cover seen, ascending, and how many steps it took.
    """
    rng = np.random.default_rng(seed)
    rows = matrix.astype(np.float32)
    columns = np.ascontiguousarray(rows.T)
    weight = np.ones(len(rows), dtype=np.float32)
    since = np.zeros(len(columns))  # the step of a column's last move: of equals the oldest moves
    chosen = [int(column) for column in start]
    best = np.array(sorted(chosen), dtype=int)
    covered = columns[chosen].sum(axis=0)
    entered = -1
    for step in range(1, steps + 1):
        while (covered > 0).all():
            best = np.array(sorted(chosen), dtype=int)
            if len(chosen) <= max(size, 1):
                return best, step
            covered -= columns[_leave(chosen, columns, weight * (covered == 1), since, -1)]
        leaving = _leave(chosen, columns, weight * (covered == 1), since, entered)
        covered -= columns[leaving]
        open_rows = np.flatnonzero(covered == 0)
        able = np.flatnonzero(matrix[open_rows[rng.integers(len(open_rows))]])
        if len(able) > 1:
            able = able[able != leaving]
        gain = weight[open_rows] @ rows[np.ix_(open_rows, able)]
        entered = int(able[np.lexsort((since[able], -gain))[0]])
        chosen.append(entered)
        covered += columns[entered]
        since[[leaving, entered]] = step
        weight[covered == 0] += 1
    return best, steps


def _leave(
    chosen: list[int], columns: np.ndarray, weight: np.ndarray, since: np.ndarray, stays: int
) -> int:
    """Take out the column whose rows, covered by it alone, weigh least."""
    loss = columns[chosen] @ weight
    if len(chosen) > 1 and stays in chosen:
        loss[chosen.index(stays)] = np.inf
    return chosen.pop(int(np.lexsort((since[chosen], loss))[0]))


def hardest(matrix: np.ndarray) -> np.ndarray:
    """Indices of the rows that are left once those implied by others are dropped."""
    _, rows = np.unique(np.packbits(matrix, axis=1), axis=0, return_index=True)
    rows = np.sort(rows)
    own = matrix[rows].astype(np.float32)
    size = own.sum(axis=1)
    # a row whose columns contain another's is covered whenever that one is
    implied = (own @ own.T == size[None, :]) & (size[None, :] < size[:, None])
    return rows[~implied.any(axis=1)]


def at_least(matrix: np.ndarray) -> int:
    """A lower bound on the size of any cover: the linear relaxation, rounded up."""
    from scipy.optimize import linprog
    from scipy.sparse import csr_array

    found = linprog(
        np.ones(matrix.shape[1]),
        A_ub=-csr_array(matrix.astype(float)),
        b_ub=-np.ones(len(matrix)),
        bounds=(0, 1),
        method="highs-ipm",
    )
    return _rounded_up(found.fun) if found.status == 0 else 1


def prove(matrix: np.ndarray, size: int | None, nodes: int) -> tuple[np.ndarray | None, int]:
    """Look for a cover with fewer than `size` columns by branch and bound.

    Args:
        size: None looks for the smallest cover of all.
        nodes: after so many it gives up. A limit on nodes, unlike one on time, repeats.

    Returns:
        A smaller cover, if one was found, and a lower bound: `size` when there is none.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    count = matrix.shape[1]
    constraints = [LinearConstraint(csr_array(matrix.astype(float)), lb=1)]
    if size is not None:
        constraints.append(LinearConstraint(np.ones((1, count)), ub=size - 1))
    found = milp(
        np.ones(count),
        integrality=np.ones(count),
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"node_limit": nodes},
    )
    if size is not None and found.status == 2:  # infeasible
        return None, size
    smaller = None if found.x is None else np.flatnonzero(found.x > 0.5)
    bound = found.mip_dual_bound
    return smaller, _rounded_up(bound) if bound is not None and np.isfinite(bound) else 1


def _rounded_up(bound: float) -> int:
    return max(1, int(np.ceil(bound - 1e-6)))
