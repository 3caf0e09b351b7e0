"""Stage `subspaces`: clusters of users of like taste, and the directions of everyone's edits.

    python -m palette.subspaces

`gradient` writes one direction for each trait, which serve every user by the estimated weights. The
other methods write directions of groups: everyone seen, each cluster's seen users, or each user.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl
import torch
from torch import Tensor

from palette import edits, readings, stage, tables
from palette.core import directions as search
from palette.core import grouping, natural, pooled
from palette.core.grouping import EVERYONE, Clusters
from palette.core.pooled import Sides
from palette.core.tuning import LAYER_SETS, layer_set
from palette.params import Params, Subspaces
from palette.readings import INSIGHT, PUBLISHED, SIDES, Reading, Rollouts

OWN = "user:"
"""Before a user's name in that of the user's group: no user is taken for a cluster."""

Pool = Callable[[Sequence[str], Sequence[str]], Sides]
"""of these users' texts, these two sides"""


@dataclass(frozen=True)
class Crowd:
    """The users, and what is known of them, in the order of user_id."""

    users: list[str]
    seen: np.ndarray
    """(users,) bool"""
    rows: np.ndarray
    """(users,) rows of history"""
    weights: np.ndarray
    """(users, traits) estimated"""
    read: Mapping[str, Reading]
    """user → reading; users without history have none"""


@dataclass(frozen=True)
class Found:
    """The tensors to write, and what is to be said of them."""

    tensors: dict[str, Tensor]
    groups: list[str]
    """those that have directions, in the order of the tensors"""
    layers: dict[str, list[int]]
    """group → layers that its probe chooses"""
    loss: dict[str, list[float]]
    """group → loss of each layer's probe"""


def main(params: Params) -> None:
    crowd, rollouts = gather(params), readings.read_rollouts(params)
    clusters, placed = cluster(params.subspaces, crowd)
    found = find(params, crowd, rollouts, placed)
    write(params, clusters, placed, found)


def gather(params: Params) -> Crowd:
    """Seen and unseen users, with what preferences and the base made of them."""
    users = tables.read("users").sort("user_id")
    weights = tables.read("weights").pivot("trait", index="user_id", values="weight")
    weights = users.select("user_id").join(weights, on="user_id", maintain_order="left")
    return Crowd(
        users["user_id"].to_list(),
        (users["cohort"] == "seen").to_numpy(),
        users["rows"].to_numpy(),
        weights.select(params.trait_names).to_numpy(),
        readings.read_users(params),
    )


def cluster(settings: Subspaces, crowd: Crowd) -> tuple[Clusters, dict[str, str]]:
    """Clusters of the seen users with history, and the cluster of every user."""
    told = {user: own[INSIGHT].numpy() for user, own in crowd.read.items() if INSIGHT in own}
    unknown = np.full(len(next(iter(told.values()), ())), np.nan)
    embeddings = np.array([told.get(user, unknown) for user in crowd.users], float)
    teach = crowd.seen & (crowd.rows > 0)
    space = grouping.learn_space(crowd.weights[teach], embeddings[teach])
    points = space(crowd.weights, embeddings)
    clusters = grouping.find(points[teach], settings.max_clusters, settings.seed)
    return clusters, dict(zip(crowd.users, clusters.nearest(points), strict=True))


def find(params: Params, crowd: Crowd, rollouts: Rollouts, placed: Mapping[str, str]) -> Found:
    """Everyone's published directions, the mean, and what subspaces.method finds.

    Args:
        placed: user → cluster.
    """
    settings, pool = params.subspaces, partial(_pool, crowd, like=rollouts.mean)
    groups = pools(settings, crowd, placed)
    probe = settings.restarts, settings.epochs, settings.seed
    published = pooled.projections({EVERYONE: pool(groups[EVERYONE], PUBLISHED)}, 1, *probe)
    tensors = {
        "mean": rollouts.mean,
        "published.personal": published.personal[0], "published.neutral": published.neutral[0],
    }  # fmt: skip
    said, names = published, []
    match settings.method:
        case "gradient":
            tensors |= trait_steps(settings, rollouts, params.objective.beta)
        case "chameleon":
            sides = to_project(settings, crowd, groups, pool)
            said = pooled.projections(sides, settings.rank, *probe)
            names = said.groups
            tensors |= {"personal": said.personal, "neutral": said.neutral}
        case _:
            shifts = shifted(settings, crowd, groups, placed, pool)
            names, tensors["shift"] = list(shifts), torch.stack(list(shifts.values()))
    loss = [[round(value, 6) for value in own] for own in said.loss.tolist()]
    return Found(tensors, names, said.layers, dict(zip(said.groups, loss, strict=True)))


