"""A base is tried before anything runs: what cannot be one is refused in a sentence that says why."""

import copy
import re
from dataclasses import replace

import foreign
import pytest
import torch
import transformers
from tiny_models import FAMILIES, HIDDEN, LAYERS, tiny
from transformers.models.llama import modeling_llama

from palette.core.editing import find_layers
from palette.errors import PaletteError
from palette.lm.fitness import require_fit
from palette.lm.row_lora import layer_sizes
from palette.lm.shapes import shape


@pytest.mark.parametrize("family", FAMILIES)
def test_families_that_are_fit_pass(family):
    lm = tiny(family)
    require_fit(lm)
    require_fit(replace(lm, model=copy.deepcopy(lm.model).bfloat16()))


def test_of_a_model_that_sees_pictures_the_part_that_writes_is_taken():
    text = {"hidden_size": HIDDEN, "intermediate_size": 64, "num_hidden_layers": LAYERS,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0,
            "vocab_size": len(tiny().tokenizer), "max_position_embeddings": 512}  # fmt: skip
    sight = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
             "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip
    config = transformers.Gemma3Config(
        text_config=text, vision_config=sight, mm_tokens_per_image=4, eos_token_id=0
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    assert sum(parameter.numel() for parameter in model.model.vision_tower.parameters()) > 0
    require_fit(replace(tiny(), model=model))
    assert len(find_layers(model)) == LAYERS
    assert len(layer_sizes(model)) == 7 * LAYERS
    assert all("language_model" in name for name in layer_sizes(model))
    own = shape(model)
    written = sum(weights.numel() for weights in model.model.language_model.parameters())
    assert model.config.tie_word_embeddings
    assert own.passed == written < own.parameters


def refusal(lm) -> str:
    with pytest.raises(PaletteError) as error:
        require_fit(lm)
    assert "\n" not in str(error.value)
    return str(error.value)


def other(family: str, **config):
    """A model that is no base, with the tokenizer of the others."""
    lm, size = (
        tiny(),
        {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 4},
    )
    made = transformers.AutoConfig.for_model(
        family, vocab_size=len(lm.tokenizer), **{**size, **config}
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(made)
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(3.0 if weights.dim() > 1 else 1.0)
    return replace(lm, model=model.eval().requires_grad_(False))


@pytest.mark.parametrize(
    ("family", "config", "why"),
    [
        (
            "opt",
            {"ffn_dim": 64, "word_embed_proj_dim": HIDDEN},
            "cannot be edited: .* no decoder layers",
        ),
        ("mamba", {"state_size": 4}, "cannot be edited"),
    ],
)
def test_a_family_whose_layers_have_no_mlp_is_refused(family, config, why):
    assert re.search(why, refusal(other(family, **config)))


def test_a_model_that_looks_ahead_is_refused(monkeypatch):
    """Not causal: what comes later changes what was said of the tokens before."""
    lm = tiny()
    model = copy.deepcopy(lm.model)
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    monkeypatch.setattr(modeling_llama, "create_causal_mask", lambda **_: None)
    assert "gives other answers in a batch than alone" in refusal(replace(lm, model=model))


def test_what_is_quantised_or_never_ends_or_encodes_is_refused():
    lm = tiny()
    model = copy.deepcopy(lm.model)
    model.config.quantization_config = {"quant_method": "gptq"}
    assert "is quantised" in refusal(replace(lm, model=model))
    model = copy.deepcopy(lm.model)
    model.config.is_encoder_decoder = True
    assert "reads with an encoder" in refusal(replace(lm, model=model))
    model, tokenizer = copy.deepcopy(lm.model), copy.deepcopy(lm.tokenizer)
    model.generation_config.eos_token_id = tokenizer.eos_token = None
    assert "names no token that ends an answer" in refusal(
        replace(lm, model=model, tokenizer=tokenizer)
    )


def test_a_template_that_raises_and_weights_that_are_no_numbers_are_told():
    lm = tiny()
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.chat_template = "{{ raise_exception('no users here') }}"
    assert "refuses a question (no users here)" in refusal(replace(lm, tokenizer=tokenizer))
    model = copy.deepcopy(lm.model)
    next(model.parameters()).fill_(float("nan"))
    said = refusal(replace(lm, model=model))
    assert "no number" in said or "does not run" in said


def test_what_the_config_tells_is_refused_before_weights_are_read(tmp_path, monkeypatch):
    import json

    from palette import base
    from palette.lm import models
    from palette.params import Params

    foreign.save("phi3", tmp_path / "own")
    config = tmp_path / "own" / "config.json"
    told = json.loads(config.read_text()) | {
        "quantization_config": {"quant_method": "gptq", "bits": 4}
    }
    config.write_text(json.dumps(told))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "load_base", lambda *_: pytest.fail("the weights are read"))
    params = Params.model_validate(
        {"base": {"model": "own"}, "traits": {"brevity": {"kind": "brevity"}}}
    )
    with pytest.raises(PaletteError, match="is quantised, and no adapter can be merged"):
        base.main(params)
    assert not (tmp_path / "data" / "base").exists()
