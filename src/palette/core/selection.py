"""Which rows of a long history to show the model: CHAMELEON's selection by principal components."""

import numpy as np


def select_history(embeddings: np.ndarray, keep: int) -> np.ndarray:
    """The rows of a history that say most about how it varies.

    The user's matrix is centred and projected onto its first `keep` principal components; the
    `keep` rows with the largest norm in that space stay (CHAMELEON, arXiv 2503.01048, section 3.1:
    one number for components and rows).

    Args:
        embeddings: (rows, hidden) one embedding per row of one user's history.
        keep: how many rows to keep, at least 1.

    Returns:
        (min(keep, rows),) indices in ascending order; earlier rows win ties.
    """
    if keep < 1:
        raise ValueError(f"keep is {keep}, but at least one row must stay")
    if len(embeddings) <= keep:
        return np.arange(len(embeddings))
    centred = np.asarray(embeddings, np.float64) - np.mean(embeddings, axis=0, dtype=np.float64)
    left, scales, _ = np.linalg.svd(centred, full_matrices=False)
    norms = np.linalg.norm(left[:, :keep] * scales[:keep], axis=1)
    # Rounded, so that rows which tie still do after the decomposition's own rounding.
    ranked = np.argsort(-(norms / max(norms.max(), 1e-300)).round(9), kind="stable")
    return np.sort(ranked[:keep])


def select_largest(scores: np.ndarray, keep: int) -> np.ndarray:
    """The places of the `keep` largest scores.

    Args:
        scores: (rows,) in any unit; two that agree to six decimals tie.

    Returns:
        (min(keep, rows),) indices in ascending order; earlier rows win ties.
    """
    # Unrounded, noise of the last bits would decide between two that are the same.
    ranked = np.argsort(-np.round(np.asarray(scores, np.float64), 6), kind="stable")
    return np.sort(ranked[:keep])
