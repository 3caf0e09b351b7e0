"""What the page is given to compute with, and the users whom it may show."""

import base64
import json
import re

import numpy as np
import polars as pl
import pytest
from report_world import EVIL, NAMES, page_of, params_with

from palette import report, tables
from palette.core.ideal import Ideal
from palette.reporting import explorer, maps, people
from palette.reporting.run import read
from palette.reporting.theme import svg


def value(packed: explorer.Shown, beta: float, weights: np.ndarray) -> float:
    """f* from what the page is given, as its script computes it."""
    rewards = np.frombuffer(base64.b64decode(packed["rewards"]), "<u2") / packed["levels"]
    counts = np.frombuffer(base64.b64decode(packed["counts"]), "<u4")
    ends = np.cumsum(packed["sizes"])[:-1]
    prompts = zip(
        np.split(rewards.reshape(len(counts), -1), ends), np.split(counts, ends), strict=True
    )
    return beta * np.mean([
        np.log(many @ np.exp(own @ weights / beta) / many.sum()) for own, many in prompts
    ])  # fmt: skip


@pytest.mark.parametrize("d", [1, 3, 8])
@pytest.mark.parametrize("few", [True, False])
def test_what_is_packed_is_f_to_half_a_part_of_a_reward(d, few):
    rng = np.random.default_rng(d)
    rewards = rng.choice([0.0, 0.6, 1.0], (5, 40, d)) if few else rng.random((5, 40, d))
    there = np.where(rng.random((5, 40)) < 0.8, 0.0, -np.inf)
    for ideal in (Ideal(rewards, 0.1), Ideal(rewards, 0.1, there)):
        packed = explorer.packed(ideal)
        assert len(packed["sizes"]) == 5
        for weights in rng.dirichlet(np.ones(d), 20):
            exact = ideal.condensed().value(weights[None]).mean()
            assert value(packed, 0.1, weights) == pytest.approx(exact, abs=0.5 / explorer.LEVELS)
    assert (max(packed["sizes"]) < 28) == (few and d < 8)  # equal rewards are kept once


def test_what_is_too_much_for_the_page_is_left_out(world, monkeypatch):
    monkeypatch.setattr(explorer, "LARGEST", 1000)
    params = params_with(3)
    run = read(params)
    assert explorer.packed(run.ideal) is None
    text = page_of(run)
    assert "too many scored answers" in text and 'id="regret"' not in text and 'id="worth"' in text


def test_a_taste_to_begin_with_is_where_the_verdict_is_worst(world):
    run = read(params_with(3))
    names = [name for name, _ in explorer.presets(run)]
    assert names == ["All alike", "Only brevity", "Only humor", "Only safety", "Where most is lost"]
    assert all(run.region.contains(np.array(weights)) for _, weights in explorer.presets(run))
    weights = explorer.worst(run)
    told = run.portfolio["worst"]
    assert run.planes.names[run.planes.best(weights)] == told["member"]
    assert run.losses.at(weights[None])[0] == pytest.approx(told["multiplicative"], abs=1e-3)
    floored = read(params_with(3, weights={"floor": {"humor": 0.1}}))
    assert explorer.presets(floored)[1][0] == "Mostly brevity"


def test_the_map_is_drawn_where_the_pointer_is_understood(world):
    """A cell that has a corner of the region as its own is drawn to that corner."""
    drawn = svg(maps.draw(read(params_with(3)))[0])
    origin = [float(n) for n in re.search(r"translate\(([\d.]+),([\d.]+)\)", drawn).groups()]
    points = np.array(re.findall(r"[ML](-?[\d.]+),(-?[\d.]+)", drawn), dtype=float) + origin
    for corner in maps.corners():
        assert np.abs(points - corner).sum(axis=1).min() < 0.1


def test_users_who_are_not_public_are_read_and_forgotten(world):
    found = read(params_with(3)).people
    assert [person["id"] for person in found] == sorted(n for n in NAMES if n.startswith("user"))
    told = json.dumps(found)
    assert "private" not in told and "only its author knows" not in told
    silent, talker = found[0], found[1]
    assert (silent["history"], silent["rows"], silent["insight"]) == ([], 0, None)
    assert talker["history"] == [(EVIL, EVIL, 0.75)] and talker["insight"] == EVIL
    assert talker["answers"]["soup"] == [f"soup answers test{i}" for i in range(3)]
    assert not talker["route"]["own"] and "edit" not in talker["route"]


def test_users_who_do_not_fit_are_left_out_and_the_page_says_so(world, monkeypatch):
    params = params_with(3)
    whole = people.read(params)
    monkeypatch.setattr(people, "LARGEST", 3.5 * len(json.dumps(whole[0])))
    fewer = people.read(params)
    assert 0 < len(fewer) < len(whole) and all(person in whole for person in fewer)
    text = page_of(read(params))
    assert f"{len(fewer)} of the 12 users are here" in text


def test_long_histories_and_texts_are_cut(world, monkeypatch):
    monkeypatch.setattr(people, "LETTERS", 10)
    monkeypatch.setattr(people, "ROWS", 2)
    own = tables.read("histories").filter(user_id="user-4")
    rows = [
        own.with_columns(row=pl.lit(n), response=pl.lit(f"{n} and more words")) for n in (2, 0, 1)
    ]
    tables.write("histories", pl.concat(rows))
    person = next(p for p in people.read(params_with(3)) if p["id"] == "user-4")
    assert [response for _, response, _ in person["history"]] == ["0 and mor…", "1 and mor…"]
    assert person["rows"] == 3


def test_a_run_without_public_users_shows_none(world):
    tables.write("users", tables.read("users").with_columns(public=pl.lit(False)))
    report.main(params_with(3))
    text = (world / "reports/index.html").read_text()
    assert "No user of this run is marked public" in text and 'id="find"' not in text
    assert "user-" not in text and "private-" not in text
