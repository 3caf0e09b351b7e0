"""Baselines: what is quoted for whom, whose edit is the control, and adapters of a user's own."""

import numpy as np
import polars as pl
import pytest
from tiny_models import save, tiny

from palette import baselines, own_adapters, shared, tables
from palette.core.region import Region
from palette.lm import preference_training, templates
from palette.lm.models import with_adapters
from palette.lm.scoring import logprobs
from palette.measuring import Policy
from palette.params import Adapters, Params, Tuning

SETTINGS = Adapters(rank=2, learning_rate=0.02)
PAIRS = [("How is it?", "haha it is", "it is"), ("What is it?", "haha", "a thing")]
TEXTS = {
    "train": ["Where to?", "Is it so?", "And then?"], "select": ["What now?", "Why so?"],
    "test": ["How is it?", "Who is it?"],
}  # fmt: skip


@pytest.fixture
def params(tmp_path, monkeypatch):
    """A folder with a base, prompts, users with and without history, and pairs of one of them."""
    monkeypatch.chdir(tmp_path)
    save(tiny(), tables.DATA / "base")
    tables.write("prompts", pl.DataFrame([
        {"prompt_id": text, "prompt": text, "topic": text, "split": split}
        for split, texts in TEXTS.items() for text in texts
    ]))  # fmt: skip
    users = [("ann", 3), ("bob", 1), ("dot", 0)]
    tables.write("users", pl.DataFrame([
        {"user_id": user, "cohort": "seen", "rows": rows, "public": True} for user, rows in users
    ]))  # fmt: skip
    write_histories([("ann", "Far away", "a", None), ("ann", "How is it?", "b", 0.9),
                     ("ann", "Who is it?", "no", 0.1), ("bob", "How is it?", "c", 0.2)])  # fmt: skip
    said = [dict(zip(("prompt", "personal", "neutral"), pair, strict=True)) for pair in PAIRS]
    tables.write("pairs", pl.DataFrame([
        {"user_id": "ann", "pair": place} | pair for place, pair in enumerate(said)
    ]))  # fmt: skip
    tables.write("weights", pl.DataFrame([
        {"user_id": user, "trait": "humor", "weight": 1.0, "low": 1.0, "high": 1.0, "evidence": 1.0}
        for user, _ in users
    ]))  # fmt: skip
    return Params.model_validate({
        "traits": {"humor": {"kind": "humor"}}, "adapters": SETTINGS.model_dump(),
        "rollouts": {"max_new_tokens": 4}, "baselines": {"steps": 3, "samples": 1, "per_user": 2},
        "tuning": {"strengths": [0.5, 1.0], "layers": ["all", "last"], "samples": 1},
        "runtime": {"engine": "sequential", "workers": 1, "device": "cpu", "store": "store"},
    })  # fmt: skip


def write_histories(rows: list[tuple[str, str, str, float | None]]) -> None:
    tables.write("histories", pl.DataFrame([
        {"user_id": user, "row": place, "prompt": prompt, "response": response, "rating": rating,
         "timestamp": None}
        for place, (user, prompt, response, rating) in enumerate(rows)
    ], infer_schema_length=None))  # fmt: skip


def quoted(params: Params) -> dict[str, dict[str, tuple[str, str]]]:
    """What is quoted for whom before the test questions."""
    prompts = tables.read("prompts")
    return baselines.nearest(params, prompts.filter(split="test"), prompts.filter(split="train"))


def test_the_liked_row_with_the_most_alike_question_is_quoted(params):
    quotes = quoted(params)
    assert quotes["ann"]["How is it?"] == ("How is it?", "b")
    assert set(quotes["ann"]) == set(TEXTS["test"])
    assert all(response != "no" for _, response in quotes["ann"].values())  # it was disliked
    assert set(quotes) == {"ann"}  # bob liked nothing, dot wrote nothing
    chosen = baselines.retrieving(["ann", "bob", "dot"], quotes)
    assert chosen == {"ann": Policy(quoting="ann"), "bob": Policy(), "dot": Policy()}


def test_of_equal_questions_the_earlier_row_is_quoted(params):
    write_histories([("ann", "How is it?", text, None) for text in ("first", "second")])
    found = quoted(params)["ann"]
    assert {response for _, response in found.values()} == {"first"}


def test_who_else_has_a_history_changes_nothing_of_what_is_quoted(params):
    letters = np.random.default_rng(0).choice(list("How is t?zqXY"), (40, 12))
    own = [("ann", "".join(text), "".join(text), None) for text in letters]
    write_histories(own)
    alone = quoted(params)
    for said in ("x", "zzzzzzzz"):  # such questions are the mean of all questions, were it taken
        write_histories([*own, *(("eve", f"{said}{i}", "e", None) for i in range(20))])
        found = quoted(params)
        assert found["ann"] == alone["ann"] and set(found) == {"ann", "eve"}


