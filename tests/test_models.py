"""Loading the base, and merging adapters into it."""

import copy
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from tiny_models import ARCHITECTURES, save, tiny

from palette import base
from palette.errors import PaletteError
from palette.lm import models, templates
from palette.lm.models import (
    cached_base,
    digest,
    load_base,
    load_shape,
    pick_device,
    with_adapters,
)

SOURCE = Path(__file__).parents[1] / "src"
IDS = torch.tensor([[5, 6, 7, 8, 9]])


def adapter(lm, folder: Path, seed: int) -> Path:
    """A LoRA adapter on every linear layer, far from zero, saved by PEFT."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        r=3, lora_alpha=6.0, target_modules="all-linear", task_type="CAUSAL_LM",
        init_lora_weights=False,
    )  # fmt: skip
    get_peft_model(copy.deepcopy(lm.model), config).save_pretrained(folder)
    return folder


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_merged_adapter_is_pefts_own(architecture, tmp_path):
    from peft import PeftModel

    lm = tiny(architecture)
    before = logits(lm.model)
    folder = adapter(lm, tmp_path / "one", 1)
    theirs = logits(PeftModel.from_pretrained(copy.deepcopy(lm.model), folder))
    ours = with_adapters(lm, {folder: 1.0})
    torch.testing.assert_close(logits(ours.model), theirs, atol=1e-4, rtol=1e-4)
    assert (theirs - before).abs().max() > 0.1
    assert torch.equal(logits(lm.model), before), "the base has changed"
    assert ours.digest == lm.digest


@pytest.mark.filterwarnings("ignore")
def test_a_sum_of_adapters_is_the_sum_of_what_each_adds(tmp_path):
    lm = tiny("gpt2")
    one, two = adapter(lm, tmp_path / "one", 1), adapter(lm, tmp_path / "two", 2)

    def added(adapters):
        weights = with_adapters(lm, adapters).model.state_dict()
        return {name: weights[name] - before for name, before in lm.model.state_dict().items()}

    first, second, both = added({one: 1.0}), added({two: 1.0}), added({one: 0.3, two: 0.7})
    moved = [name for name in both if both[name].abs().max() > 0]
    assert len(moved) == 4 * 3  # every linear layer of every block, and neither embedding nor norm
    for name in both:
        torch.testing.assert_close(both[name], 0.3 * first[name] + 0.7 * second[name])
    assert all(not delta.any() for delta in added({one: 0.0}).values())
    assert all(not delta.any() for delta in added({}).values())


def test_an_adapter_that_is_not_there_is_named(tmp_path):
    with pytest.raises(PaletteError, match="holds no adapter; run `dvc repro`"):
        with_adapters(tiny(), {tmp_path: 1.0})


def test_a_saved_base_is_read_back_as_it_was(tmp_path):
    lm = tiny()
    save(lm, tmp_path)
    read = load_base("cpu", tmp_path)
    assert torch.equal(logits(read.model), logits(lm.model))
    assert (read.eos, read.pad, read.context) == (lm.eos, lm.pad, lm.context)
    assert not read.model.training
    assert not any(weights.requires_grad for weights in read.model.parameters())


def test_a_reference_leads_to_a_model_elsewhere(tmp_path):
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "base"
    save(tiny(), elsewhere)
    folder.mkdir()
    said = base.reference(str(elsewhere), None)
    (folder / "reference.json").write_text(json.dumps(said))
    assert torch.equal(logits(load_base("cpu", folder).model), logits(tiny().model))
    first = digest(folder)
    (elsewhere / "config.json").write_text((elsewhere / "config.json").read_text() + "\n")
    again = base.reference(str(elsewhere), None)
    assert {name for name in said["files"] if said["files"][name] != again["files"][name]} == {
        "config.json"
    }
    (folder / "reference.json").write_text(json.dumps(again))
    assert digest(folder) != first


def test_the_digest_is_of_names_and_contents_alone(tmp_path):
    for folder, files in {
        "a": {"x": "1", "y": "2"}, "same": {"y": "2", "x": "1"}, "content": {"x": "1", "y": "3"},
        "name": {"x": "1", "z": "2"}, "deep": {"x": "1", "y": "2", "original/x": "1"},
    }.items():  # fmt: skip
        for name, text in files.items():
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_text(text)
    found = {
        folder: digest(tmp_path / folder) for folder in ("a", "same", "content", "name", "deep")
    }
    assert found["a"] == found["same"]
    assert len(set(found.values())) == 4


def test_a_worker_that_lives_on_meets_the_new_base(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PaletteError, match="data/base holds no model"):
        cached_base("cpu")
    save(tiny(), models.BASE)
    first = cached_base("cpu")
    assert cached_base("cpu") is first
    save(tiny("gpt2"), models.BASE)
    assert type(cached_base("cpu").model) is not type(first.model)


def refusal(folder: Path) -> str:
    with pytest.raises(PaletteError) as error:
        load_base("cpu", folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_checkpoint_that_is_a_pickle_is_refused(tmp_path):
    save(tiny(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    marker = tmp_path / "run.txt"

    class Attack:
        def __reduce__(self):
            return Path.touch, (marker,)

    torch.save({"lm_head.weight": Attack()}, tmp_path / "pytorch_model.bin")
    assert "safetensors" in refusal(tmp_path)
    assert not marker.exists()
    said = (
        r"keeps its weights in pytorch_model\.bin, which may run code .*; save them as safetensors"
    )
    with pytest.raises(PaletteError, match=said):
        base.reference(str(tmp_path), None)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(PaletteError, match=r"must hold config\.json and \*\.safetensors"):
        base.reference(str(tmp_path), None)


def test_damaged_bases_are_refused_in_a_sentence(tmp_path):
    save(tiny(), tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:1000])
    assert "cannot be loaded" in refusal(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(whole)
    (tmp_path / "config.json").write_text("{")
    assert "cannot be loaded" in refusal(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "nobody knows"}')
    assert "cannot be loaded" in refusal(tmp_path)
    (tmp_path / "config.json").unlink()
    assert "holds no model; run `dvc repro base`" in refusal(tmp_path)


def test_code_of_a_checkpoint_is_never_run(tmp_path):
    save(tiny(), tmp_path)
    marker = tmp_path / "run.txt"
    (tmp_path / "modeling.py").write_text(f"open({str(marker)!r}, 'w')")
    config = json.loads((tmp_path / "config.json").read_text())
    own = {"AutoConfig": "modeling.Config", "AutoModelForCausalLM": "modeling.Model"}
    config |= {"model_type": "their_own", "auto_map": own}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "it needs code of its own, which is never run here" in refusal(tmp_path)
    with pytest.raises(PaletteError, match="needs code of its own"):
        models.shape_of(str(tmp_path), None)
    assert not marker.exists()
    for source in SOURCE.rglob("*.py"):
        said = re.findall(r"trust_remote_code\s*=\s*(\w+)", source.read_text(encoding="utf-8"))
        assert set(said) <= {"False"}, source


@pytest.mark.parametrize(
    ("model", "revision", "part"),
    [
        ("./nowhere", None, "is not a directory"),
        ("a/b/c", None, "is not a directory"),
        ("model", None, "is not a directory"),
        ("someone/model", None, r"pin base\.revision to a commit"),
        ("someone/model", "main", r"pin base\.revision to a commit"),
        ("someone/model", "0a1b2c", r"pin base\.revision to a commit"),
    ],
)
def test_a_base_that_cannot_be_meant_is_refused(model, revision, part):
    with pytest.raises(PaletteError, match=part):
        base.reference(model, revision)


def test_a_hub_id_is_referenced_by_its_commit():
    commit = "0a1b2c3d" * 5
    said = base.reference("someone/model", commit)
    assert said == {"model": "someone/model", "revision": commit, "files": {}}


def test_a_directory_that_is_no_base_is_refused(tmp_path):
    save(tiny(), tmp_path)
    with pytest.raises(PaletteError, match=r"leave base\.revision null"):
        base.reference(str(tmp_path), "0a1b2c3d" * 5)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(PaletteError, match="holds a PEFT adapter; merge it"):
        base.reference(str(tmp_path), None)


def test_a_base_elsewhere_that_has_changed_is_not_read(tmp_path):
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "base"
    save(tiny(), elsewhere)
    folder.mkdir()
    (folder / "reference.json").write_text(json.dumps(base.reference(str(elsewhere), None)))
    load_base("cpu", folder)
    (elsewhere / "generation_config.json").write_text("{}")
    assert "has changed since stage base (generation_config.json)" in refusal(folder)
    with pytest.raises(PaletteError, match="has changed"):
        load_shape(folder)
    elsewhere.rename(tmp_path / "gone")
    assert "is no directory any more" in refusal(folder)


def test_a_shape_is_the_base_without_its_weights(tmp_path):
    lm = tiny("gpt2")
    save(lm, tmp_path)
    shape = load_shape(tmp_path)
    assert {parameter.device.type for parameter in shape.model.parameters()} == {"meta"}
    assert (shape.eos, shape.pad, shape.context) == (lm.eos, lm.pad, lm.context)
    assert shape.digest == load_base("cpu", tmp_path).digest
    assert shape.model.num_parameters() == lm.model.num_parameters()


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "meta:x"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(PaletteError, match=r"runtime\.device is"):
        pick_device(device)


def test_a_model_that_names_no_end_has_none():
    lm = tiny()
    tokenizer = type("Silent", (), {"eos_token_id": None, "pad_token_id": None})()
    model = type("Model", (), {"generation_config": type("C", (), {"eos_token_id": None})()})()
    silent = replace(lm, tokenizer=tokenizer, model=model)
    assert (silent.eos, silent.pad) == (set(), 0)


def test_every_end_that_is_named_ends_an_answer():
    lm = tiny()
    for named in (3, [3], [3, lm.tokenizer.eos_token_id]):
        model = copy.copy(lm.model)
        model.generation_config = transformers.GenerationConfig(eos_token_id=named)
        assert replace(lm, model=model).eos == {3, lm.tokenizer.eos_token_id}


def test_a_pad_token_that_the_model_has_no_embedding_of_is_not_used():
    lm = tiny()
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == len(lm.model.get_input_embeddings().weight)
    assert replace(lm, tokenizer=tokenizer).pad == lm.tokenizer.eos_token_id


def test_a_tokenizer_without_a_chat_template_has_a_plain_one():
    lm = tiny()
    assert lm.tokenizer.chat_template is None
    ids = templates.encode(lm.tokenizer, templates.question("How?"))
    assert lm.tokenizer.decode(ids) == "user: How?\nassistant:"
