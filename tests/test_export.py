"""`palette export gguf`: the file as its reader sees it, what it does to a model, and what it refuses."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader
from tiny_models import FAMILIES, HIDDEN, LAYERS, save, tiny

from palette import edits as books
from palette import tables
from palette.commands.export import gguf
from palette.control_vectors import control_vector, require_plain_residual, write
from palette.core.editing import Edit, Edits, find_layers
from palette.errors import PaletteError

NORMALISING = ("gemma2", "gemma3_text")
PLAIN = [family for family in FAMILIES if family not in NORMALISING]
PARAMS = (Path(__file__).parents[1] / "params.yaml").read_text()
DIRECTIONS = 3 * torch.randn(LAYERS, HIDDEN, generator=torch.Generator().manual_seed(1))


def shift(*layers: int) -> Edit:
    return Edit.add(DIRECTIONS).on(layers)


def as_llama_cpp(lm, file: Path, ids: torch.Tensor) -> torch.Tensor:
    """Logits with each `direction.N` added after layer N at every position."""
    with ExitStack() as stack:
        for tensor in GGUFReader(file).tensors:
            added = torch.from_numpy(np.array(tensor.data))
            layer = find_layers(lm.model)[int(tensor.name.removeprefix("direction."))]
            handle = layer.register_forward_hook(
                lambda m, i, out, added=added: (
                    (out[0] + added, *out[1:]) if isinstance(out, tuple) else out + added
                )
            )
            stack.callback(handle.remove)
        return lm.model(input_ids=ids).logits


def as_ours(lm, edit: Edit, ids: torch.Tensor, first: int) -> torch.Tensor:
    edits = Edits([edit])
    edits.focus(torch.tensor([0]), torch.tensor([first]))
    with edits.attach(lm.model):
        return lm.model(input_ids=ids).logits


def test_the_file_has_the_keys_and_tensors_of_a_control_vector(tmp_path):
    file = tmp_path / "made" / "one.gguf"
    write(file, control_vector(shift(1, 2)), "llama")
    reader = GGUFReader(file)
    assert reader.fields["general.architecture"].contents() == "controlvector"
    assert reader.fields["controlvector.model_hint"].contents() == "llama"
    assert reader.fields["controlvector.layer_count"].contents() == 2
    assert [tensor.name for tensor in reader.tensors] == ["direction.1", "direction.2"]
    for layer, tensor in zip((1, 2), reader.tensors, strict=True):
        assert tensor.tensor_type == GGMLQuantizationType.F32
        assert np.array_equal(tensor.data, shift(1, 2).shift[layer].numpy())
    assert [path.name for path in file.parent.iterdir()] == ["one.gguf"]
    write(tmp_path / "two.gguf", control_vector(shift(1, 2)), "llama")
    assert (tmp_path / "two.gguf").read_bytes() == file.read_bytes()


@pytest.mark.parametrize("family", PLAIN)
def test_a_shift_of_the_last_layer_is_the_same_policy_there_as_here(family, tmp_path):
    lm, edit, ids = tiny(family), shift(LAYERS - 1), torch.tensor([[5, 6, 7, 8, 9, 10]])
    require_plain_residual(lm.model, [LAYERS - 1])
    write(tmp_path / "last.gguf", control_vector(edit), family)
    theirs, ours = as_llama_cpp(lm, tmp_path / "last.gguf", ids), as_ours(lm, edit, ids, 3)
    torch.testing.assert_close(ours[:, 3:], theirs[:, 3:], atol=1e-4, rtol=1e-4)
    assert (theirs - lm.model(input_ids=ids).logits).abs().max() > 1e-2


@pytest.mark.parametrize("family", PLAIN)
def test_a_shift_of_earlier_layers_is_the_same_where_all_positions_are_shifted(family, tmp_path):
    lm, edit, ids = tiny(family), shift(1, 2), torch.tensor([[5, 6, 7, 8, 9, 10]])
    require_plain_residual(lm.model, [1, 2])
    write(tmp_path / "upper.gguf", control_vector(edit), family)
    theirs = as_llama_cpp(lm, tmp_path / "upper.gguf", ids)
    torch.testing.assert_close(as_ours(lm, edit, ids, 0), theirs, atol=1e-4, rtol=1e-4)
    apart = as_ours(lm, edit, ids, 3)[:, 3:] - theirs[:, 3:]
    assert apart.abs().max() > 1e-4, "here the prompt is read unedited"


@pytest.mark.parametrize("family", NORMALISING)
def test_a_family_that_normalises_what_its_mlps_put_out_is_refused(family):
    with pytest.raises(PaletteError, match=rf"\({family}\) normalises or scales"):
        require_plain_residual(tiny(family).model, [LAYERS - 1])


def test_a_shift_of_the_first_layer_is_refused_with_the_cure():
    with pytest.raises(PaletteError, match=r"nothing after layer 0.*tuning\.layers"):
        control_vector(shift(0, 2))


def test_an_edit_that_projects_is_refused_with_the_cure():
    directions = torch.randn(LAYERS, 1, HIDDEN, generator=torch.Generator().manual_seed(2))
    with pytest.raises(PaletteError, match=r"only add.*subspaces\.method"):
        control_vector(Edit.project(directions).on([2]) + shift(2))


def book() -> books.Book:
    """Three users in clusters of their own, whose edits shift every layer."""
    users = {"ann": ("c0", "ann"), "bob": ("c1", "bob"), "cy": ("c2", "cy")}
    return books.Book(
        method="contrast", seed=0, traits=["brevity"], users=users,
        clusters={cluster: [user] for user, (cluster, _) in users.items()},
        weights={}, groups=list(users), layers={},
        tensors={"shift": DIRECTIONS.expand(len(users), -1, -1), "mean": DIRECTIONS},
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(PARAMS)
    save(tiny("llama"), Path("data/base"))
    monkeypatch.setattr(books, "read", lambda params: book())
    choices = [("c0", 0.5, "last"), ("c1", 0.0, "all"), ("c2", 1.0, "all")]
    tables.write("trials", pl.DataFrame([
        {"method": "edit", "cluster": cluster, "layers": layers, "strength": strength,
         "objective": 0.0, "kl": 0.0, "broken": 0.0, "chosen": True}
        for cluster, strength, layers in choices
    ]))  # fmt: skip
    return tmp_path


def test_the_command_writes_the_users_edit_at_its_tuned_strength_and_layers(folder, capsys):
    gguf(Path("ann.gguf"), "ann")
    reader = GGUFReader("ann.gguf")
    assert reader.fields["controlvector.model_hint"].contents() == "llama"
    assert [tensor.name for tensor in reader.tensors] == ["direction.2"]
    assert np.array_equal(reader.tensors[0].data, 0.5 * shift(2).shift[2].numpy())
    assert "the edit of ann on layers 2" in capsys.readouterr().out


def test_a_user_whom_no_strength_helps_has_nothing_to_export(folder):
    with pytest.raises(PaletteError, match=r"the cluster of 'bob'.*nothing to export") as error:
        gguf(Path("bob.gguf"), "bob")
    assert "\n" not in str(error.value)
    assert not Path("bob.gguf").exists()


def test_where_the_first_layer_was_chosen_the_best_trial_without_it_is_exported(folder, capsys):
    trials = tables.read("trials")
    other = trials.filter(cluster="c2").with_columns(
        pl.Series("layers", ["upper"]), pl.Series("strength", [0.25]),
        pl.Series("objective", [-0.1]), chosen=pl.lit(False),
    )  # fmt: skip
    worse = other.with_columns(pl.Series("layers", ["last"]), pl.Series("objective", [-0.2]))
    tables.write("trials", pl.concat([trials, worse, other]))
    gguf(Path("cy.gguf"), "cy")
    tensors = {tensor.name: tensor.data for tensor in GGUFReader("cy.gguf").tensors}
    layers = range(LAYERS // 2, LAYERS)
    assert list(tensors) == [f"direction.{layer}" for layer in layers]
    for layer in layers:
        assert np.array_equal(tensors[f"direction.{layer}"], 0.25 * DIRECTIONS[layer].numpy())
    assert "nothing after layer 0" in capsys.readouterr().out


def test_nothing_is_written_where_no_trial_leaves_the_first_layer_alone(folder):
    tables.write("trials", tables.read("trials").with_columns(
        layers=pl.when(cluster="c2").then(pl.lit("all")).otherwise("layers"),
        strength=pl.when(cluster="c2").then(0.0).otherwise("strength"),
    ))  # fmt: skip
    with pytest.raises(PaletteError, match="nothing to export"):
        gguf(Path("cy.gguf"), "cy")
    assert not Path("cy.gguf").exists()
