"""Kinds of traits that a user brings, each alone; all of them in training and in worker processes."""

import json
import math
import os
import re
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import tiny_models
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import EOS, save_classifier, tiny

from palette import scores, traits
from palette.check import TRAITS as MADE_OF
from palette.check import main as check
from palette.errors import PaletteError
from palette.lm import templates
from palette.lm.models import BASE
from palette.params import Params, Trait
from palette.traits import regex, rubric, score_one

PROMPTS = ["How do I clean a lamp?", "Why?", "How do I mend it?", "Why?"]
RESPONSES = ["Wipe it. Haha!", "", f"Be careful,{EOS} haha.", "Rub it in small circles, then rest."]
CHAT = "{% for m in messages %}<eos>{{ m.role }}\n{{ m.content }}{% endfor %}"
WIT = """
def score(prompts, responses, word='haha', worth=1.0):
    return [worth * (word in answer.lower()) for answer in responses]
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project, and a way to write a file into inputs/traits/."""
    monkeypatch.chdir(tmp_path)
    Path("inputs/traits").mkdir(parents=True)

    def write(name: str, text: str) -> Path:
        path = Path("inputs/traits") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def give(prompts=PROMPTS, responses=RESPONSES, **trait) -> np.ndarray:
    return score_one("wit", Trait(**trait), prompts, responses, "cpu")


def refused(match: str, prompts=PROMPTS, responses=RESPONSES, **trait) -> str:
    with pytest.raises(PaletteError, match=match) as error:
        give(prompts, responses, **trait)
    sentence = str(error.value)
    assert sentence.startswith("traits.wit ") and "\n" not in sentence
    return sentence


# regex


def matches(pattern: str, texts: list[str], **more) -> list[float]:
    return give([""] * len(texts), texts, kind="regex", pattern=pattern, **more).tolist()


def test_a_pattern_is_there_or_counted_or_a_share():
    texts = ["", "haha", "Haha haha", "no"]
    assert matches("haha", texts) == [0, 1, 1, 0]
    assert matches("haha", texts, measure="count", most=2) == [0, 0.5, 0.5, 0]
    assert matches("haha", texts, measure="count", most=2, flags=["ignorecase"]) == [0, 0.5, 1, 0]
    assert matches("haha", texts, measure="share", flags=["ignorecase"]) == [0, 1, 8 / 9, 0]
    assert matches("haha", texts, range=[1, 0]) == [1, 0, 0, 1]  # less is better


@given(st.lists(st.text(alphabet="ab .\n\x00é😀"), min_size=1, max_size=4))
def test_measures_agree_with_each_other_and_with_python(texts):
    found = {
        name: matches("a+b?", texts, measure=name, most=3)
        for name in ("presence", "count", "share")
    }
    for row, text in enumerate(texts):
        spans = [match.span() for match in re.finditer("a+b?", text)]
        assert found["presence"][row] == bool(spans)
        assert found["count"][row] == min(len(spans), 3) / 3
        assert found["share"][row] == sum(end - start for start, end in spans) / max(len(text), 1)


def test_a_pattern_without_end_is_stopped_and_its_row_named(monkeypatch):
    monkeypatch.setattr(regex, "SECONDS", 0.05)
    texts = ["b", "a" * 4000 + "c", "b"]
    said = refused(r"more than 0\.05 s on an answer: simplify", ["q"] * 3, texts,
                   kind="regex", pattern="(a|aa|a.)+b(?<=x.*)")  # fmt: skip
    assert "on row 1, the answer 'aaaa" in said and len(said) < 300


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"pattern": "("}, "missing \\)"),
        (
            {"pattern": "a", "measure": "size"},
            "measure is 'size', but may be presence, count, share",
        ),
        ({"pattern": "a", "flags": ["loud"]}, "flags may be ascii, .*, not loud"),
        ({"pattern": "a", "measure": "count", "most": 0}, "most is 0, but must be at least 1"),
        ({}, "missing a required argument: 'pattern'"),
    ],
)
def test_a_pattern_that_is_none_is_refused(parameters, said):
    refused(said, kind="regex", **parameters)


# python


def test_a_function_scores_with_its_own_parameters(project):
    project("wit.py", WIT)
    own = {"kind": "python", "function": "wit:score"}
    assert give(**own).tolist() == [1, 0, 1, 0]
    assert give(**own, word="rub", worth=0.25).tolist() == [0, 0, 0, 0.25]
    assert not list(Path("inputs").rglob("__pycache__"))  # nothing that DVC would see change


