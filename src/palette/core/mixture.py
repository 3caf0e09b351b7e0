"""f* from the base's rollouts and a member's answers together, by balance-heuristic weights.

Where a member is routed it should be near π*_w: its answers show the good modes that the base's
rollouts may have missed, and the base's rollouts keep every weight bounded where it is not.
"""

from math import gcd

import numpy as np

from palette.core.ideal import Ideal

WEIGHTLESS = -1e300  # log weight of a sample that is there, though the base never gives it


def mixture(
    rewards: tuple[np.ndarray, np.ndarray],
    base: tuple[np.ndarray, np.ndarray],
    member: tuple[np.ndarray, np.ndarray],
    beta: float,
) -> Ideal:
    """Samples of q = (n0·π_ref + n1·π_k)/(n0 + n1), drawn as n0 rollouts and n1 answers a prompt.

    Each sample weighs π_ref/q, at most (n0 + n1)/n0, so E of the mean of `exp(w·r/β)·π_ref/q` is Z
    exactly, however poor the member is (Veach and Guibas 1995, the balance heuristic of multiple
    importance sampling). The draw is stratified, so it is cut into g = gcd(n0, n1) blocks of n0/g
    rollouts and n1/g answers (sample index mod g): blocks are independent and alike, as `upward`
    needs.

    Args:
        rewards: (prompts, n0, d) of the rollouts and (prompts, n1, d) of the answers.
        base: their log-probabilities under the base, (prompts, n0) and (prompts, n1), nats.
        member: their log-probabilities under the member, likewise.
        beta: price of one nat of KL.

    Raises:
        ValueError: gcd(n0, n1) is 1, so that there are no two blocks to compare.
    """
    n0, n1 = base[0].shape[1], base[1].shape[1]
    runs = gcd(n0, n1)
    if runs < 2:
        raise ValueError(f"{n0} rollouts and {n1} answers a prompt do not fall into like blocks")
    order = np.argsort(np.concatenate([np.arange(n0) % runs, np.arange(n1) % runs]), kind="stable")
    log_weights = np.concatenate([
        _log_weights(base[0], member[0], n0, n1, without=-np.inf),
        _log_weights(base[1], member[1], n0, n1, without=np.inf),
    ], axis=1)  # fmt: skip
    together = np.concatenate(rewards, axis=1)
    blocks = np.full(len(together), runs)
    return Ideal(together[:, order], beta, log_weights[:, order], blocks)


def _log_weights(
    base: np.ndarray, member: np.ndarray, n0: int, n1: int, without: float
) -> np.ndarray:
    """log(π_ref/q); `without`: the log-ratio of member to base where both are no numbers.

    A rollout was drawn from the base, so its likelihood there is not nothing, whatever the
    arithmetic says; an answer that the base never gives weighs nothing.
    """
    with np.errstate(invalid="ignore"):
        ratio = np.where(np.isfinite(base), member - base, without)
    log_weights = np.log(n0 + n1) - np.logaddexp(np.log(n0), np.log(n1) + ratio)
    return np.maximum(log_weights, WEIGHTLESS)
