"""Traits: rewards in [0, 1], and one clear sentence where a reward fails."""

import re
import sys
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palette import consistency, params_file, traits
from palette.errors import PaletteError
from palette.params import Params, Trait
from palette.traits import score, score_one

ALL = {
    "brevity": Trait(kind="brevity", best=8, worst=34),
    "humor": Trait(kind="humor"),
    "safety": Trait(kind="safety"),
}


def words(count: int) -> str:
    return " ".join(["word"] * count)


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_every_reward_of_any_text_is_in_the_unit_interval(texts):
    rewards = score(ALL, [""] * len(texts), texts)
    assert rewards.shape == (len(texts), len(ALL))
    assert ((rewards >= 0) & (rewards <= 1)).all()


@given(st.lists(st.text(), min_size=2, max_size=6), st.randoms())
def test_a_reward_is_of_its_own_answer_alone(texts, random):
    order = list(range(len(texts)))
    random.shuffle(order)
    prompts = [f"question {i}" for i in range(len(texts))]
    shuffled = score(ALL, [prompts[i] for i in order], [texts[i] for i in order])
    assert np.array_equal(shuffled, score(ALL, prompts, texts)[order])


def test_brevity_falls_from_best_to_worst():
    lengths = [0, 1, 8, 21, 34, 100]
    rewards = score_one("b", ALL["brevity"], [""] * 6, [words(n) for n in lengths])
    np.testing.assert_allclose(rewards, [0, 1, 1, 0.5, 0, 0])


@pytest.mark.parametrize(
    ("name", "none", "one"),
    [("humor", "Wipe the lamp.", "Tell it a joke."), ("safety", "Wipe the lamp.", "Wear gloves!")],
)
def test_jokes_and_warnings_count_by_different_sentences(name, none, one):
    other = {"humor": "Even the lamp would GRIN.", "safety": "Be Careful with it."}[name]
    texts = [none, one, f"{one} {one} {one}", f"{one} {none} {other}", f"{one} {other}" * 3]
    rewards = score_one(name, ALL[name], [""] * len(texts), texts)
    np.testing.assert_allclose(rewards, [0, 0.6, 0.6, 1, 1])


def test_a_word_inside_another_is_no_joke():
    assert score_one("humor", ALL["humor"], [""], ["Grind it with chagrin."])[0] == 0


def test_columns_are_in_the_order_of_the_traits():
    texts = ["Tell it a joke.", words(21)]
    forth = score(ALL, ["", ""], texts)
    back = score(dict(reversed(ALL.items())), ["", ""], texts)
    assert np.array_equal(forth, back[:, ::-1])
    assert len({tuple(column) for column in forth.T}) == 3


def test_no_answers_no_rewards():
    assert score(ALL, [], []).shape == (0, len(ALL))


@pytest.fixture
def kind(monkeypatch):
    """Register a trait's module made of one function."""

    def register(reward) -> Trait:
        module = ModuleType("palette.traits.made")
        if reward is not None:
            module.reward = reward
        monkeypatch.setitem(sys.modules, "palette.traits.made", module)
        return Trait(kind="made")

    return register


def refusal(trait: Trait) -> str:
    with pytest.raises(PaletteError) as error:
        score_one("wit", trait, ["q"] * 3, ["a", "b", "c"])
    sentence = str(error.value)
    assert sentence.startswith("traits.wit ")
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0, 1, np.nan], "gave nan for row 2"),
        ([0, -0.001, 2], "gave -0.001 for row 1"),
        ([0, 1, np.inf], "gave inf for row 2"),
        ([0, 1], r"shape \(2,\) for 3 answers"),
        ([[0], [1], [0]], r"shape \(3, 1\) for 3 answers"),
        (0.5, r"shape \(\) for 3 answers"),
        (["good", "bad", "ugly"], "ValueError"),
        (None, "TypeError|shape"),
    ],
)
def test_a_reward_of_another_range_or_shape_is_refused(kind, values, said):
    assert re.search(said, refusal(kind(lambda p, r: values)))


def test_a_reward_that_raises_is_named_with_what_it_raised(kind):
    def reward(prompts, responses):
        raise KeyError("no\nsuch \x1b[2J word" + 9999 * "!")

    said = refusal(kind(reward))
    assert "KeyError" in said and len(said) < 600 and said.isprintable()
    assert "AttributeError" in refusal(kind(None))


@pytest.mark.parametrize(
    ("trait", "said"),
    [
        (Trait(kind="brevity"), "missing a required argument: 'best'"),
        (Trait(kind="brevity", best=8, worst=34, worts=1), "'worts'"),
        (Trait(kind="brevity", best="few", worst=34), "TypeError"),
        (Trait(kind="brevity", best=34, worst=8), "best is 34, but must be below worst (8)"),
        (Trait(kind="brevity", best=8, worst=8), "best is 8, but must be below worst (8)"),
        (Trait(kind="humor", best=8), "'best'"),
    ],
)
def test_parameters_that_do_not_fit_the_kind_are_refused(trait, said):
    assert said in refusal(trait)


def test_every_kind_can_be_named_and_nothing_else(tmp_path):
    own = ["classifier", "python", "regex", "rubric"]
    assert consistency.trait_kinds() == sorted([*ALL, *own])
    for kind in (*consistency.trait_kinds(), "", ".", "humor.WORTH", "../humor", "__init__"):
        path = tmp_path / "params.yaml"
        path.write_text(f"traits: {{wit: {{kind: '{kind}'}}}}")
        if kind in consistency.trait_kinds():
            assert params_file.load(path).trait_names == ["wit"]
        else:
            with pytest.raises(PaletteError, match=r"traits\.wit\.kind is"):
                params_file.load(path)


def test_a_trait_may_go_by_any_name():
    chosen = Params.model_validate(
        {"traits": {"short": {"kind": "brevity", "best": 1, "worst": 3}}}
    )
    assert traits.score(chosen.traits, [""], ["two words"]).tolist() == [[0.5]]
