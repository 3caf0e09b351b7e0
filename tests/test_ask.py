"""`palette ask`: each policy answers in the batch as it would alone, and what cannot be is refused."""

import copy
import re
from pathlib import Path

import polars as pl
import pytest
import torch
from tiny_models import HIDDEN, LAYERS, save, tiny

from palette import edits as books
from palette import served, tables
from palette.commands import ask as command
from palette.commands.ask import Said, answers, ask, chosen, show
from palette.core.editing import Edits
from palette.errors import PaletteError
from palette.lm import templates
from palette.lm.generation import generate, row_uniforms
from palette.lm.models import with_adapters
from palette.params_file import load
from palette.traits import score

PARAMS = (Path(__file__).parents[1] / "params.yaml").read_text()
DIRECTIONS = 9 * torch.randn(LAYERS, HIDDEN, generator=torch.Generator().manual_seed(1))
ROUTES = {"ann": ("fun", 0.5, "last"), "bob": ("brief", 0.0, "all"), "cy": ("base", 1.0, "all")}
QUESTIONS = ["How do I clean a kettle?", "Why?"]

pytestmark = pytest.mark.filterwarnings("ignore")


def book() -> books.Book:
    """Three users, whose edits shift every layer by directions of their own."""
    shifts = torch.stack([DIRECTIONS, -DIRECTIONS, DIRECTIONS.roll(1, dims=1)])
    return books.Book(
        method="contrast", seed=0, traits=["brevity", "humor"],
        users={user: ("c0", user) for user in ROUTES}, clusters={"c0": list(ROUTES)},
        weights={}, groups=list(ROUTES), layers={},
        tensors={"shift": shifts, "mean": DIRECTIONS},
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What a run leaves behind, of a tiny base with two members and three users."""
    from peft import LoraConfig, get_peft_model

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(served.edits, "read", lambda params: book())
    Path("params.yaml").write_text(PARAMS)
    save(tiny(), Path("data/base"))
    for seed, member in enumerate(("fun", "brief")):
        torch.manual_seed(seed)
        lora = LoraConfig(r=seed + 2, target_modules="all-linear", init_lora_weights=False)
        adapted = get_peft_model(copy.deepcopy(tiny().model), lora)
        adapted.save_pretrained(f"data/adapters/{member}")
    members = [{"id": name, "weights": {"brevity": 0.5, "humor": 0.5}} for name in ("fun", "brief")]
    tables.write_json(tables.DATA / "portfolio" / "portfolio.json", {"members": members})
    rest = {"regret": 0.0, "worst_regret": 0.0, "uncertain": False, "moved": False, "robust": "fun"}
    tables.write("routes", pl.DataFrame([
        {"user_id": user, "member": member, "edit": user, "strength": strength, "layers": layers,
         **rest}
        for user, (member, strength, layers) in ROUTES.items()
    ]))  # fmt: skip
    return tmp_path


def test_every_policy_answers_in_the_batch_as_it_would_alone(folder):
    lm, params = tiny(), load()
    policies, edits = chosen(params, list(ROUTES), True)
    assert list(policies) == [
        "ann: fun, edit × 0.5 on layers last", "bob: brief", "cy: base, edit × 1 on layers all",
        "base", "fun", "brief",
    ]  # fmt: skip
    said = answers(lm, params, policies, edits, QUESTIONS, 2, seed=3)
    assert len(said) == len(QUESTIONS) * len(policies) * 2
    limit, rows = params.rollouts.max_new_tokens, iter(said)
    for question in QUESTIONS:
        ids = templates.encode(lm.tokenizer, templates.question(question))
        numbers = row_uniforms(2, limit, "ask", 3, question)
        for name, policy in policies.items():
            merged = with_adapters(lm, {Path(f): w for f, w in policy.adapters})
            changes = Edits([edits[policy.edit]] * 2) if policy.edit else None
            alone = generate(merged, [ids] * 2, limit, numbers, changes)
            for text, tokens in zip(alone.texts, alone.tokens, strict=True):
                one = next(rows)
                assert (one.question, one.policy, one.answer) == (question, name, text)
                assert one.tokens == len(tokens)
                assert one.ended == (tokens[-1] in lm.eos)
    assert len({one.answer for one in said[::2][:6]}) == 5, "bob is served 'brief' itself"


def test_an_answer_depends_on_the_question_and_the_seed_alone(folder):
    lm, params = tiny(), load()

    def said(users, members, questions, samples, seed=0):
        found = answers(lm, params, *chosen(params, users, members), questions, samples, seed)
        mine = [one for one in found if one.policy.startswith("ann") and one.question == "Why?"]
        return [one.answer for one in mine]

    (alone,) = said(["ann"], False, ["Why?"], 1)
    assert said(["bob", "ann"], True, QUESTIONS, 2)[0] == alone
    assert said(["ann"], False, ["Why?"], 1, seed=1) != [alone]


def test_the_table_has_every_answer_with_its_rewards_and_no_control_character(folder, capsys):
    params = load()
    told = [
        Said("Why?", "ann: fun", "Haha, why [not]?", 7, True),
        Said("Why?", "base", "Unplug it \x1b[31mfirst.", 48, False),
    ]
    show(params, told)
    title, header, *lines = [x for x in capsys.readouterr().out.splitlines() if x.strip(" ─")]
    assert title.strip() == "Why?"
    assert header.split() == ["policy", "answer", *params.traits, "tokens"]
    rewards = score(params.traits, ["Why?"] * 2, [one.answer for one in told])
    assert rewards.max() > 0
    ends = ["7", "48, cut off"]
    for line, one, own, end in zip(lines, told, rewards, ends, strict=True):
        cells = re.split(r"\s{2,}", line.strip())
        answer = one.answer.replace("\x1b", "\ufffd")
        assert cells == [one.policy, answer, *(f"{reward:.2f}" for reward in own), end]


def test_a_question_asked_twice_is_answered_once(folder, capsys):
    ask(["Why?", "Why?"], user=["bob"], all_members=False, samples=1, seed=0)
    assert capsys.readouterr().out.count("bob: brief") == 1


def test_without_users_the_base_and_all_members_answer(folder, capsys):
    ask(["Why?"], user=None, all_members=False, samples=1, seed=0)
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert [name for name in rows if name in {"base", "fun", "brief"}] == ["base", "fun", "brief"]
    assert "ann:" not in rows


def test_a_reward_that_fails_leaves_its_column_empty_and_says_why(folder, capsys, monkeypatch):
    from palette.traits import humor

    def broken(prompts, responses, **parameters):
        raise KeyError("no such prompt")

    monkeypatch.setattr(humor, "reward", broken)
    ask(["Why?"], user=["bob"], all_members=False, samples=1, seed=0)
    shown = capsys.readouterr().out
    assert "no such prompt" in shown
    assert "bob: brief" in shown


def test_who_or_what_cannot_be_asked_is_refused_in_a_sentence(folder):
    plain = {"all_members": False, "samples": 1, "seed": 0}
    with pytest.raises(PaletteError, match=r"no user 'nobody': .*routes\.parquet lists them"):
        ask(["Why?"], user=["nobody"], **plain)
    with pytest.raises(PaletteError, match="a question is empty: write it in quotes"):
        ask(["Why?", "  "], user=["ann"], **plain)
    with pytest.raises(PaletteError, match="shorten the prompt"):
        ask(["Why? " * 200], user=["ann"], **plain)
    tables.path("routes").unlink()
    with pytest.raises(PaletteError, match=r"routes\.parquet does not exist; run `dvc repro`"):
        ask(["Why?"], user=["ann"], **plain)


def test_all_rows_are_made_in_one_batch(folder, monkeypatch):
    calls = []
    made = command.answers

    def counted(lm, *rest):
        handle = lm.model.register_forward_pre_hook(
            lambda m, a, k: calls.append(len(k["input_ids"])), with_kwargs=True
        )
        try:
            return made(lm, *rest)
        finally:
            handle.remove()

    monkeypatch.setattr(command, "answers", counted)
    ask(["Why?"], user=["ann", "bob"], all_members=True, samples=3, seed=0)
    assert calls[0] == 5, "one prefill, of a row for each policy"
    assert calls[1] == 15 and len(calls) <= load().rollouts.max_new_tokens
