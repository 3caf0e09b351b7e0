"""Every row its own adapter: the same as merging each into a base of its own, beside edits."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES, HIDDEN, LAYERS, hooks, tiny

from palette.core.editing import Edit, Edits
from palette.errors import PaletteError
from palette.lm.generation import generate, row_uniforms
from palette.lm.models import with_adapters
from palette.lm.row_adapters import RowAdapters
from palette.lm.scoring import score

STEPS = 8
TEXTS = ["How do I clean a kettle?", "Why?", "Why?", "Go on."]
ROWS = (0, 1, None, 2, 0, None)
EDITED = (0, None, 1, 1, 1, None)

pytestmark = pytest.mark.filterwarnings("ignore")


def adapter(lm, folder: Path, seed: int, rank: int = 3, modules="all-linear") -> Path:
    """A LoRA adapter far from zero, saved by PEFT."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        r=rank, lora_alpha=6.0, target_modules=modules, task_type="CAUSAL_LM",
        init_lora_weights=False,
    )  # fmt: skip
    get_peft_model(copy.deepcopy(lm.model), config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=FAMILIES)
def made(request, tmp_path_factory):
    """A model, three adapters of unlike ranks (the last one skips modules), and the merged models."""
    lm, folder = tiny(request.param), tmp_path_factory.mktemp("adapters")
    names = {"gpt2": ["c_proj"], "gpt_neox": ["dense"], "phi": ["fc2"], "phi3": ["down_proj"]}
    some = names.get(request.param, ["down_proj", "q_proj"])
    folders = [
        adapter(lm, folder / "a", 1), adapter(lm, folder / "b", 2, rank=5),
        adapter(lm, folder / "c", 3, rank=2, modules=some),
    ]  # fmt: skip
    return lm, folders, [with_adapters(lm, {own: 1.0}) for own in folders]


def edits() -> list[Edit]:
    shift = torch.randn(LAYERS, HIDDEN, generator=torch.Generator().manual_seed(7))
    personal = torch.randn(LAYERS, 1, HIDDEN, generator=torch.Generator().manual_seed(8))
    return [Edit.add(3 * shift), Edit.project(personal) * 9.0]


def rows_of(folders, kinds):
    return [None if i is None else folders[i] for i in ROWS], [
        None if i is None else kinds[i] for i in EDITED
    ]


def prompts(lm) -> list[list[int]]:
    return [lm.tokenizer(TEXTS[i % len(TEXTS)])["input_ids"] for i in range(len(ROWS))]


def test_each_row_reads_as_its_own_merged_model(made):
    lm, folders, merged = made
    ids = torch.randint(3, 200, (len(ROWS), 9), generator=torch.Generator().manual_seed(3))
    base = lm.model(input_ids=ids).logits
    adapters = RowAdapters(rows_of(folders, edits())[0])
    adapters.focus(torch.arange(len(ROWS)))
    with torch.no_grad(), adapters.attach(lm.model):
        mixed = lm.model(input_ids=ids).logits
    for row, own in enumerate(ROWS):
        if own is None:
            assert torch.equal(mixed[row], base[row])
        else:
            wanted = merged[own].model(input_ids=ids[[row]]).logits[0]
            torch.testing.assert_close(mixed[row], wanted, atol=2e-4, rtol=2e-4)
            assert (wanted - base[row]).abs().max() > 0.02
    assert torch.equal(lm.model(input_ids=ids).logits, base), "a hook outlived its `with` block"


def test_rows_with_adapters_and_edits_answer_as_each_alone_on_its_merged_model(made):
    lm, folders, merged = made
    own, kinds, asked = *rows_of(folders, edits()), prompts(lm)
    uniforms = row_uniforms(len(ROWS), STEPS, "adapters")
    together = generate(lm, asked, STEPS, uniforms, Edits(kinds), adapters=RowAdapters(own))
    for row, number in enumerate(ROWS):
        policy = lm if number is None else merged[number]
        alone = generate(policy, [asked[row]], STEPS, uniforms[[row]], Edits([kinds[row]]))
        assert alone.tokens[0] == together.tokens[row]
        np.testing.assert_allclose(alone.logprobs[0], together.logprobs[row], atol=2e-3)
    unadapted = generate(lm, asked, STEPS, uniforms, Edits(kinds))
    assert unadapted.tokens != together.tokens


def test_scores_are_those_of_the_merged_models_against_the_untouched_base(made):
    lm, folders, merged = made
    own, kinds, asked = *rows_of(folders, edits()), prompts(lm)
    uniforms = row_uniforms(len(ROWS), STEPS, "scores")
    answers = generate(lm, asked, STEPS, uniforms, Edits(kinds), adapters=RowAdapters(own))
    scores = score(lm, asked, answers.tokens, lm, edits=Edits(kinds), adapters=RowAdapters(own))
    np.testing.assert_allclose(scores.logprob, answers.logprobs, atol=2e-3)
    for row, number in enumerate(ROWS):
        policy = lm if number is None else merged[number]
        alone = score(policy, [asked[row]], [answers.tokens[row]], lm, edits=Edits([kinds[row]]))
        np.testing.assert_allclose(scores.kl[row], alone.kl[0], atol=2e-3)
        np.testing.assert_allclose(
            scores.logprob_reference[row], alone.logprob_reference[0], atol=1e-3
        )
    assert scores.kl[-1] == pytest.approx(0, abs=1e-6)