def pools(settings: Subspaces, crowd: Crowd, placed: Mapping[str, str]) -> dict[str, list[str]]:
    """Group → its seen users: everyone, and the clusters where more than one group is asked for."""
    seen = [user for user, counts in zip(crowd.users, crowd.seen, strict=True) if counts]
    groups = {EVERYONE: seen}
    if settings.groups != EVERYONE:
        for name in sorted(set(placed.values())):
            groups[name] = [user for user in seen if placed[user] == name]
    return groups


def trait_steps(settings: Subspaces, rollouts: Rollouts, beta: float) -> dict[str, Tensor]:
    """`traits.SET` → (traits, layers, hidden) float32: each trait's natural step on those layers.

    A step on some of the layers is no part of the step on all, whose layers count on each other.
    """
    gradients = natural.trait_gradients(rollouts.scores, rollouts.rewards, rollouts.prompt)
    found = {}
    for name in LAYER_SETS:
        layers = layer_set(name, gradients.shape[1])
        bend = natural.curvature(rollouts.scores[:, layers])
        steps = torch.zeros_like(gradients)
        steps[:, layers] = natural.natural_steps(gradients[:, layers], bend, settings.damping, beta)
        found[f"traits.{name}"] = steps.float()
    return found


def to_project(
    settings: Subspaces, crowd: Crowd, groups: Mapping[str, list[str]], pool: Pool
) -> dict[str, Sides]:
    """Group → pairs of those who have any: everyone, clusters, users with enough history.

    Directions without a sign have no average: who has less has the cluster's, not a mixture.
    """
    sides = {name: pool(users, PUBLISHED) for name, users in groups.items()}
    if settings.groups == "users":
        for user, rows in zip(crowd.users, crowd.rows.tolist(), strict=True):
            if rows >= settings.shrinkage:
                sides[OWN + user] = pool([user], PUBLISHED)
    return {name: own for name, own in sides.items() if own[0].shape[1] or name == EVERYONE}


def shifted(
    settings: Subspaces,
    crowd: Crowd,
    groups: Mapping[str, list[str]],
    placed: Mapping[str, str],
    pool: Pool,
) -> dict[str, Tensor]:
    """Group → shift (layers, hidden): everyone's, clusters', and those of users who have texts."""
    ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "contrast": search.contrast, "style-vector": search.style_vector,
        "contrast-svd": partial(search.contrast_svd, rank=settings.rank),
    }  # fmt: skip
    alone = {}
    if settings.groups == "users":
        for user, rows in zip(crowd.users, crowd.rows.tolist(), strict=True):
            own = pool([user], SIDES)
            if own[0].shape[1]:
                alone[OWN + user] = own, placed[user], rows
    sides = {name: pool(users, SIDES) for name, users in groups.items()}
    return pooled.shifts(sides, ways[settings.method], alone, settings.shrinkage)


def whose(settings: Subspaces, user: str, cluster: str, groups: Collection[str]) -> str:
    """The group whose directions serve a user; `groups` are those that have any.

    By the gradient every group has directions: that of its weights.
    """
    everyones = settings.method == "gradient"
    if settings.groups == "users" and (everyones or OWN + user in groups):
        return OWN + user
    if settings.groups != EVERYONE and (everyones or cluster in groups):
        return cluster
    return EVERYONE


def write(params: Params, clusters: Clusters, placed: Mapping[str, str], found: Found) -> None:
    """Write groups.parquet, layers.json and directions.safetensors."""
    from safetensors.torch import save

    settings, having = params.subspaces, frozenset(found.groups)
    rows = [(user, own, whose(settings, user, own, having)) for user, own in placed.items()]
    tables.write("groups", pl.DataFrame(rows, tables.empty("groups").schema, orient="row"))
    centres = [[round(value, 6) for value in centre] for centre in clusters.centres.tolist()]
    tables.write_json(edits.INDEX, {
        "method": settings.method,
        "shared": settings.groups,
        "traits": params.trait_names,
        "groups": found.groups,
        "layers": found.layers,
        "ccs_loss": found.loss,
        "clusters": dict(zip(clusters.names, centres, strict=True)),
        "silhouettes": {str(k): round(v, 6) for k, v in clusters.silhouettes.items()},
        "chosen": len(clusters.names),
    })  # fmt: skip
    content = save({name: tensor.contiguous() for name, tensor in found.tensors.items()})
    temporary = edits.DIRECTIONS.with_suffix(".tmp")
    temporary.write_bytes(content)
    temporary.replace(edits.DIRECTIONS)


def _pool(crowd: Crowd, users: Sequence[str], sides: Sequence[str], like: Tensor) -> Sides:
    """Both sides (layers, texts, hidden) of all these users' texts; `like` is (layers, hidden)."""
    none = like.new_zeros(len(like), 0, like.shape[-1])
    first, second = (
        torch.cat([none, *(crowd.read.get(user, {}).get(side, none) for user in users)], 1)
        for side in sides
    )
    return first, second


if __name__ == "__main__":
    stage.run(main)
