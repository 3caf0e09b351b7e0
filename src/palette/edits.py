"""The book of edits: whose directions serve a user, and the edit that each method makes of them.

Stage `subspaces` writes what the book is read from. An edit has unit strength and all the layers
that its directions have; which strength and layers are used is tuned later. Equal arguments give
the same object, so that rows that share an edit share one entry of a batch's table.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl
import torch
from torch import Tensor

from palette import tables
from palette.core import directions as search
from palette.core.editing import Edit
from palette.core.grouping import EVERYONE
from palette.core.tuning import layer_set
from palette.errors import PaletteError
from palette.params import Params

FOLDER = tables.DATA / "subspaces"
DIRECTIONS, INDEX = FOLDER / "directions.safetensors", FOLDER / "layers.json"
SIDES = ("personal", "neutral")
PUBLISHED = ("chameleon", "chameleon_tuned")
METHODS = ("edit", "edit_random", "edit_mean", *PUBLISHED)


@dataclass(frozen=True, eq=False)
class Book:
    """Who has which directions, and the edits made of them so far."""

    method: str
    """subspaces.method"""
    seed: int
    """of the random controls"""
    traits: Sequence[str]
    users: Mapping[str, tuple[str, str]]
    """user → cluster, and the group whose directions serve the user"""
    clusters: Mapping[str, list[str]]
    """cluster → its seen users, sorted"""
    weights: Mapping[str, Tensor]
    """group → (traits,) mean of its seen users' estimated weights; a user's own"""
    groups: Sequence[str]
    """the groups that have directions of their own, in the order of the tensors"""
    layers: Mapping[str, list[int]]
    """group → the layers that a CCS probe chose"""
    tensors: Mapping[str, Tensor]
    """directions.safetensors"""
    _made: dict[tuple, Edit] = field(default_factory=dict, repr=False)

    @property
    def depth(self) -> int:
        """The layers of the base."""
        return len(self.tensors["mean"])

    def cluster(self, user: str) -> str:
        """The cluster for which the user's edits are tuned."""
        return self._placed(user)[0]

    def group(self, user: str) -> str:
        """The group whose directions serve the user."""
        return self._placed(user)[1]

    def edit(
        self,
        user: str,
        method: str = "edit",
        reference: Mapping[str, float] | None = None,
        layers: str = "all",
    ) -> Edit:
        """The user's edit, of unit strength.

        Args:
            method: `edit`, as subspaces.method says; `edit_random` and `edit_mean`, its controls
                of equal norm in random directions and along the base's mean activation; `chameleon`
                and `chameleon_tuned`, the published rule with everyone's directions on the layers
                of its probe, or on all.
            reference: trait → weight of the member that it acts on, which has gone that way
                already; None: the base. Directions that no weights lead to know no reference.
            layers: the set of layers that it acts on, a name of core.tuning.
        """
        group = self.group(user)
        if method in PUBLISHED:
            group = EVERYONE
        if self.method != "gradient" or method in PUBLISHED:
            reference = None
        member = None if reference is None else tuple(reference[name] for name in self.traits)
        made_of = method, group, member, layers
        if made_of not in self._made:
            self._made[made_of] = self._make(user, method, group, reference, layers)
        return self._made[made_of]

    def _make(
        self,
        user: str,
        method: str,
        group: str,
        reference: Mapping[str, float] | None,
        layers: str,
    ) -> Edit:
        some = layer_set(layers, self.depth)
        if method in PUBLISHED:
            chosen = self.layers[EVERYONE] if method == "chameleon" else None
            personal, neutral = (self.tensors[f"published.{side}"] for side in SIDES)
            return search.published(personal, neutral, chosen).on(some)
        if method == "edit_random":
            drawn = hashlib.sha256(repr((self.seed, group)).encode()).digest()[:7]
            like = self.edit(user, "edit", reference, layers)
            return search.random_like(like, int.from_bytes(drawn, "big"))
        if method == "edit_mean":
            return search.along(self.tensors["mean"], self.edit(user, "edit", reference, layers))
        if method != "edit":
            raise ValueError(f"no method '{method}' among {', '.join(METHODS)}")
        if self.method == "gradient":
            weights = self.weights[group]
            if reference is not None:
                weights = weights - weights.new_tensor([reference[name] for name in self.traits])
            steps = self.tensors[f"traits.{layers}"].double()
            return Edit.add(torch.einsum("t,tlh->lh", weights, steps))
        place = self.groups.index(group)
        if self.method == "chameleon":
            personal, neutral = (self.tensors[side][place] for side in SIDES)
            return search.published(personal, neutral, self.layers[group]).on(some)
        return Edit.add(self.tensors["shift"][place]).on(some)

    def _placed(self, user: str) -> tuple[str, str]:
        if user not in self.users:
            raise PaletteError(f"there is no user '{user}': {tables.path('groups')} lists them")
        return self.users[user]


def read(params: Params) -> Book:
    """The book of what stage `subspaces` wrote.

    Raises:
        PaletteError: it wrote nothing, or for other params.
    """
    from safetensors.torch import load_file

    index, settings = tables.read_json(INDEX), params.subspaces
    if not DIRECTIONS.exists():
        raise PaletteError(f"{DIRECTIONS} does not exist; run `dvc repro` to make it")
    for key, asked in (
        ("method", settings.method), ("shared", settings.groups), ("traits", params.trait_names)
    ):  # fmt: skip
        if index.get(key) != asked:
            raise PaletteError(
                f"{INDEX} has '{index.get(key)}' as its {key}, params.yaml asks for '{asked}'; "
                "run `dvc repro subspaces`"
            )
    placed = tables.read("groups").sort("user_id")
    seen = tables.read("users").filter(cohort="seen")["user_id"]
    return Book(
        method=settings.method,
        seed=settings.seed,
        traits=params.trait_names,
        users={user: (cluster, group) for user, cluster, group in placed.iter_rows()},
        clusters={
            cluster: placed.filter(pl.col("user_id").is_in(seen.implode()), cluster=cluster)[
                "user_id"
            ].to_list()
            for cluster in index["clusters"]
        },
        weights=_mean_weights(placed, seen, params.trait_names),
        groups=index["groups"],
        layers=index["layers"],
        tensors=load_file(DIRECTIONS),
    )


def _mean_weights(placed: pl.DataFrame, seen: pl.Series, traits: list[str]) -> dict[str, Tensor]:
    """Group → mean weights of its seen users, float64; of its others where none is seen."""
    rows = (
        tables.read("weights")
        .pivot("trait", index="user_id", values="weight")
        .join(placed, on="user_id")
        .with_columns(seen=pl.col("user_id").is_in(seen.implode()))
        .sort("user_id")
    )
    means = {}
    for (group,), own in rows.group_by("group", maintain_order=True):
        counted = own.filter("seen") if own["seen"].any() else own
        means[group] = torch.from_numpy(counted.select(traits).to_numpy().astype(float).mean(0))
    return means
