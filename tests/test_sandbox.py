"""The sandbox: a world in which truth is known, and a corpus, users and a base that fit it."""

from itertools import combinations, islice
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palette import params_file, prompts, traits
from palette.histories import validate
from palette.lm import templates
from palette.lm.models import load_base
from palette.params import Params, Sandbox, Users
from palette.sandbox import corpus, learn, people, skill, world

ROOT = Path(__file__).parents[1]
TOPICS = world.topics(0)
TRAITS = Params.model_validate({"traits": {
    "brevity": {"kind": "brevity", "best": 8, "worst": 34}, "humor": {"kind": "humor"},
    "safety": {"kind": "safety"},
}}).traits  # fmt: skip
STYLES = [
    world.Style(steps, jokes, warnings)
    for steps in (1, 2, 3)
    for jokes in (0, 1, 2)
    for warnings in (0, 1, 2)
]


def answers(seed: int = 0, each: int = 6) -> list[tuple[world.Style, str]]:
    """Answers of every style, on topics of every split."""
    rng = np.random.default_rng(seed)
    topics = [topic for split in TOPICS.values() for topic in split]
    return [
        (style, world.answer(topics[rng.integers(len(topics))], style, rng))
        for style in STYLES
        for _ in range(each)
    ]


@pytest.mark.parametrize("seed", [0, 1, 17])
def test_no_topic_is_in_two_splits_and_none_is_lost(seed):
    topics = world.topics(seed)
    names = {split: {topic.name for topic in own} for split, own in topics.items()}
    assert all(not names[a] & names[b] for a, b in combinations(names, 2))
    assert sum(map(len, names.values())) == len(world.VERBS) * len(world.THINGS) >= 40
    assert all(len(names[split]) == count for split, count in world.SPLIT_TOPICS.items())
    assert len(names["train"]) >= prompts.SANDBOX_TRAIN


def test_every_word_of_a_held_out_question_is_met_in_training():
    """A topic is new; its verb and its thing are not, or no model could answer."""
    for part in ("verb", "thing"):
        known = {getattr(topic, part) for topic in TOPICS["train"]}
        assert {getattr(t, part) for split in TOPICS.values() for t in split} == known


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=5), st.integers(0, 2**32))
def test_a_pick_is_numpys_choice_of_the_same_draw(shares, seed):
    p = tuple((np.array(shares) / sum(shares)).tolist())
    one, other = np.random.default_rng(seed), np.random.default_rng(seed)
    for _ in range(20):
        assert world.pick(p, one) == other.choice(len(p), p=p)


def test_reading_inverts_answering():
    for style, text in answers():
        assert world.read(text) == style, text


def test_a_joke_told_twice_is_one_joke_and_no_step():
    assert world.read("Wipe it. A funny hat helps too. A funny hat helps too.") == world.Style(
        1, 1, 0
    )
    assert world.read("") == world.Style(0, 0, 0)


def test_the_traits_measure_what_the_world_is_worth():
    texts = [text for _, text in answers(each=20)]
    np.testing.assert_allclose(
        traits.score(TRAITS, [""] * len(texts), texts), world.worth(texts), atol=1e-12
    )
    assert world.worth([""]).tolist() == traits.score(TRAITS, [""], [""]).tolist() == [[0, 0, 0]]


def test_the_traits_pull_against_each_other():
    worth = world.worth([text for _, text in answers(each=20)])
    shown = np.corrcoef(worth.T)
    assert shown[0, 1] < -0.2  # a joke costs words, and so does a warning
    assert shown[0, 2] < -0.2
    assert abs(shown[1, 2]) < 0.1


def test_every_manner_is_said_and_done_in_its_own_way():
    rng = np.random.default_rng(0)
    assert len({manner.insight for manner in world.MANNERS}) == len(world.MANNERS) == 8
    for manner in world.MANNERS:
        for _ in range(20):
            style = manner.style(rng)
            assert (style.steps == 1) == manner.short
            assert (style.jokes > 0) == manner.funny
            assert (style.warnings > 0) == manner.careful


def test_one_more_user_leaves_the_others_as_they_were():
    fewer, more = (people.histories(Sandbox(users=n)) for n in (30, 31))
    for before, after in zip(fewer, more, strict=True):
        assert after[: len(before)].equals(before)
        assert len(after) > len(before)