def test_a_function_that_is_edited_is_another_at_once(project):
    path = project("wit.py", WIT)
    own = Trait(kind="python", function="wit:score")
    before = traits.files("wit", own)
    stat = path.stat()
    path.write_text(WIT.replace("1.0", "0.5"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as fast as a test is
    assert traits.files("wit", own) != before
    assert score_one("wit", own, PROMPTS, RESPONSES).tolist() == [0.5, 0, 0.5, 0]


def test_a_package_has_parts_and_data_that_are_all_its_own(project):
    project("tone/__init__.py", "from .inner import score")
    project("tone/inner.py", (
        "from pathlib import Path\n"
        "WORDS = (Path(__file__).parent / 'words.txt').read_text().split()\n"
        "def score(prompts, responses):\n"
        "    return [float(any(word in answer for word in WORDS)) for answer in responses]\n"
    ))  # fmt: skip
    words = project("tone/words.txt", "careful")
    for function in ("tone:score", "tone.inner:score"):
        assert give(kind="python", function=function).tolist() == [0, 0, 1, 0]
    words.write_text("circles\n")
    assert give(kind="python", function="tone:score").tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("wit", "function is 'wit', but must be module:function"),
        ("../wit:score", "must be module:function"),
        ("wut:score", r"inputs/traits/wut\.py does not exist; did you mean 'wit'\?"),
        ("wit:scores", r"wit\.py has no function scores"),
        ("wit:LIMIT", "has no function LIMIT"),
        ("bad:score", r"SyntaxError"),
    ],
)
def test_a_function_that_is_not_there_is_named(project, function, said):
    project("wit.py", WIT + "LIMIT = 3\n")
    project("bad.py", "def score(:")
    refused(said, kind="python", function=function)


def test_the_first_row_that_raises_is_named_shortened_and_printable(project):
    project("wit.py", (
        "def score(prompts, responses):\n"
        "    return [1 / ('!' not in text) for text in responses]\n"
    ))  # fmt: skip
    texts = ["fine"] * 700 + ["\x1b[2J" + "long " * 100 + "!"] + ["!"] * 3
    said = refused(r"failed on row 700, the answer '\\x1b\[2Jlong ", [f"q\n{i}" for i in range(704)],
                   texts, kind="python", function="wit:score")  # fmt: skip
    assert "ZeroDivisionError" in said and r"to 'q\n700'" in said and len(said) < 300


def test_a_function_that_fails_on_all_rows_together_alone_blames_none(project):
    project("wit.py", (
        "def score(prompts, responses):\n"
        "    assert len(responses) < 4, 'too many'\n"
        "    return [0.5] * len(responses)\n"
    ))  # fmt: skip
    assert "row" not in refused("too many", kind="python", function="wit:score")


@pytest.mark.parametrize(("value", "said"), [("float('nan')", "nan"), ("2.0", "2.0")])
def test_a_reward_that_is_none_names_prompt_answer_and_cure(project, value, said):
    project("wit.py", f"def score(prompts, responses):\n    return [0.0, 0.0, {value}, 0.0]\n")
    found = refused(
        f"gave {said} for row 2, the answer 'Be careful,", kind="python", function="wit:score"
    )
    assert "to 'How do I mend it?'; mend the reward so that it is" in found


def test_a_range_maps_to_the_unit_interval_and_what_is_outside_is_refused(project):
    project(
        "wit.py", "def score(prompts, responses):\n    return [float(len(p)) for p in prompts]\n"
    )
    own = {"kind": "python", "function": "wit:score"}
    longest = max(map(len, PROMPTS))
    found = give(**own, range=[0, longest])
    np.testing.assert_allclose(found, [len(p) / longest for p in PROMPTS])
    np.testing.assert_allclose(give(**own, range=[longest, 0]), 1 - found)
    refused("gave 22.0 for row 0, .* in its range, 0 to 10", **own, range=[10, 0])
    refused("in \\[0, 1\\], or give the trait a `range`, or `calibrate: quantiles`", **own)


# classifier


