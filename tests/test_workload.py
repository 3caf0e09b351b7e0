"""What is reckoned before a run, beside what the tiny chain really asked of its base."""

import json
from dataclasses import replace

import pytest
from tiny_chain import OF_MEMBERS, PARAMS, base

from palette import tables, workload
from palette.commands import forecast
from palette.params import Trait

EXACT = {"insights", "rollouts", "tuning base", "family", "values"}
"""Stages whose answers follow from what is known before them; of the others the most is reckoned."""
KNOWN = EXACT | {"subspaces"}


@pytest.fixture
def facts(chain):
    return forecast.gather(PARAMS, base().tokenizer)[0]


@pytest.fixture
def counts(chain) -> dict[str, dict[str, int]]:
    found = json.loads((chain / "counts.json").read_text())
    return {name: dict.fromkeys(forecast.COUNTS, 0) | own for name, own in found.items()}


def test_every_stage_asks_for_what_was_reckoned(facts, counts):
    expected = workload.stages(PARAMS, facts)
    used = {name for name, own in counts.items() if any(own.values())}
    assert used - {"adapters"} <= set(expected)  # the tiny chain also trains the members of a plan
    for name, own in expected.items():
        really = counts[name]
        if name in EXACT:
            assert really["answers"] == own.answers, name
        for kind in forecast.COUNTS:
            # Answers end before they are cut off, prompts and half of an answer are never scored.
            least = 0.5 * getattr(own, kind) if name in KNOWN else 0
            assert least <= really[kind] <= getattr(own, kind), (name, kind)


def test_a_training_for_each_member_asks_for_what_was_reckoned(facts, counts):
    own = workload.stages(OF_MEMBERS, facts)["adapters"]
    trained = counts["adapters"]["trained"]
    assert "family" not in workload.stages(OF_MEMBERS, facts)
    assert 0.8 * own.trained <= trained <= own.trained
    assert own.answers == own.generated == 0


def test_tables_hold_as_many_rows(facts):
    expected = workload.stages(PARAMS, facts)
    assert len(tables.read("rollouts")) == expected["rollouts"].answers
    assert len(tables.read("values")) == expected["values"].answers
    assert tables.read("values")["member"].n_unique() == facts.members
    insights, contrasts = tables.read("insights"), tables.read("contrasts")
    tried = 2 * facts.told * PARAMS.insights.candidates
    assert len(insights) + len(contrasts) + tried == expected["insights"].answers


def test_more_users_cost_what_hangs_on_users_alone(facts):
    few, many = (workload.stages(PARAMS, facts.of(times * facts.users)) for times in (10, 1000))
    for name in ("rollouts", "family", "values", "tuning base"):
        assert few[name] == many[name]
    for name in ("insights", "evaluation"):
        assert many[name].generated == pytest.approx(100 * few[name].generated)
    grouped = PARAMS.model_copy(
        update={"subspaces": PARAMS.subspaces.model_copy(update={"groups": "clusters"})}
    )
    few, many = (workload.stages(grouped, facts.of(times * facts.users)) for times in (100, 1000))
    assert few["evaluation"] == many["evaluation"]


def test_users_whom_the_base_is_not_asked_about_cost_it_no_insight(facts):
    all_of_them = replace(facts.of(7000), most=None)
    some = replace(all_of_them, most=facts.told)
    whole, part = workload.stages(PARAMS, all_of_them), workload.stages(PARAMS, some)
    assert part["insights"].answers == workload.stages(PARAMS, facts)["insights"].answers
    assert whole["insights"].answers == 1000 * part["insights"].answers
    assert part["subspaces"].read < whole["subspaces"].read
    assert part["values"] == whole["values"]


def test_each_of_these_costs_what_it_should(facts):
    """The parts that the tiny chain has none of."""
    adapters, judged = PARAMS.adapters, dict(PARAMS.traits)
    longer = adapters.model_copy(update={"steps": 40, "rloo_steps": 30})
    plain = workload.training(longer, 2.0, 3.0, 3)
    assert plain.trained == 5 * (42 * longer.batch + 32 * longer.rloo_batch)  # two are a rehearsal
    ended = workload.training(longer.model_copy(update={"share": 0.9}), 2.0, 3.0, 3)
    assert ended.answers - plain.answers == 2 * 10 * 96 * 4  # phases, looks, answers, places
    judged["polite"] = Trait.model_validate({"kind": "rubric", "sentence": "it is polite"})
    rubric = workload.stages(PARAMS.model_copy(update={"traits": judged}), facts)
    assert rubric["rewards"].read == 2 * 5500 * (facts.question + 3 + workload.RUBRIC)
    assert rubric["values"].read > workload.stages(PARAMS, facts)["values"].read


def test_what_the_numbers_are_copies_of_is_still_so():
    from palette import insights, passes
    from palette.lm import generation, reaching

    assert (workload.ROWS, workload.USERS_AT_ONCE) == (generation.ROWS, insights.USERS_AT_ONCE)
    assert (passes.LOOKS, passes.LOOKED_AT) == (reaching.LOOKS, reaching.ANSWERS)