def test_rows_that_do_not_fit_the_context_are_not_quoted(params):
    write_histories([("ann", "How is it?", "b" * 600, None), ("ann", "zzz", "short", None),
                     ("bob", "How is it?", "b" * 600, None)])  # fmt: skip
    quotes = quoted(params)
    assert {response for _, response in quotes["ann"].values()} == {"short"}
    assert "bob" not in quotes


def test_a_row_must_fit_before_the_question_of_most_tokens_not_of_most_letters(params):
    lm, letters, tokens = tiny(), "w" * 9, "é" * 6  # the tiny model reads bytes
    empty = len(templates.encode(lm.tokenizer, templates.quoting(tokens, ("how", ""))))
    room = lm.context - params.rollouts.max_new_tokens - empty
    write_histories([("ann", "how", "a" * room, None), ("bob", "how", "a" * (room + 1), None)])
    asked = pl.DataFrame({"prompt_id": ["l", "t"], "prompt": [letters, tokens]})
    assert set(baselines.nearest(params, asked, asked)) == {"ann"}


def test_the_control_is_an_edit_of_another_group_drawn_by_name():
    groups = {f"u{i}": f"c{i % 3}" for i in range(12)}
    edited = {user: Policy(edit=group) for user, group in groups.items()}
    other = baselines.someone_else(edited, groups, seed=0)
    assert set(other) == set(groups)
    assert all(other[user].edit != groups[user] for user in groups)
    assert len(set(other.values())) == 3
    reordered = dict(reversed(edited.items()))
    assert baselines.someone_else(reordered, groups, seed=0) == other
    assert baselines.someone_else(edited, groups, seed=1) != other
    alone = dict.fromkeys(groups, "everyone")
    assert baselines.someone_else(edited, alone, seed=0) == edited


def test_one_more_user_is_drawn_by_some_and_leaves_the_rest_as_they_were():
    users = [f"u{i:02}" for i in range(40)]
    edited = {user: Policy(edit=user) for user in [*users, "new"]}
    groups = {user: user for user in edited}
    few = {user: edited[user] for user in users}
    before, after = (baselines.someone_else(own, groups, seed=0) for own in (few, edited))
    moved = {user for user in users if after[user] != before[user]}
    assert {after[user].edit for user in moved} == {"new"} and len(moved) < 5
    assert len(set(before.values())) > 20


@pytest.mark.parametrize("method", own_adapters.METHODS)
def test_training_on_pairs_moves_toward_the_personal_answers(method, tmp_path):
    base = tiny()
    before = [weights.clone() for weights in base.model.parameters()]
    files = preference_training.train(base, PAIRS, method, SETTINGS, 8, 0.1)
    assert files == preference_training.train(base, PAIRS, method, SETTINGS, 8, 0.1)
    for old, new in zip(before, base.model.parameters(), strict=True):
        assert old.equal(new)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    policy = with_adapters(base, {tmp_path: 1.0})

    def gain(side: int) -> np.ndarray:
        prompts = [preference_training.question(base, pair[0]) for pair in PAIRS]
        answers = [preference_training.answer(base, pair[side]) for pair in PAIRS]
        return logprobs(policy, prompts, answers) - logprobs(base, prompts, answers)

    assert (gain(1) > gain(2)).all()
    if method == "sft":
        assert (gain(1) > 0).all()


def test_an_answer_ends_once_whatever_it_spells():
    lm = tiny()
    ids = preference_training.answer(lm, "a<eos>b")
    assert ids[-1] in lm.eos and not lm.eos & set(ids[:-1])


def test_an_adapter_has_as_many_trials_as_an_edit():
    for strengths, layers in (([0.125, 0.25, 0.5, 1.0], ["all", "last"]), ([0.5], ["all"])):
        found = own_adapters.shares(Tuning(strengths=strengths, layers=layers))
        assert len(found) == len(set(found)) == len(strengths) * len(layers)
        assert max(found) == max(strengths) and min(found) > 0


def test_an_adapter_that_exists_is_not_trained_again_but_one_of_other_pairs_is(params, monkeypatch):
    pairs = own_adapters.read_pairs(["ann", "bob"])
    assert pairs == {"ann": PAIRS}
    folders = own_adapters.train(params, pairs)
    made = []
    real = own_adapters._train_one
    monkeypatch.setattr(own_adapters, "_train_one", lambda item, **_: made.append(item) or real(
        item, params=params, pairs=pairs))  # fmt: skip
    assert own_adapters.train(params, pairs) == folders and not made
    pairs["ann"] = [(prompt, personal, "other") for prompt, personal, _ in PAIRS]
    again = own_adapters.train(params, pairs)
    assert made == [("dpo", "ann")]  # SFT never reads the neutral answers
    assert again["sft", "ann"] == folders["sft", "ann"]


