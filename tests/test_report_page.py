"""The page on small worlds: what it says, and that texts are data in it."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import get_args

import polars as pl
import pytest
from report_world import MEND, SECRET, change, make, page_of, params_with

from palette import portfolio, report, tables
from palette.params import Subspaces
from palette.reporting import charts, edits_page, members, metrics, page, sections
from palette.reporting.run import read
from palette.summary import METHODS, UTILITIES, headline, strained, warning


def test_floors_shrink_the_map_to_what_is_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params = params_with(3, weights={"floor": {"safety": 0.2}})
    make(params)
    run = read(params)
    assert sum(members.table(run)["region"]) == pytest.approx(1)
    assert "safety 20.0%" in page_of(run)


def test_a_warning_names_the_utilities_that_lose_more_than_asked_and_no_others(world):
    run = read(params_with(3))
    quiet = metrics.measure(run) | {f"utility.{name}.loss.mean": 0.19 for name in UTILITIES}
    loud = quiet | {"utility.worst.loss.mean": 0.21, "utility.p0.loss.mean": 0.2}
    assert warning(quiet) is None and "warning" not in dict(headline(quiet))
    said = dict(headline(loud))["warning"]
    assert "the worst trait alone (21.0%)" in said and "20.0% asked" in said
    assert "geometric" not in said and strained(loud) == ["worst"]
    assert "WARNING" in page_of(run, loud)
    assert "WARNING" not in page_of(run, quiet)


def test_a_verdict_that_fails_shows_what_would_mend_it(world):
    run = read(params_with(3))
    mend = {"weights": [{"brevity": 0.62, "humor": 0.05, "safety": 0.33}], "expected": 0.19}
    mend |= {"advice": "One <more> member."}

    def shown(**keys) -> str:
        changed = replace(run, portfolio=run.portfolio | keys)
        return page_of(changed)

    for passed in (True, False):
        text = shown(passed=passed, mend=mend)
        assert ("One &lt;more&gt; member." in text) == ("brevity 0.62" in text) == (not passed)
        assert ("at most 19.0%" in text) == ("palette extend" in text) == (not passed)
    text = shown(passed=False, mend=MEND | {"advice": "Train longer."})
    assert "Train longer." in text and "palette extend" not in text


def test_a_second_look_is_told_with_its_own_confidence(world):
    certificate = read(params_with(3)).portfolio["certificate"]
    assert (certificate["looks"], certificate["confidence"]) == (1, 0.95)
    change("portfolio", certificate=certificate | {"looks": 2, "confidence": 0.975})
    run = read(params_with(3))
    found = metrics.measure(run)
    assert (found["certificate.looks"], found["certificate.confidence"]) == (2, 0.975)
    assert "With 97.5% confidence" in sections.answer(run, found).verdict
    assert dict(headline(found))["ε certified"].endswith(", look 2 at certify, confidence 0.975")
    text = page_of(run, found)
    assert "this is look 2" in text and "with 97.5% confidence" in text


def test_the_page_is_whole_offline_and_treats_model_text_as_data(world):
    report.main(params_with(3))
    text = (world / "reports/index.html").read_text()
    assert len(text) < 1_500_000
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "{{ 7 * 7 }}" in text
    assert text.count("<script") == 2
    for file in (world / "reports").iterdir():  # of users who are not public there is nothing
        assert SECRET not in file.read_text() and "private-" not in file.read_text(), file.name

    class Reader(HTMLParser):
        void = frozenset({"meta", "br", "input", "link"})

        def __init__(self):
            super().__init__()
            self.open, self.ids, self.tags = [], [], set()

        def handle_starttag(self, tag, attrs):
            self.tags.add(tag)
            self.ids += [value for name, value in attrs if name == "id"]
            own = {name: value for name, value in attrs}
            assert not {"src", "srcset", "onload", "onclick"} & set(own)
            assert (own.get("href") or "#").startswith(("#", "data:,"))
            if tag not in self.void:
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    reader = Reader()
    reader.feed(text)
    assert not reader.open and not reader.tags & {"img", "iframe", "object", "form"}
    assert len(reader.ids) == len(set(reader.ids))
    style = text[text.index("<style>") : text.index("</style>")]
    assert "@import" not in style and "url(" not in style
    outside = re.sub(r'xmlns(:\w+)?="[^"]+"', "", text).replace("https://example.org", "")
    assert "http" not in outside.replace("http-equiv", "")
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(reader.ids)


def test_the_page_may_run_its_own_script_alone_and_fetch_nothing(world):
    text = page_of(read(params_with(3)))
    policy = dict(
        part.split(" ", 1)
        for part in re.search(r'Content-Security-Policy" content="([^"]+)"', text)
        .group(1)
        .split("; ")
    )
    script = re.search(r'<script type="module">(.*?)</script>', text, re.S).group(1)
    assert policy["script-src"] == f"'{page.fingerprint(script)}'"
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert set(policy) == {
        "default-src", "style-src", "script-src", "img-src", "base-uri", "form-action"
    }  # fmt: skip
    assert policy["img-src"] == "data:"


def test_the_answer_says_what_was_asked_and_what_was_reached(world):
    run = read(params_with(3))
    found = metrics.measure(run) | {"portfolio.size": 4, "users.total": 1200}
    told = {"certificate.epsilon.upper": 0.13, "certificate.epsilon.requested": 0.05}
    failed = sections.answer(run, found | told | {"certificate.passed": 0})
    assert failed.headline == "4 adapters and the base serve all 1,200 users." and not failed.passed
    assert "more than 13.0%" in failed.verdict and "not enough: at most 5.0%" in failed.verdict
    passed = sections.answer(run, found | told | {"certificate.passed": 1})
    assert passed.passed and "not enough" not in passed.verdict
    unknown = sections.answer(run, found | {"certificate.epsilon.upper": None})
    assert "No loss can be guaranteed" in unknown.verdict
    alone = sections.answer(run, found | {"portfolio.size": 0})
    assert alone.headline == "The base alone serves all 1,200 users."


def test_a_run_without_a_bound_or_adapters_is_reported(world):
    prompts = tables.read("prompts").with_columns(
        topic=pl.when(split="certify").then(pl.lit("one")).otherwise("topic")
    )
    tables.write("prompts", prompts)
    params = params_with(3, portfolio={"epsilon": 0.99, "bootstrap": 200})
    portfolio.main(params)
    change("portfolio", mend=MEND)
    tables.write("routes", tables.read("routes").with_columns(member=pl.lit("base")))
    report.main(params)
    found = json.loads((world / "reports/metrics.json").read_text())
    assert found["certificate.epsilon.upper"] is None and found["certificate.passed"] == 0
    assert found["portfolio.size"] == 0 and found["cost.ratio"] is None
    assert "no bound" in dict(headline(found))["ε certified"]
    assert "The base alone serves all" in (world / "reports/index.html").read_text()


def test_the_rival_is_the_best_replaceable_method(world):
    found = {"lead.soup": 0.01, "lead.soup.low": -0.1, "lead.soup.high": 0.1, "lead.base": 0.2}
    found |= {"lead.base.low": 0.1, "lead.base.high": 0.3, "lead.ideal": -0.5, "users.seen": 10}
    rival = sections.rival(found)
    assert rival["name"] == charts.METHOD_NAMES["soup"] and not rival["told_apart"]
    sure = found | {"lead.soup.low": 0.005}
    assert sections.rival(sure)["told_apart"]
    assert not sections.rival(sure | {"users.seen": 9})["told_apart"]
    assert sections.rival({}) is None


def test_the_page_shows_what_was_tuned_revealed_and_dropped(world):
    run = read(params_with(3))
    found = metrics.measure(run)
    assert (found["edits.clusters"], found["pairs.kept"]) == (2, 5)
    assert (found["pairs.dropped.echo"], found["pairs.dropped.empty"]) == (2, 1)
    assert found["revealed.history.humor"] == 0.875
    shown = edits_page.section(run, found)
    assert [(row["name"], row["users"]) for row in shown["clusters"]] == [("c0", 8), ("c1", 4)]
    assert shown["clusters"][0]["choices"] == ["0.5, all layers", "identity: the base"]
    assert shown["clusters"][1]["choices"] == ["1, last layer", "0.5, all layers"]
    assert [row["choice"] for row in shown["members"]] == ["0.5, all layers"]
    assert [row["name"] for row in shown["revealed"]] == list(edits_page.SOURCES.values())[1:3]
    text = page_of(run, found)
    for said in ("1, last layer", "0.88", "−0.25", "an answer only repeats the prompt: 2"):
        assert said in text
    idle = {row["control"]: row["idle"] for row in shown["over"] if row["idle"]}
    assert idle == {
        charts.METHOD_NAMES["edit_mean"]: "identity chosen in 1 of 2 clusters: the base there"
    }
    assert "identity chosen in 1 of 2 clusters" in text


@pytest.mark.parametrize("method, said", [
    ("gradient", "weights estimated from"), ("style-vector", "what the user wrote and liked"),
    ("contrast", "user&#39;s insight and under a neutral"), ("chameleon", "strengthened"),
])  # fmt: skip
def test_the_page_says_what_this_runs_edits_were_made_of(world, method, said):
    file = tables.DATA / "subspaces" / "layers.json"
    tables.write_json(file, {"method": method})
    run = read(params_with(3))
    found = metrics.measure(run)
    text = page_of(run, found)
    assert text.count(said) == 1
    assert set(edits_page.DIRECTIONS) == set(get_args(Subspaces.model_fields["method"].annotation))


def test_a_run_without_edits_is_reported_without_their_section(world):
    for name in ("groups", "trials", "member_trials", "revealed", "pairs", "dropped"):
        tables.path(name).unlink()
    run = read(params_with(3))
    found = metrics.measure(run)
    assert found["pairs.kept"] is None and found["edits.clusters"] is None
    shown = edits_page.section(run, found)
    assert not shown["clusters"] and not shown["members"] and not shown["revealed"]
    rows = tables.read("evaluation").filter(~pl.col("method").str.contains("edit|chameleon"))
    bare = replace(run, evaluation=rows)
    found = metrics.measure(bare)
    assert edits_page.section(bare, found) is None
    text = page_of(bare, found)
    assert 'id="edits"' not in text and 'id="methods"' in text


def test_every_method_has_a_name_and_a_line_that_tells_what_it_is(world):
    assert list(METHODS) == list(charts.METHOD_NAMES)
    run = read(params_with(3))
    found = metrics.measure(run)
    text = page_of(run, found)
    for told in METHODS.values():
        assert told.replace("'", "&#39;") in text