def logits(folder, ids: list[list[int]]) -> np.ndarray:
    """One row at a time, by the model alone."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.inference_mode():
        return np.concatenate([model(input_ids=torch.tensor([own])).logits.numpy() for own in ids])


@pytest.mark.parametrize(
    ("architecture", "chat", "pad"),
    [("bert", None, True), ("bert", CHAT, True), ("llama", None, False), ("llama", CHAT, True),
     ("gpt2", None, True), ("gpt2", CHAT, False)],
)  # fmt: skip
def test_a_classifier_reads_each_row_as_if_alone(tmp_path, architecture, chat, pad):
    folder = tmp_path / "model"
    # The byte tokenizer pads with what ends a text: where the model says so too, it is not read.
    save_classifier(folder, architecture, pad=pad, chat=chat)
    own = {"kind": "classifier", "model": str(folder), "label": "good"}
    found = give(**own)
    tokenizer = tiny().tokenizer
    before, after = (f"{EOS}user\n", f"{EOS}assistant\n") if chat else ("", "\n")
    ids = [
        tokenizer(before + prompt + after)["input_ids"]
        + tokenizer(answer, split_special_tokens=True)["input_ids"]
        for prompt, answer in zip(PROMPTS, RESPONSES, strict=True)
    ]
    alone = torch.tensor(logits(folder, ids)).double().softmax(1)[:, 1].numpy()
    np.testing.assert_allclose(found, alone, atol=1e-5)
    assert np.ptp(found) > 1e-4
    raw = give(**own, output="raw", range=[-50, 50])
    np.testing.assert_allclose(raw, (logits(folder, ids)[:, 1] + 50) / 100, atol=1e-5)


def test_outputs_and_labels_are_what_the_model_says_unless_told(tmp_path):
    several, single = tmp_path / "several", tmp_path / "single"
    save_classifier(
        several, labels=("calm", "rude", "warm"), problem_type="multi_label_classification"
    )
    save_classifier(single, labels=("LABEL_0",))
    own = {"kind": "classifier", "model": str(several)}
    raw = (
        np.column_stack([give(**own, label=i, output="raw", range=[-9, 9]) for i in range(3)]) * 18
        - 9
    )
    np.testing.assert_allclose(give(**own, label="rude"), 1 / (1 + np.exp(-raw[:, 1])), atol=1e-6)
    chances = np.exp(raw) / np.exp(raw).sum(1, keepdims=True)
    np.testing.assert_allclose(give(**own, label=2, output="softmax"), chances[:, 2], atol=1e-6)
    alone = give(kind="classifier", model=str(single), reads="response")
    assert alone.shape == (4,) and ((alone > 0) & (alone < 1)).all()
    assert (
        alone[1] == give(["other"] * 4, kind="classifier", model=str(single), reads="response")[1]
    )
    for label in (None, "loud", 3):
        refused(r"label is .* own: 0 \(calm\), 1 \(rude\), 2 \(warm\)", **own, label=label)
    refused(
        "output is 'logit', but must be one of sigmoid, softmax, raw",
        **own,
        label=0,
        output="logit",
    )
    refused("reads is 'prompt', but must be one of both, response", **own, label=0, reads="prompt")


def test_a_row_longer_than_the_model_takes_keeps_both_ends(tmp_path):
    for chat in (None, CHAT):
        folder = tmp_path / f"model-{bool(chat)}"
        save_classifier(folder, "gpt2", chat=chat)
        own = {"kind": "classifier", "model": str(folder), "label": 1}
        assert give(["Why?"], ["x" * 5000], **own).shape == (1,)
    texts = ["a" * 3000 + "b" * 3000, "a" * 4000 + "b" * 4000]
    assert np.ptp(give(["Why?"] * 2, texts, **own)) < 1e-6  # what is left is the same


def test_a_model_that_changes_is_loaded_again(tmp_path):
    folder = tmp_path / "model"
    save_classifier(folder)
    own = {"kind": "classifier", "model": str(folder), "label": 1}
    before, digest = give(**own), traits.files("wit", Trait(**own))
    save_classifier(folder, hidden_size=16)
    assert not np.allclose(give(**own), before)
    assert traits.files("wit", Trait(**own)) != digest


def test_a_model_that_may_run_code_or_was_never_trained_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    save_classifier(folder)
    own = {"kind": "classifier", "model": str(folder), "label": 1}
    config = json.loads((folder / "config.json").read_text())
    mark = tmp_path / "it-ran"
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Evil: pass\n")
    changed = config | {"model_type": "odd", "auto_map": {"AutoConfig": "evil.Evil"}}
    (folder / "config.json").write_text(json.dumps(changed))
    refused("cannot be loaded", **own)
    assert not mark.exists()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(r"pytorch_model\.bin, which may run code when read; save them as safetensors", **own)
    tiny_models.save(tiny(), tmp_path / "base")
    refused("has no weights for score.weight, which would be random", kind="classifier",
            model=str(tmp_path / "base"), label=1)  # fmt: skip
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    refused("pin it to a commit", kind="classifier", model="someone/model@main", label=1)
    refused(
        "is not a directory; name one, or a hub's owner", kind="classifier", model="./gone", label=1
    )


def test_a_hub_model_is_fetched_once_in_a_process(tmp_path, monkeypatch):
    asked, commit = [], "0b" * 20

    def fetched(name, revision, ignore_patterns):
        asked.append((name, revision))
        return str(tmp_path / "model")

    save_classifier(tmp_path / "model")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    own = {"kind": "classifier", "model": f"someone/model@{commit}", "label": 1}
    assert traits.files("wit", Trait(**own)) == {"files": ""} and not asked  # its commit says all
    local = give(kind="classifier", model=str(tmp_path / "model"), label=1)
    assert np.array_equal(give(**own), local) and np.array_equal(give(**own), local)
    assert asked == [("someone/model", commit)]


# rubric


@pytest.fixture
def base(project):
    tiny_models.save(tiny(), BASE)
    return tiny()


def test_a_rubric_is_the_mean_log_odds_of_both_orders(base):
    own = {"kind": "rubric", "sentence": "the answer is funny"}
    found = []
    for prompt, answer in zip(PROMPTS, RESPONSES, strict=True):
        odds = []
        for offered in ("yes or no", "no or yes"):
            text = f"{prompt}\nAnswer: {answer}\n{offered}: Is it true that the answer is funny?"
            ids = templates.encode(base.tokenizer, templates.question(text))
            last = base.model(input_ids=torch.tensor([ids])).logits[0, -1].double().softmax(0)
            y, big_y, n, big_n = (base.tokenizer.convert_tokens_to_ids(one) for one in "yYnN")
            odds.append(float(torch.log((last[y] + last[big_y]) / (last[n] + last[big_n]))))
        assert odds[0] != pytest.approx(odds[1], abs=1e-4)
        found.append(np.mean(odds))
    np.testing.assert_allclose(give(**own, output="raw", range=[-50, 50]), np.array(found) / 100 + 0.5,
                               atol=1e-6)  # fmt: skip
    np.testing.assert_allclose(give(**own), [1 / (1 + math.exp(-odd)) for odd in found], atol=1e-4)
    assert np.ptp(found) > 0.01


def test_a_sentence_that_is_a_question_is_asked_as_it_stands():
    (told,) = templates.rubric("How?", "So.", "Does this answer show humor?", ("no", "yes"))
    assert told["content"] == "How?\nAnswer: So.\nno or yes: Does this answer show humor?"


def test_a_rubric_that_the_base_cannot_judge_is_refused(project):
    own = {"kind": "rubric", "sentence": "it is short"}
    refused("data/base holds no model", **own)
    tiny_models.save(tiny(), BASE)
    refused("output is 'logit', but must be sigmoid or raw", **own, output="logit")
    refused("longer than the base's context of 512", ["Why?"], ["x" * 600], **own)
    with pytest.raises(PaletteError, match="begins yes and no alike"):
        rubric.log_odds(_Deaf(tiny()), [[1, 2]])


class _Deaf:
    """A model whose tokenizer knows no letters."""

    def __init__(self, lm):
        self.context = lm.context
        self.tokenizer = lambda texts, **_: {"input_ids": [[0] for _ in texts]}


# all of them


def everything(project) -> dict[str, Trait]:
    project("wit.py", WIT)
    save_classifier("inputs/traits/tone", chat=CHAT)
    return {
        "wit": Trait(kind="python", function="wit:score"),
        "dry": Trait(kind="regex", pattern="haha", flags=["ignorecase"], range=[1, 0]),
        "tone": Trait(kind="classifier", model="inputs/traits/tone", label="good"),
        "fun": Trait(kind="rubric", sentence="the answer is funny"),
    }


def test_equal_rows_are_asked_once_and_have_equal_rewards(project, base):
    own = everything(project)
    found = traits.score(own, PROMPTS * 3, RESPONSES * 3, "cpu")
    np.testing.assert_allclose(found[:4], traits.score(own, PROMPTS, RESPONSES, "cpu"), atol=1e-6)
    assert np.array_equal(found[:4], found[4:8])
    assert traits.score(own, [], [], "cpu").shape == (0, 4)


def test_many_rows_are_asked_in_batches_with_progress(project, monkeypatch):
    monkeypatch.setattr(traits, "BATCH", 3)
    done = []
    trait = Trait(kind="regex", pattern="a")
    found = score_one("wit", trait, ["q"] * 8, list("abcabcab"), "cpu", done.append)
    assert (found.tolist(), done) == ([1, 0, 0, 1, 0, 0, 1, 0], [3, 3, 2])


def test_scores_are_kept_a_batch_at_a_time_and_go_on_where_they_stopped(project, monkeypatch):
    """Killed in the third of four batches; another function, or another answer, is asked anew."""
    monkeypatch.setattr(traits, "BATCH", 2)
    counting = (
        "from pathlib import Path\n"
        "LOG = Path('asked')\n"
        "def score(prompts, responses):\n"
        "    LOG.open('a').write(''.join(responses) + ' ')\n"
        "    if 'f' in responses and not Path('whole').exists():\n"
        "        raise KeyboardInterrupt\n"
        "    return [float(text < 'd') for text in responses]\n"
    )
    project("wit.py", counting)
    params = Params(traits={"wit": Trait(kind="python", function="wit:score")})

    def asked(texts: str) -> list[str]:
        """The batches that the function was asked for."""
        Path("asked").write_text("")
        try:
            found = scores.score_one(params, "wit", ["q"] * len(texts), list(texts))
            assert found.tolist() == [float(text < "d") for text in texts]
        except KeyboardInterrupt:
            pass
        return Path("asked").read_text().split()

    assert asked("abcdefgh") == ["ab", "cd", "ef"]
    Path("whole").touch()
    params = Params(traits={"wit": params.traits["wit"].model_copy(update={"range": (0.0, 1.0)})})
    assert asked("abcdefgh") == ["ef", "gh"]  # what is made of a score is no part of it
    assert asked("abcdefgh") == []
    assert asked("abcxefgh") == ["cx"]
    project("wit.py", counting + "# another\n")
    assert asked("abcdefgh") == ["ab", "cd", "ef", "gh"]


def test_every_kind_scores_in_a_fresh_process_as_here(project, base):
    own = everything(project)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as worker:
        there = worker.submit(traits.score, own, PROMPTS, RESPONSES, "cpu").result()
    np.testing.assert_allclose(there, traits.score(own, PROMPTS, RESPONSES, "cpu"), atol=1e-6)


def test_every_kind_scores_fresh_answers_in_training(project, base):
    """By the base as it was: the adapters in training are no part of a rubric's judge."""
    from palette.lm.learner import Task
    from palette.lm.training import train_family
    from palette.params import Adapters

    own, asked = everything(project), []

    def reward(questions, responses):
        found = traits.score(own, questions, responses, "cpu")
        asked.append((questions, responses, found))
        return found

    prompts = [templates.encode(base.tokenizer, templates.question(text)) for text in PROMPTS]
    task = Task(
        prompts, PROMPTS, [[[5, 6], [7]]] * 4, np.zeros((4, 2, 4)), reward, 0.1, 6, np.zeros(4)
    )
    settings = Adapters(
        rank=2, steps=0, rloo_steps=2, rloo_batch=8, generations=4, rloo_learning_rate=0.5
    )
    _, log = train_family(base, task, settings)
    assert [phase for phase, _, _ in log] == ["rloo", "rloo"] and len(asked) == 2
    for questions, responses, found in asked:
        again = traits.score(own, list(questions), list(responses), "cpu")
        np.testing.assert_allclose(found, again, atol=1e-6)