def test_own_adapters_are_merged_as_far_as_they_help_on_select(params):
    few = own_adapters.few(params)
    assert few == ["ann", "bob"]
    chosen = own_adapters.preferred(params, few)
    assert set(chosen) == {"sft", "dpo"}
    for of_user in chosen.values():
        assert set(of_user) == {"ann", "bob"} and of_user["bob"] == Policy()  # bob has no pairs
        for _, share in of_user["ann"].adapters:
            assert share in own_adapters.shares(params.tuning)


def test_the_identity_is_kept_unless_a_trial_helps(params):
    trials = [Policy(), Policy((("a", 0.5),)), Policy((("a", 1.0),))]

    def choose(gains: dict[int, float]) -> int:
        rows = [
            {"policy": trial.name, "prompt_id": f"p{prompt}", "kl": 0.0, "broken": 0.0,
             "reward_humor": 0.3 + 0.01 * prompt + gains.get(place, 0.0)}
            for place, trial in enumerate(trials) for prompt in range(4)
        ]  # fmt: skip
        values = pl.DataFrame(rows).sample(fraction=1, shuffle=True, seed=0)
        return own_adapters.choose(params, trials, values, [1.0])

    assert choose({}) == 0
    assert choose({1: -0.1, 2: -0.2}) == 0
    assert choose({1: 0.1, 2: 0.2}) == 2


def test_a_quoted_row_stands_before_the_question_as_in_a_history():
    (message,) = templates.quoting("Now?", ("Then?", "So."))
    shown = templates.personal_insight([("Then?", "So.")])[0]["content"]
    assert message["content"].startswith(shown.split("\n")[0])
    assert message["content"].endswith("\nNow?") and "Liked: So." in message["content"]


def test_policies_that_many_users_share_are_asked_more_often(params, monkeypatch):
    asked_of, whose_of = {}, {}

    def remember(_, asked, prompts, edits, words, samples, quotes, whose):
        whose_of.update(whose)
        asked_of.update(dict.fromkeys(asked, samples))
        return pl.DataFrame({"policy": [policy.name for policy in asked]})

    monkeypatch.setattr(shared.policies, "worth", remember)
    prompts, users = pl.DataFrame(), [f"u{i}" for i in range(16)]
    all_of, some, few = Policy(insight="all"), Policy(insight="some"), Policy(insight="few")
    chosen = {
        "a": dict.fromkeys(users, all_of),
        "b": dict.fromkeys(users[1:], some) | {"u0": all_of},
        "c": dict.fromkeys(users[:3], few) | dict.fromkeys(users[3:], all_of),
    }
    found = shared.worth(params, chosen, prompts, {}, "words")
    each = params.baselines.samples
    assert asked_of == {all_of: 16 * each, some: 4 * each, few: each}
    assert whose_of == {all_of: set(users), some: set(users[1:]), few: set(users[:3])}
    assert sorted(found["policy"]) == sorted([all_of.name, some.name, few.name])
    assert [shared.times(n) for n in (0, 1, 3, 4, 15, 16, 1000)] == [1, 1, 1, 4, 4, 16, 16]
    assert shared.worth(params, {"a": {}}, prompts, {}, "words").columns == ["policy"]


@pytest.mark.parametrize("floor", [{}, {"humor": 0.2}, {"brevity": 0.1, "safety": 0.3}])
def test_the_soup_mixes_the_corners_of_w_to_the_users_weights(params, floor):
    names = ["brevity", "humor", "safety"]
    told = {"traits": {name: {"kind": name} for name in names}, "weights": {"floor": floor}}
    params = Params.model_validate(params.model_dump(exclude={"traits", "weights"}) | told)
    region = Region(tuple(params.floor))
    shares = np.array([[0.5, 0.3, 0.2], [0.0, 0.0, 1.0], [0.1, 0.6, 0.3]])
    users = dict(zip(("ann", "bob", "dot"), region.spread(shares), strict=True))
    tables.write("weights", pl.DataFrame([
        {"user_id": user, "trait": name, "weight": w, "low": w, "high": w, "evidence": 1.0}
        for user, own in users.items() for name, w in zip(names, own, strict=True)
    ]))  # fmt: skip
    found = baselines.soups(params, list(users), {name: f"of/{name}" for name in names})
    corners = dict(zip((f"of/{name}" for name in names), region.vertices(), strict=True))
    for user, weights in users.items():
        parts = found[user].adapters
        assert sum(share for _, share in parts) == pytest.approx(1)
        mixed = sum(share * corners[folder] for folder, share in parts)
        np.testing.assert_allclose(mixed, weights, atol=1e-9)