def test_the_users_that_ship_are_as_the_issue_asks():
    rows, hidden = people.histories(Sandbox())
    weights = hidden.select(f"w_{trait}" for trait in world.TRAITS).to_numpy()
    assert len(hidden) >= 200
    np.testing.assert_allclose(weights.sum(1), 1)
    assert (weights > 0).all()
    shares = dict(hidden["taste"].value_counts(normalize=True).rows())
    assert shares == pytest.approx({t: s for t, (s, _) in people.TASTES.items()}, abs=0.08)

    valid = validate(rows, Users().unseen)
    assert valid.users["user_id"].to_list() == hidden["user_id"].to_list()
    cohorts = dict(valid.users["cohort"].value_counts().rows())
    assert cohorts["unseen"] >= 40
    assert 0.06 < (valid.users["rows"] == 0).mean() < 0.14
    assert valid.users["rows"].max() == people.LONGEST
    assert valid.users.filter(pl.col("cohort") == "unseen")["rows"].n_unique() > 5
    assert 5 < len(valid.rejected) < 0.02 * len(rows)
    assert valid.rejected["reason"].n_unique() >= 4
    assert (
        len(rows) == len(valid.histories) + len(valid.rejected) + (valid.users["rows"] == 0).sum()
    )


def test_histories_are_of_train_topics_and_tell_of_the_weights():
    rows, hidden = people.histories(Sandbox())
    kept = validate(rows, 0.18).histories
    train = {topic.name for topic in TOPICS["train"]}
    words = set(world.VERBS) | set(world.THINGS)
    for prompt in kept["prompt"].unique():
        asked = [word for word in prompt.rstrip("?.").lower().split() if word in words]
        assert " ".join(asked) in train, prompt
    worth = pl.DataFrame(world.worth(kept["response"].to_list()), schema=list(world.TRAITS))
    mean = pl.concat([kept.select("user_id"), worth], how="horizontal").group_by("user_id").mean()
    told = mean.join(hidden, on="user_id")
    for trait in world.TRAITS:
        assert np.corrcoef(told[trait], told[f"w_{trait}"])[0, 1] > 0.5, trait


def test_choices_follow_the_weights_with_noise():
    rng = np.random.default_rng(0)
    funny, plain = "Wipe it. A funny hat helps too. Even the lamp would grin.", "Wipe it."
    chosen = [people.choose([funny, plain], np.array([0, 0.3, 0.7]), rng) for _ in range(400)]
    chance = 1 / (1 + np.exp(-people.SHARPNESS * 0.3))
    assert chosen.count(funny) / 400 == pytest.approx(chance, abs=0.03)
    assert chosen.count(plain) > 0


def test_another_seed_is_another_world():
    assert world.topics(0) != world.topics(1)
    first, second = (people.histories(Sandbox(users=20, seed=seed)) for seed in (0, 1))
    assert not first[0].equals(second[0])
    assert not first[1].equals(second[1])
    again = people.histories(Sandbox(users=20))
    assert first[0].equals(again[0])
    assert first[1].equals(again[1])


def drawn(task: str, count: int = 300) -> list[corpus.Example]:
    return list(islice(corpus.examples(task, TOPICS["train"], np.random.default_rng(0)), count))


def questions_in(content: str) -> set[tuple[str, str]]:
    """(verb, thing) of every question in a prompt."""
    found = set()
    for line in content.split("\n"):
        words = line.removeprefix("Asked: ").rstrip("?.").split()
        verbs = [word for word in words if word in world.VERBS]
        if line.startswith(("Asked: ", "How", "What is the best", "Tell")) and verbs:
            found.add((verbs[0], words[-1]))
    return found


@pytest.mark.parametrize("task", corpus.SHARES)
def test_the_corpus_asks_about_train_topics_alone(task):
    train = {(topic.verb, topic.thing) for topic in TOPICS["train"]}
    asked = set().union(*(questions_in(e.messages[0]["content"]) for e in drawn(task)))
    assert len(asked) > 100
    assert asked <= train


def test_the_corpus_covers_its_tasks_and_replies_with_the_truth():
    assert sum(corpus.SHARES.values()) == pytest.approx(1)
    manners = {manner.insight: manner for manner in world.MANNERS}
    for example in drawn("manner"):
        content = example.messages[0]["content"]
        insight, style = content.split(" Answer ")[0], world.read(example.reply)
        if insight == world.NEUTRAL_INSIGHT:
            assert style == world.NEUTRAL_STYLE
        else:
            asked = manners[insight]
            said = (style.steps == 1, style.jokes > 0, style.warnings > 0)
            assert said == (asked.short, asked.funny, asked.careful)
    replies = [example.reply for example in drawn("judge")]
    assert set(replies) == {"yes", "no"}
    assert 0.25 < replies.count("yes") / len(replies) < 0.75
    insights = {example.reply for example in drawn("insight", 1000)}
    assert insights <= set(manners)
    assert len(insights) >= 7  # the eighth, long and plain, is what hardly anyone chooses
    assert {example.reply for example in drawn("neutral", 20)} == {world.NEUTRAL_INSIGHT}
    assert all(world.read(example.reply).steps in (1, 2, 3) for example in drawn("answer"))


