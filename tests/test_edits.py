"""The book of edits: weights make shifts, controls have their norms, one object for one edit."""

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from palette import edits, tables
from palette.core.grouping import EVERYONE
from palette.core.tuning import LAYER_SETS
from palette.errors import PaletteError
from palette.params import Params

TRAITS = ["brevity", "humor"]
LAYERS, HIDDEN = 3, 8
WEIGHTS = {"ann": (0.7, 0.3), "bob": (0.5, 0.5), "cid": (0.1, 0.9), "dot": (0.4, 0.6)}
CLUSTER = {"ann": "c0", "bob": "c0", "cid": "c1", "dot": "c0"}
SEEN = ("ann", "bob", "cid")
GROUPS = {
    "everyone": dict.fromkeys(WEIGHTS, EVERYONE),
    "clusters": CLUSTER,
    "users": {user: f"user:{user}" for user in WEIGHTS},
}


def params(method: str, groups: str = "users", seed: int = 0) -> Params:
    return Params.model_validate({
        "traits": {trait: {"kind": trait} for trait in TRAITS},
        "subspaces": {"method": method, "groups": groups, "seed": seed},
    })  # fmt: skip


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write what stage subspaces would have left, and read the book of it."""
    monkeypatch.chdir(tmp_path)

    def written(method: str, groups: str = "users", seed: int = 0) -> edits.Book:
        placed = GROUPS[groups]
        names = sorted({EVERYONE, *CLUSTER.values(), *placed.values()})
        tensors = {
            "published.personal": drawn(LAYERS, 1, HIDDEN, seed=1),
            "published.neutral": drawn(LAYERS, 1, HIDDEN, seed=2),
            "mean": drawn(LAYERS, HIDDEN, seed=3),
        }
        if method == "gradient":
            for number, name in enumerate(LAYER_SETS, 8):
                tensors[f"traits.{name}"] = drawn(len(TRAITS), LAYERS, HIDDEN, seed=number)
        elif method == "chameleon":
            tensors["personal"] = drawn(len(names), LAYERS, 2, HIDDEN, seed=5)
            tensors["neutral"] = drawn(len(names), LAYERS, 1, HIDDEN, seed=6)
        else:
            tensors["shift"] = drawn(len(names), LAYERS, HIDDEN, seed=7)
        layers = {name: [0, 1] for name in names} | {EVERYONE: [1]}
        tables.write_json(edits.INDEX, {
            "method": method, "shared": groups, "traits": TRAITS,
            "groups": [] if method == "gradient" else names, "layers": layers,
            "clusters": {"c0": [], "c1": [], "c2": []},
        })  # fmt: skip
        save_file(tensors, edits.DIRECTIONS)
        rows = [(user, CLUSTER[user], placed[user]) for user in reversed(WEIGHTS)]
        schema = tables.empty("groups").schema
        tables.write("groups", pl.DataFrame(rows, schema, orient="row"))
        rows = [(u, "seen" if u in SEEN else "unseen", 3, True) for u in WEIGHTS]
        schema = tables.empty("users").schema
        tables.write("users", pl.DataFrame(rows, schema, orient="row"))
        rows = [
            (user, trait, weight, 0.0, 1.0, 1.0)
            for user, own in WEIGHTS.items()
            for trait, weight in zip(TRAITS, own, strict=True)
        ]
        schema = tables.empty("weights").schema
        tables.write("weights", pl.DataFrame(rows, schema, orient="row"))
        return edits.read(params(method, groups, seed))

    return written


def led(book: edits.Book, *weights: float) -> torch.Tensor:
    """The shift (layers, hidden) to which weights lead."""
    return sum(w * step for w, step in zip(weights, book.tensors["traits.all"], strict=True))


def test_the_book_knows_clusters_groups_and_depth(write):
    book = write("gradient")
    assert book.depth == LAYERS
    assert book.clusters == {"c0": ["ann", "bob"], "c1": ["cid"], "c2": []}
    assert (book.cluster("dot"), book.group("dot")) == ("c0", "user:dot")


def test_a_users_weights_lead_to_the_users_shift(write):
    book = write("gradient")
    for user, weights in WEIGHTS.items():
        assert_close(book.edit(user).shift, led(book, *weights))
    assert book.edit("ann").reads.shape[1] == 0


@pytest.mark.parametrize("groups", ["everyone", "clusters"])
def test_a_groups_shift_is_that_of_its_seen_users_mean(write, groups):
    book = write("gradient", groups)
    own = {
        user: [WEIGHTS[u] for u in SEEN if GROUPS[groups][u] == GROUPS[groups][user]]
        for user in WEIGHTS
    }
    for user, weights in own.items():
        assert_close(book.edit(user).shift, led(book, *np.mean(weights, axis=0)))


def test_on_a_member_only_the_way_that_is_left_is_gone(write):
    book = write("gradient")
    own = dict(zip(TRAITS, WEIGHTS["ann"], strict=True))
    assert book.edit("ann", reference=own).shift.abs().max() < 1e-6
    other = {"humor": 0.9, "brevity": 0.1}
    assert_close(book.edit("ann", reference=other).shift, led(book, 0.6, -0.6))
    assert book.edit("ann", reference=other) is book.edit(
        "ann", reference=dict(reversed(other.items()))
    )
    random = book.edit("ann", "edit_random", other)
    assert_close(random.shift.norm(dim=1), book.edit("ann", "edit", other).shift.norm(dim=1))


def test_directions_that_no_weights_lead_to_know_no_reference(write):
    book = write("contrast")
    assert book.edit("ann", reference={"brevity": 1.0, "humor": 0.0}) is book.edit("ann")


@pytest.mark.parametrize("method", ["gradient", "contrast", "chameleon"])
def test_equal_arguments_and_users_of_one_group_give_one_object(write, method):
    book = write(method, "clusters")
    for kind in edits.METHODS:
        assert book.edit("ann", kind) is book.edit("ann", kind)
        assert book.edit("ann", kind) is book.edit("bob", kind)
        apart = kind not in edits.PUBLISHED
        assert (book.edit("ann", kind) is not book.edit("cid", kind)) == apart
    assert len({id(book.edit("ann", kind)) for kind in edits.METHODS}) == len(edits.METHODS)


@pytest.mark.parametrize("method", ["contrast", "contrast-svd", "style-vector"])
def test_a_groups_shift_is_the_one_that_the_stage_wrote(write, method):
    book = write(method)
    for user in WEIGHTS:
        place = book.groups.index(f"user:{user}")
        assert torch.equal(book.edit(user).shift, book.tensors["shift"][place])


def test_controls_have_the_norm_of_the_edit_in_every_layer(write):
    book = write("gradient")
    for user in WEIGHTS:
        norm = book.edit(user).shift.norm(dim=1)
        for control in ("edit_random", "edit_mean"):
            assert_close(book.edit(user, control).shift.norm(dim=1), norm)
        mean = torch.nn.functional.cosine_similarity(
            book.edit(user, "edit_mean").shift, book.tensors["mean"]
        )
        assert_close(mean, torch.ones(LAYERS))


def test_random_controls_are_drawn_by_the_seed_and_the_groups_name(write):
    def directions(book: edits.Book, user: str) -> torch.Tensor:
        return torch.nn.functional.normalize(book.edit(user, "edit_random").shift, dim=1)

    first = write("gradient")
    drawn_first = {user: directions(first, user) for user in WEIGHTS}
    assert (drawn_first["ann"] * drawn_first["bob"]).sum(1).abs().max() < 0.99
    again = write("gradient")
    assert torch.equal(directions(again, "dot"), drawn_first["dot"])  # whoever was drawn before
    other = write("gradient", seed=1)
    assert (directions(other, "ann") * drawn_first["ann"]).sum(1).abs().max() < 0.99


def test_projecting_edits_have_projecting_controls(write):
    book = write("chameleon")
    x = drawn(LAYERS, 4, HIDDEN, seed=9)
    edit, random, mean = (book.edit("ann", kind) for kind in ("edit", "edit_random", "edit_mean"))
    assert edit.layers == random.layers == mean.layers == [0, 1]
    assert_close(random.writes.norm(dim=(1, 2)), edit.writes.norm(dim=(1, 2)))
    unit = torch.nn.functional.normalize(book.tensors["mean"], dim=1)[:, None]
    expected = x + (x * unit).sum(-1, keepdim=True) * unit
    assert_close(mean(x)[:2], expected[:2], atol=1e-5, rtol=1e-5)
    assert_close(mean(x)[2:], x[2:])


@pytest.mark.parametrize("method", ["gradient", "contrast", "chameleon"])
def test_the_published_rule_is_everyones_on_the_layers_of_its_probe(write, method):
    book = write(method)
    published, tuned = book.edit("cid", "chameleon"), book.edit("cid", "chameleon_tuned")
    assert published.layers == [1]
    assert tuned.layers == [0, 1, 2]
    x = drawn(LAYERS, 4, HIDDEN, seed=8)
    assert_close(tuned.on([1])(x), published(x))
    for side, sign in (("personal", 1.0), ("neutral", -1.0)):
        theta = torch.nn.functional.normalize(book.tensors[f"published.{side}"], dim=-1)
        x = x + sign * (x * theta).sum(-1, keepdim=True) * theta
    assert_close(tuned(drawn(LAYERS, 4, HIDDEN, seed=8)), x, atol=1e-5, rtol=1e-5)


def test_artifacts_that_are_missing_or_of_other_params_are_said_in_one_sentence(write):
    write("gradient")
    for other in (params("contrast"), params("gradient", "clusters")):
        with pytest.raises(PaletteError, match=r"layers\.json has '.*'; run `dvc repro subspaces`"):
            edits.read(other)
    edits.DIRECTIONS.unlink()
    with pytest.raises(PaletteError, match=r"directions\.safetensors does not exist"):
        edits.read(params("gradient"))
    edits.INDEX.unlink()
    with pytest.raises(PaletteError, match=r"layers\.json does not exist"):
        edits.read(params("gradient"))


def test_what_nobody_knows_is_refused(write):
    book = write("gradient")
    with pytest.raises(PaletteError, match="there is no user 'zoe'"):
        book.edit("zoe")
    with pytest.raises(ValueError, match="no method 'magic'"):
        book.edit("ann", "magic")
