"""Embedders: the base or a sentence-transformers model of one's own, and none that runs code."""

import json
import shutil

import huggingface_hub
import numpy as np
import pytest
import tiny_models
import torch
from tiny_models import tiny

from palette import embedding
from palette.errors import PaletteError
from palette.lm import activations

TEXTS = ["Wipe it.", "Be careful, wear gloves for this.", "A funny hat helps, and a rag too."]
WIDTH = 16
COMMIT = "0a" * 20


def save_encoder(folder) -> None:
    """A tiny random sentence-transformers model, saved as its makers save theirs."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertConfig, BertModel

    inner, tokenizer = folder.with_name(folder.name + "-inner"), tiny().tokenizer
    torch.manual_seed(0)
    BertModel(BertConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64,
    )).save_pretrained(inner)  # fmt: skip
    tokenizer.save_pretrained(inner)
    parts = [Transformer(str(inner), max_seq_length=48), Pooling(WIDTH)]
    SentenceTransformer(modules=parts, device="cpu").save_pretrained(str(folder))
    shutil.rmtree(inner)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders") / "encoder"
    save_encoder(folder)
    return folder


@pytest.fixture
def copied(encoder, tmp_path):
    return shutil.copytree(encoder, tmp_path / "encoder")


def test_the_base_embeds_by_its_own_last_states():
    found = embedding.embed(embedding.find("base"), tiny(), TEXTS)
    assert found.shape == (3, tiny_models.HIDDEN)
    assert np.array_equal(found, activations.embed(tiny(), TEXTS).numpy())


def test_a_saved_encoder_embeds_each_text_as_if_alone(encoder):
    embedder = embedding.find(str(encoder))
    together = embedding.embed(embedder, tiny(), TEXTS)
    assert together.shape == (3, WIDTH) and together.dtype == np.float32
    for text, vector in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(embedding.embed(embedder, tiny(), [text])[0], vector, atol=1e-5)
    assert np.ptp(together, axis=0).max() > 0.01


def test_an_encoder_is_what_it_holds_wherever_it_lies(encoder, copied):
    assert embedding.find(str(encoder)).digest == embedding.find(str(copied)).digest
    config = copied / "config_sentence_transformers.json"
    config.write_text(config.read_text() + "\n")
    assert embedding.find(str(encoder)).digest != embedding.find(str(copied)).digest


def test_a_hub_id_is_fetched_without_anything_that_may_run_code(encoder, monkeypatch):
    asked = []

    def fetched(name, revision, ignore_patterns):
        asked.append((name, revision, ignore_patterns))
        return str(encoder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    assert embedding.find(f"someone/encoder@{COMMIT}") == embedding.find(str(encoder))
    [(name, revision, unread)] = asked
    assert (name, revision) == ("someone/encoder", COMMIT)
    assert {"*.bin", "*.pkl", "*.pt"} <= set(unread)


def test_a_hub_id_that_cannot_be_fetched_is_named(monkeypatch):
    def refused(name, revision, ignore_patterns):
        raise OSError("no network\nat all")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refused)
    with pytest.raises(PaletteError, match=r"'someone/encoder@0a.*' .*\(no network\)"):
        embedding.find(f"someone/encoder@{COMMIT}")


@pytest.mark.parametrize("pin", ["", "@", "@main", "@v1.0", f"@{'0a' * 19}", f"@{'0A' * 20}"])
def test_a_hub_id_that_no_commit_pins_is_refused_before_anything_is_fetched(pin, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    with pytest.raises(PaletteError, match=r"pin it to a commit, as someone/encoder@"):
        embedding.find(f"someone/encoder{pin}")


@pytest.mark.parametrize("name", ["bass", "./nowhere", "a/b/c", "/nowhere/at/all"])
def test_a_wrong_name_is_named(name):
    with pytest.raises(PaletteError, match=f"'{name}' is not a directory"):
        embedding.find(name)


def test_a_folder_of_something_else_is_refused(tmp_path):
    tiny_models.save(tiny(), tmp_path)
    with pytest.raises(PaletteError, match=r"must hold modules\.json"):
        embedding.find(str(tmp_path))


def test_weights_that_are_no_safetensors_are_refused(copied):
    weights = next(copied.rglob("model.safetensors"))
    (copied / "9_Dense").mkdir()
    (copied / "9_Dense" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(PaletteError, match=r"9_Dense/pytorch_model\.bin"):
        embedding.find(str(copied))
    weights.unlink()
    with pytest.raises(PaletteError, match="safetensors"):
        embedding.find(str(copied))


def test_a_damaged_encoder_is_named(copied):
    next(copied.rglob("model.safetensors")).write_bytes(b"not weights")
    with pytest.raises(PaletteError, match=r"insights\.embedder cannot be loaded"):
        embedding.embed(embedding.find(str(copied)), tiny(), TEXTS)


@pytest.mark.parametrize("where", ["modules.json", "config.json"])
def test_code_inside_a_folder_is_never_run(copied, tmp_path, where):
    mark = tmp_path / "it-ran"
    (copied / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Evil: pass\n")
    file = next(copied.rglob(where))
    content = json.loads(file.read_text())
    if where == "modules.json":
        content[0]["type"] = "evil.Evil"
    else:
        content |= {"auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}}
        content["model_type"] = "nothing_known"
    file.write_text(json.dumps(content))
    with pytest.raises(PaletteError, match=r"insights\.embedder cannot be loaded"):
        embedding.embed(embedding.find(str(copied)), tiny(), TEXTS)
    assert not mark.exists()