def test_the_judge_says_yes_where_the_answer_shows_the_trait():
    for example in drawn("judge"):
        content = example.messages[0]["content"]
        text = content.split("\nAnswer: ")[1].split("\nDoes this")[0]
        trait = content.split(" show ")[1].rstrip("?")
        style, few = world.read(text), len(text.split())
        shown = {"brevity": (34 - few) / 26 >= 0.6, "humor": style.jokes > 0,
                 "safety": style.warnings > 0}[trait]  # fmt: skip
        assert (example.reply == "yes") == shown


def test_an_insight_counts_what_the_history_shows():
    brief, long = "Wipe it. Be careful with the lamp.", "Rub it. Then dry it."
    funny = "Wipe it. A funny hat helps too."
    assert corpus.truth([("q", brief), ("q", brief)]) == world.Manner(True, False, True)
    assert corpus.truth([("q", long), ("q", funny)]) == world.Manner(True, True, False)
    mostly_long = [("q", long), ("q", long), ("q", funny)]
    assert corpus.truth(mostly_long) == world.Manner(False, False, False)


@pytest.fixture(scope="module")
def tokenizer():
    return learn.make_tokenizer(TOPICS["train"], np.random.default_rng(0))


@settings(deadline=None)
@given(text=st.text())
def test_the_tokenizer_round_trips_any_text(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert None not in ids
    assert tokenizer.unk_token_id is None
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_the_tokenizer_is_small_and_knows_its_chat(tokenizer):
    assert len(tokenizer) <= learn.VOCABULARY
    ids = templates.encode(tokenizer, templates.question("How do I mend a lamp?"))
    assert tokenizer.decode(ids) == "<|user|>How do I mend a lamp?<|end|><|assistant|>"
    words = tokenizer("How do I mend a lamp?")["input_ids"]
    assert len(words) < 12  # words of the corpus are tokens, not bytes


def test_batches_hold_replies_and_no_more_than_their_tokens(tokenizer, monkeypatch):
    monkeypatch.setattr(learn, "POOL", 60)
    batches = learn.Batches(tokenizer, TOPICS["train"], np.random.default_rng(0))
    for _ in range(20):
        ids, labels = batches.draw()
        told = labels != -100
        assert told.any(1).all()
        assert (labels[told] == ids[told]).all()
        ends = (ids == tokenizer.eos_token_id) & told
        assert (ends.sum(1) == 1).all()  # each reply learns its own end, and nothing after it
        assert not (told & (ids == tokenizer.pad_token_id)).any()
        assert ids.shape[1] <= learn.CONTEXT
        assert ids.numel() <= max(learn.BATCH_TOKENS.values())


@pytest.mark.slow
def test_a_base_is_an_ordinary_directory_and_the_same_bytes_again(tmp_path, monkeypatch):
    monkeypatch.setattr(learn, "POOL", 60)
    small, told = Sandbox(layers=1, hidden=32, steps=6), []
    for name in ("one", "two"):
        learn.train(small, tmp_path / name, told.append)
    assert told == [1] * 12
    files = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(files)
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), (
            file
        )
    lm = load_base("cpu", tmp_path / "one")
    assert lm.tokenizer.chat_template
    assert lm.eos == {lm.tokenizer.eos_token_id}
    assert lm.context == learn.CONTEXT
    monkeypatch.setattr(skill, "ROWS", 8)
    skills = skill.measure(lm, 0)
    assert {name.split(".")[0] for name in skills} == {
        "insight",
        "neutral",
        "judge",
        "answer",
        "manner",
    }
    assert all(0 <= share <= 1 for share in skills.values())
    assert skills["insight.exact"] < 0.5, "six steps teach nothing"
    documented = (ROOT / "docs/artifacts.md").read_text(encoding="utf-8")
    assert not [name for name in skills if f"| `{name}` | number |" not in documented]


def test_the_base_that_ships_has_the_size_asked(tokenizer):
    model = learn.make_model(Sandbox(), len(tokenizer), tokenizer)
    assert 4e5 <= sum(weights.numel() for weights in model.parameters()) <= 1e6


def test_the_shipped_traits_are_those_of_the_world():
    shipped = params_file.load(ROOT / "params.yaml")
    assert tuple(shipped.trait_names) == world.TRAITS
    texts = [text for _, text in answers(each=2)]
    np.testing.assert_allclose(
        traits.score(shipped.traits, [""] * len(texts), texts), world.worth(texts), atol=1e-12
    )