def test_a_trait_whose_files_change_is_the_only_one_that_dvc_sees(project, base):
    own = everything(project) | {"short": Trait(kind="brevity", best=1, worst=9)}
    params = Params(traits=own)
    read = lambda: {path.name: path.read_text() for path in MADE_OF.glob("*")}  # noqa: E731
    check(params)
    before = read()
    assert set(before) == {f"{name}.json" for name in own}
    assert (
        json.loads(before["short.json"]) == {}
        and len(json.loads(before["wit.json"])["files"]) == 64
    )
    project("wit.py", WIT + "# changed\n")
    check(params)
    assert {name for name, text in read().items() if text != before[name]} == {"wit.json"}
    project("tone/README.md", "another")
    check(params)
    assert {name for name, text in read().items() if text != before[name]} == {
        "wit.json",
        "tone.json",
    }
    check(Params(traits={"short": own["short"]}))
    assert set(read()) == {"short.json"}
    with pytest.raises(PaletteError, match=r"traits\.short .* unexpected keyword argument 'bets'"):
        check(Params(traits={"short": Trait(kind="humor", bets=1)}))
    assert set(read()) == {"short.json"}
    project("wit.py", "").unlink()
    with pytest.raises(PaletteError, match=r"traits\.wit cannot be scored: .* does not exist"):
        check(params)
