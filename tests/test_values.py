"""The stage values: what members answered, and how likely the base's rollouts are under them."""

import numpy as np
import pytest
import tiny_chain

from palette import arrays, tables, values
from palette.adapters import ADAPTERS
from palette.lm.models import with_adapters


@pytest.fixture
def names(chain) -> list[str]:
    plan = tables.read_json(tables.DATA / "plan" / "plan.json")
    return [member["id"] for member in plan["members"]]


def test_every_certify_rollout_has_its_exact_likelihood_under_every_member(names):
    small, found = tiny_chain.world("certify"), tables.read("likelihoods")
    keys = tables.read("prompts").filter(split="certify").sort("prompt_id")["prompt_id"].to_list()
    places = {tuple(answer): place for place, answer in enumerate(small.answers)}
    rollouts = tables.read("rollouts").select("prompt_id", "sample", "tokens")
    for name in names:
        exact = small.logprobs(with_adapters(small.lm, {ADAPTERS / name: 1.0}).model)
        rows = found.filter(member=name).join(rollouts, on=["prompt_id", "sample"], validate="1:1")
        assert len(rows) == 200 * len(keys)
        want = [
            exact[keys.index(row["prompt_id"]), places[tuple(row["tokens"])]]
            for row in rows.iter_rows(named=True)
        ]
        np.testing.assert_allclose(rows["logprob"], want, atol=2e-4)


def test_the_mixtures_weights_are_the_exact_ones(names):
    small = tiny_chain.world("certify")
    on = arrays.scored(tiny_chain.PARAMS, ["certify"])
    base, *mixtures = arrays.mixtures(tiny_chain.PARAMS, on, names)
    assert base is on.ideal
    weights = np.eye(3)
    exact = np.array([tiny_chain.ideal(small, w) for w in weights])
    for ideal in mixtures:
        assert ideal.counts.tolist() == [250] * len(small.questions)
        assert ideal.blocks.tolist() == [50] * len(small.questions)
        # π_ref/q has mean 1 under q, and with it f* is the enumerated one but for sampling noise.
        np.testing.assert_allclose(np.exp(ideal.log_weights).mean(axis=1), 1, atol=0.1)
        np.testing.assert_allclose(ideal.value(weights).mean(axis=1), exact, atol=0.03)


def test_what_has_not_changed_comes_from_the_store(names, tmp_path, monkeypatch):
    written = {name: tables.path(name).read_bytes() for name in ("values", "likelihoods")}
    for work in ("_answer", "_likelihood"):
        monkeypatch.setattr(values, work, lambda *_, **__: pytest.fail("was made again"))
    kept = {}
    monkeypatch.setattr(tables, "write", lambda name, frame: kept.update({name: frame}))
    values.main(tiny_chain.PARAMS)
    for name, frame in kept.items():
        assert tables.read(name).equals(frame.select(tables.read(name).columns))
        assert tables.path(name).read_bytes() == written[name]
    assert kept.keys() == written.keys()


def test_a_plan_without_members_leaves_empty_tables(chain, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "read_json", lambda _: {"members": []})
    kept = {}
    monkeypatch.setattr(tables, "write", lambda name, frame: kept.update({name: frame}))
    values.main(tiny_chain.PARAMS)
    assert {name: len(frame) for name, frame in kept.items()} == {"values": 0, "likelihoods": 0}