def test_equal_prompts_share_a_prefill_only_where_the_adapter_is_the_same(tmp_path):
    lm = tiny()
    own = [adapter(lm, tmp_path / "a", 1), None, None]
    uniforms = np.tile(row_uniforms(1, STEPS, "prefill"), (3, 1))
    widths = []
    handle = lm.model.register_forward_pre_hook(
        lambda m, a, k: widths.append(tuple(k["input_ids"].shape)), with_kwargs=True
    )
    try:
        answers = generate(lm, [[5, 6, 7]] * 3, STEPS, uniforms, adapters=RowAdapters(own))
    finally:
        handle.remove()
    assert widths[0] == (2, 3)
    assert answers.tokens[1] == answers.tokens[2] != answers.tokens[0]


def test_an_adapter_stays_with_its_row_when_others_have_finished(tmp_path):
    lm, steps = tiny(), 16
    folders = [adapter(lm, tmp_path / "a", 1), adapter(lm, tmp_path / "b", 2), None] * 4
    asked = [[5, 6, 7]] * len(folders)
    uniforms = row_uniforms(len(folders), steps, "finished")
    uniforms[::4, 1] = 0.0  # these draw token 0, the end of an answer, early on
    together = generate(lm, asked, steps, uniforms, adapters=RowAdapters(folders))
    lengths = [len(tokens) for tokens in together.tokens]
    assert min(lengths) == 2 < max(lengths)
    for row, folder in enumerate(folders):
        policy = lm if folder is None else with_adapters(lm, {folder: 1.0})
        alone = generate(policy, [asked[row]], steps, uniforms[[row]])
        assert alone.tokens[0] == together.tokens[row], row


def test_rows_of_the_base_alone_place_no_hook():
    lm = tiny()
    before = hooks(lm.model)
    with RowAdapters([None, None]).attach(lm.model):
        assert hooks(lm.model) == before


def test_a_folder_without_an_adapter_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(PaletteError, match=r"holds no adapter; run `dvc repro`"):
        RowAdapters([None, tmp_path])


def test_an_adapter_of_another_base_is_refused_in_a_sentence(tmp_path):
    foreign = RowAdapters([adapter(tiny("gpt2"), tmp_path / "foreign", 1)])
    with pytest.raises(PaletteError, match="which the base lacks"), foreign.attach(tiny().model):
        pass


@pytest.mark.parametrize(
    "own", [[0] * 5, [0, 1, 2, 0, 1, 2], [2, 0, 0, 0, 0, None, 1], [0, 0, 1, 1], [None, 0, None]]
)
def test_rows_in_any_numbers_and_order_read_as_merged_models(own, tmp_path):
    lm = tiny()
    folders = [adapter(lm, tmp_path / str(seed), seed, rank=seed + 1) for seed in range(3)]
    policies = {k: with_adapters(lm, {folder: 1.0}).model for k, folder in enumerate(folders)}
    policies[None] = lm.model
    ids = torch.randint(3, 200, (len(own), 4), generator=torch.Generator().manual_seed(5))
    wanted = [policies[k](input_ids=ids[[row]]).logits[0] for row, k in enumerate(own)]
    adapters = RowAdapters([None if k is None else folders[k] for k in own])
    with torch.no_grad(), adapters.attach(lm.model):
        for gone in range(len(own)):  # rows leave one after another
            left = torch.arange(gone, len(own))
            adapters.focus(left)
            logits = lm.model(input_ids=ids[left]).logits
            for place, row in enumerate(left.tolist()):
                torch.testing.assert_close(logits[place], wanted[row], atol=2e-4, rtol=2e-4)
    assert (wanted[0] - lm.model(input_ids=ids[[0]]).logits[0]).abs().max() > 0.02 or own[0] is None


def test_merging_and_rows_scale_an_adapter_as_peft_does(tmp_path):
    from peft import PeftModel

    lm = tiny("gpt2")
    folder = adapter(lm, tmp_path / "scaled", 1, rank=4)  # alpha 6: a factor of 1.5
    ids = torch.tensor([[5, 6, 7, 8]])
    wanted = PeftModel.from_pretrained(copy.deepcopy(lm.model), folder)(input_ids=ids).logits
    merged = with_adapters(lm, {folder: 1.0}).model(input_ids=ids).logits
    torch.testing.assert_close(merged, wanted, atol=2e-4, rtol=2e-4)
    assert (wanted - lm.model(input_ids=ids).logits).abs().max() > 0.02
