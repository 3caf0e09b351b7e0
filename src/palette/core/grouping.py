"""Clusters of users of like taste, found from what is known of them.

A user is a point: the estimated weights, and beside them the leading principal components of the
personal insights' embeddings. The components are scaled, all by one factor, so that their total
variance is INSIGHT times that of the weights: they can tell apart users whose weights agree, and
never outvote the weights, for which edits are made. K-means (Lloyd 1982) finds the clusters; the
number is the one of the highest mean silhouette (Rousseeuw 1987), or one where nothing separates.

Only seen users with history make clusters. Everyone else goes to the nearest centre by what is
known of them, which moves no centre: one more unseen user changes nobody.
"""

from dataclasses import dataclass

import numpy as np

EVERYONE = "everyone"
"""The group of all users."""
INSIGHT = 0.25
"""Variance of the insights' coordinates, in units of that of the weights."""
SEPARATED = 0.25
"""Mean silhouettes below this show no structure (Kaufman and Rousseeuw 1990, table 4)."""
FEWEST = 4
"""Users below which there is nothing to cluster."""
STARTS = 10
JUDGED = 4096
"""Users of whom silhouettes are taken at most: it compares all of them with all."""


@dataclass(frozen=True, eq=False)
class Space:
    """Coordinates in which users of like taste are near each other."""

    middle: np.ndarray
    """(hidden,) mean embedding"""
    axes: np.ndarray
    """(components, hidden) principal components, scaled"""

    def __call__(self, weights: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
        """(users, traits + components); NaN where a user's insight is unknown.

        Args:
            weights: (users, traits).
            embeddings: (users, hidden), rows of NaN where there is no insight.
        """
        return np.concatenate([weights, (embeddings - self.middle) @ self.axes.T], axis=1)


@dataclass(frozen=True, eq=False)
class Clusters:
    """Centres of clusters, the largest first."""

    names: tuple[str, ...]
    """c0, c1, ..."""
    centres: np.ndarray
    """(clusters, coordinates)"""
    silhouettes: dict[int, float]
    """number of clusters tried → mean silhouette, from -1 to 1"""

    def nearest(self, points: np.ndarray) -> list[str]:
        """The cluster of every user, by the coordinates that are known.

        Args:
            points: (users, coordinates); NaN is unknown. A user's distances all span the same
                coordinates, so that no rescaling for the unknown ones would change the nearest.
        """
        apart = np.nan_to_num(points[:, None] - self.centres) ** 2  # (users, clusters, coordinates)
        return [self.names[place] for place in apart.sum(2).argmin(1)]


def learn_space(weights: np.ndarray, embeddings: np.ndarray) -> Space:
    """The space of some users; as many components as traits, or fewer where fewer vary.

    Args:
        weights: (users, traits).
        embeddings: (users, hidden), rows of NaN where there is no insight.
    """
    known = embeddings[~np.isnan(embeddings).any(1)]
    hidden = embeddings.shape[1]
    if len(known) < 2:
        return Space(np.zeros(hidden), np.zeros((0, hidden)))
    middle = known.mean(0)
    _, scales, right = np.linalg.svd(known - middle, full_matrices=False)
    count = min(weights.shape[1], int((scales > 1e-6 * np.abs(known).max()).sum()))
    if not count:
        return Space(middle, np.zeros((0, hidden)))
    axes = right[:count]
    axes = axes * np.sign(axes[np.arange(count), np.abs(axes).argmax(1)])[:, None]
    variance = (scales[:count] ** 2).sum() / len(known)
    return Space(middle, axes * np.sqrt(INSIGHT * weights.var(0).sum() / variance))


def find(points: np.ndarray, most: int, seed: int) -> Clusters:
    """Clusters of users, their number chosen from 1 to `most`.

    Args:
        points: (users, coordinates); NaN, which counts as the mean of its coordinate, is unknown.
        most: at least 2.
        seed: of the starts of k-means.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    known = ~np.isnan(points)
    counts = np.maximum(known.sum(0), 1)
    middle = np.where(known, points, 0.0).sum(0) / counts
    filled = np.where(known, points, middle)
    # No more clusters than places; and silhouettes need a cluster of more than one user.
    places = len(np.unique(filled.round(9), axis=0))
    numbers = range(2, min(most, places, len(points) - 1) + 1) if len(points) >= FEWEST else ()
    centres, silhouettes = {1: middle[None]}, {}
    for number in numbers:
        found = KMeans(number, n_init=STARTS, random_state=seed).fit(filled)
        judged = JUDGED if len(filled) > JUDGED else None
        silhouettes[number] = float(
            silhouette_score(filled, found.labels_, sample_size=judged, random_state=seed)
        )
        size = np.bincount(found.labels_, minlength=number)
        keys = [(-size[place], *found.cluster_centers_[place].round(6)) for place in range(number)]
        order = sorted(range(number), key=keys.__getitem__)
        centres[number] = found.cluster_centers_[order]
    best = max(silhouettes, key=silhouettes.__getitem__, default=1)
    chosen = centres[best if silhouettes.get(best, -1.0) >= SEPARATED else 1]
    return Clusters(tuple(f"c{place}" for place in range(len(chosen))), chosen, silhouettes)
