"""The report's numbers and pictures on small worlds, with two, three and four traits and one."""

import json
import re
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
from report_world import SECRET, USERS, make, params_with

from palette import report, tables
from palette.core.envelope import Planes
from palette.params import Evaluation
from palette.reporting import charts, colors, edits, edits_page, members, metrics, samples
from palette.reporting.run import read
from palette.reporting.theme import embedded
from palette.summary import FEW, METHODS, UTILITIES, headline

FILES = ["metrics.json", "portfolio.csv", "samples.md", "simplex.svg", "methods.svg", "index.html"]


@pytest.mark.parametrize("traits", [1, 2, 3, 4])
def test_every_number_of_traits_has_a_whole_report(traits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params = params_with(traits)
    make(params)
    report.main(params)
    first = {name: (tmp_path / "reports" / name).read_bytes() for name in FILES}
    report.main(params)
    assert first == {name: (tmp_path / "reports" / name).read_bytes() for name in FILES}
    for picture in ("simplex.svg", "methods.svg"):
        ElementTree.fromstring(first[picture])
    assert b"NaN" not in b"".join(first.values())
    table = pl.read_csv(first["portfolio.csv"])
    assert table["id"][0] == "base"
    assert table["region"].sum() == pytest.approx(1, abs=2e-3)
    assert table["users"].sum() == USERS
    assert set(table["mb"][1:]) <= {0.2501}


@pytest.mark.parametrize("traits", [2, 3, 4])
def test_parts_of_the_region_are_what_random_tastes_meet(traits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params = params_with(traits)
    make(params)
    run = read(params)
    parts = members.parts_of_region(run.portfolio["cells"], params.trait_names)
    tastes = np.random.default_rng(0).dirichlet(np.ones(traits), 40_000)
    met = np.bincount(run.planes.best(tastes), minlength=len(run.planes)) / len(tastes)
    for name, share in zip(run.planes.names, met, strict=True):
        assert parts.get(name, 0) == pytest.approx(share, abs=0.01)


def test_the_map_of_losses_never_exceeds_the_verdicts_worst_vertex(world):
    run = read(params_with(3))
    point = run.portfolio["certificate"]["epsilon_point"]
    losses = run.losses.at(run.region.lattice(30))
    assert losses.max() <= point + 1e-9
    assert losses.max() > point / 2
    worst = np.array([list(run.portfolio["worst"]["weights"].values())])
    row = run.planes.names.index(run.portfolio["worst"]["member"])
    assert run.losses.of(worst, np.array([row]))[0] == pytest.approx(point)
    assert run.losses.worst()[1] == pytest.approx(point)
    assert max(run.losses.by_member().values()) == pytest.approx(point)


@pytest.mark.parametrize("traits", [1, 2, 3, 4])
def test_what_was_planned_loses_most_at_a_vertex_and_nothing_that_is_ideal(
    traits, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    params = params_with(traits)
    make(params)
    run = read(params)
    where, most = run.planned.worst()
    losses = run.planned.at(run.region.lattice(12))
    assert run.region.contains(where) and losses.max() <= most + 1e-9
    trained = np.array([list(m["weights"].values()) for m in run.plan["members"]])
    certify = run.planned.ideals[0]
    bias = certify.upward(trained).mean(1) - certify.value(trained).mean(1)
    lost = run.planned.at(trained) * certify.upward(trained).mean(1)
    np.testing.assert_allclose(
        lost, bias, atol=1e-9
    )  # but for f*'s own error, an ideal loses nothing
    assert run.largest_loss >= max(most, run.losses.worst()[1])


def test_the_regrets_of_users_are_means_quantiles_and_the_worst(world):
    found = metrics.measure(read(params_with(3)))
    routed = tables.read("routes").with_columns(regret=np.linspace(0, 0.1, USERS))
    assert found["routes.regret.mean"] == pytest.approx(0.05)
    for name, q in (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("worst", 1)):
        own = np.quantile(routed["regret"], q)
        assert found[f"routes.regret.{name}"] == pytest.approx(own, rel=1e-3)
        assert found[f"routes.worst_regret.{name}"] == pytest.approx(2 * own, rel=1e-3)
    seen = np.linspace(0, 0.1, USERS)[5:]
    assert found["routes.seen.regret.mean"] == pytest.approx(seen.mean(), rel=1e-3)
    assert found["routes.seen.worst_regret.p90"] == pytest.approx(
        np.quantile(2 * seen, 0.9), rel=1e-3
    )
    assert found["regret.portfolio.mean"] == found["unseen.regret.portfolio.worst"] == 0.05
    assert found["routes.moved"] == 2
    additive = read(params_with(3)).portfolio["worst"]["additive"]
    assert found["certificate.regret"] == pytest.approx(additive, rel=1e-3)


def test_the_losses_under_other_utilities_are_of_all_users(world):
    found = metrics.measure(read(params_with(3)))
    for name in UTILITIES:
        loss = tables.read("utilities").filter(utility=name)["loss"].to_numpy()
        assert len(loss) == USERS
        assert found[f"utility.{name}.loss.mean"] == pytest.approx(loss.mean(), abs=1e-4)
        assert found[f"utility.{name}.loss.p95"] == pytest.approx(np.quantile(loss, 0.95), abs=1e-4)
        assert found[f"utility.{name}.loss.beyond"] == pytest.approx((loss > 0.2).mean(), abs=1e-4)


def test_the_plan_and_the_diversity_of_the_portfolio_are_among_the_metrics(world):
    run = read(params_with(3))
    found = metrics.measure(run)
    assert (found["plan.palm_bound"], found["plan.reached"]) == (1234, 0.028)
    assert dict(headline(found))["members"].endswith("needed; PALM's bound is 1,234)")
    parts = members.parts_of_region(run.portfolio["cells"], run.params.trait_names)
    entropy = -sum(part * np.log(part) for part in parts.values() if part > 0)
    assert found["portfolio.perplexity"] == pytest.approx(np.exp(entropy), rel=1e-3)
    assert 1 <= found["portfolio.perplexity"] <= found["portfolio.size"] + 1
    assert found["certificate.thin"] == metrics.rounded(run.portfolio["thin"])


def test_metrics_are_flat_sorted_complete_and_recomputed_by_hand(world):
    report.main(params_with(3))
    text = (world / "reports/metrics.json").read_text()
    found = json.loads(text)
    assert list(found) == sorted(found) and len(text.splitlines()) == len(found) + 2
    assert {type(value) for value in found.values()} <= {int, float, type(None)}
    for prefix in ("", "unseen.", "no_history."):
        for method in METHODS:
            for measure in ("objective", "reward", "kl", "share"):
                if method not in FEW or not prefix:
                    ends = ("", ".low", ".high")
                    assert {f"{prefix}{measure}.{method}{end}" for end in ends} <= set(found)
    seen = tables.read("evaluation").filter(group="seen")
    soup = seen.filter(method="soup")
    share = (soup["objective"] - soup["base"]).mean() / (soup["ideal"] - soup["base"]).mean()
    assert found["share.soup"] == pytest.approx(share, rel=1e-3)
    assert found["objective.soup"] == pytest.approx(soup["objective"].mean(), rel=1e-3)
    lead = seen.filter(method="portfolio")["objective"].mean() - soup["objective"].mean()
    assert found["lead.soup"] == pytest.approx(lead, rel=1e-3)
    assert found["share.soup.low"] < found["share.soup"] < found["share.soup.high"]
    assert [found[f"share.base{end}"] for end in ("", ".low", ".high")] == [0, 0, 0]
    assert [found[f"share.ideal{end}"] for end in ("", ".low", ".high")] == [1, 1, 1]
    assert found["share.per_user.low"] is None and found["users.per_user"] == 1
    assert [found[f"users.{group}"] for group in metrics.GROUPS] == [7, 3, 2]
    assert found["sandbox.gap.base"] > found["sandbox.gap.single"] > 0
    assert found["sandbox.skill.insight.exact"] == 0.5
    size = found["portfolio.size"]
    assert found["cost.mb"] == pytest.approx(0.2501 * size, rel=1e-3)
    assert found["cost.memory.mb"] == pytest.approx(0.24 * size)  # 250 × 240 float32
    assert found["cost.memory.mb.per_user"] == pytest.approx(0.24 * USERS)
    assert found["cost.ratio"] == pytest.approx(USERS / size, rel=1e-3)
    assert dict(headline(found))["members"].startswith(f"{found['portfolio.size']} adapters")


def test_no_sandbox_has_no_sandbox_numbers(world):
    run = read(params_with(3, base={"model": "somewhere/else", "revision": "abc"}))
    assert not run.skills
    assert not [key for key in metrics.measure(run) if key.startswith("sandbox")]


def test_intervals_cover_the_true_mean_as_often_as_they_say():
    settings, rng = Evaluation(confidence=0.9, bootstrap=300), np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        sample = np.tile(rng.normal(1.0, 0.5, (60, 1)), 6)
        _, _, low, high = next(iter(metrics.estimate(sample, settings)))
        covered += low <= 1.0 <= high
    assert 0.84 <= covered / 400 <= 0.95


def test_a_share_without_room_is_null_not_infinite():
    sample = np.array([[0.5, 0.6, 1.0, 0.1, 0.0, 0.0]] * 4)
    found = {name: own for name, *own in metrics.estimate(sample, Evaluation(bootstrap=100))}
    assert metrics.rounded(found["share"][0]) is None and found["share"][1:] == [None, None]
    assert metrics.rounded(float("inf")) is None
    assert metrics.rounded(0.123456) == 0.1235 and str(metrics.rounded(-1e-9)) == "0.0"


def test_samples_are_inert_markdown_with_every_policy(world):
    run = read(params_with(3))
    text = samples.markdown(run)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {6}
    shown = [row.split(" | ")[0][2:] for row in rows]
    assert shown == ["policy", "base", *(f"{m['id']}" for m in run.portfolio["members"])] * 3
    assert not re.search(r"(?<!\\)[<`\]]", "\n".join(rows)) and "https://" not in text
    assert SECRET not in text
    assert samples.plain("") == samples.plain(None) == "*(nothing)*"


def test_private_users_are_on_no_map(world):
    run = read(params_with(3))
    assert len(run.tastes) == tables.read("users")["public"].sum() < USERS


def test_colours_follow_the_traits_and_stay_readable_under_dark_text():
    assert len({colors.mixed(w) for w in [*np.eye(3), np.full(3, 1 / 3)]}) == 4
    for weights in np.random.default_rng(0).dirichlet(np.ones(4), 50):
        red, green, blue = bytes.fromhex(colors.mixed(weights)[1:])
        assert 0.3 * red + 0.59 * green + 0.11 * blue > 140


def test_embedding_keeps_pictures_apart_and_describes_them():
    picture = '<svg width="1"><g id="a"/><rect fill="url(#a)"/><text fill="#1c2127"/></svg>'
    told = embedded(picture, "map", 'a "map" <of> it')
    assert 'id="map-a"' in told and "url(#map-a)" in told and "currentColor" in told
    assert ElementTree.fromstring(told).attrib["aria-label"] == 'a "map" <of> it'


def test_perplexity_counts_the_members_that_matter():
    assert members.perplexity(np.array([5, 5, 5])) == pytest.approx(3)
    assert members.perplexity(np.array([9, 0])) == pytest.approx(1)
    assert members.perplexity(np.array([], dtype=int)) is None


def test_equal_planes_leave_the_map_whole():
    square = {"vertices": [{"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 1.0}], "member": "m0"}
    assert members.parts_of_region([square], ["a", "b"]) == {"m0": 1.0}
    assert isinstance(Planes(("base",), np.ones((1, 2)), np.zeros(1)).best(np.eye(2))[0], np.int64)


def test_an_edit_is_laid_beside_its_controls_for_the_same_users(world):
    found = metrics.measure(read(params_with(3)))
    for group, prefix in metrics.GROUPS.items():
        rows = tables.read("evaluation").filter(group=group)
        worth = {m: rows.filter(method=m).sort("user_id")["objective"].to_numpy() for m in METHODS}
        for control in ("base", "edit_random", "edit_mean", "edit_other", "chameleon", "retrieval"):
            key = f"{prefix}edit.over.{control}"
            gap = worth["edit"] - worth[control]
            assert found[key] == pytest.approx(gap.mean(), abs=2e-6, rel=1e-3)
            low, high = found[f"{key}.low"], found[f"{key}.high"]
            assert gap.min() - 1e-5 <= low <= found[key] <= high <= gap.max() + 1e-5
        gap = worth["portfolio_edit"] - worth["portfolio"]
        assert found[f"{prefix}portfolio_edit.over.portfolio"] == pytest.approx(
            gap.mean(), abs=2e-6, rel=1e-3
        )
    few = tables.read("evaluation").filter(method="dpo")
    own = tables.read("evaluation").filter(method="edit").join(few, on="user_id", suffix="_dpo")
    gap = own["objective"] - own["objective_dpo"]
    assert found["edit.over.dpo"] == pytest.approx(gap.item(), rel=1e-3)
    assert found["edit.over.dpo.low"] is None  # one user has no spread


def test_a_paired_interval_is_narrower_than_what_users_differ_by():
    rng = np.random.default_rng(0)
    users = [f"u{i}" for i in range(40)]
    level = rng.normal(0.5, 0.3, 40)  # users differ far more than the methods do
    rows = [
        {"method": method, "user_id": user, "objective": float(own)}
        for method, worth in (("base", level), ("edit", level + rng.normal(0.02, 0.01, 40)))
        for user, own in zip(users, worth, strict=True)
    ]
    found = edits.over(pl.DataFrame(rows).sample(fraction=1, shuffle=True, seed=1), Evaluation())
    assert set(found) == {f"edit.over.base{end}" for end in ("", ".low", ".high")}
    assert 0 < found["edit.over.base.low"] < 0.02 < found["edit.over.base.high"] < 0.03


def test_side_effects_are_means_over_users_and_null_where_nothing_was_measured(world):
    found = metrics.measure(read(params_with(3)))
    assert (found["broken.edit"], found["surprise.portfolio"]) == (0.25, 0.75)
    assert found["unseen.broken.base"] == 0.25 and found["broken.ideal"] is None


def test_what_nobody_cares_for_is_told_apart_by_the_judging_weights():
    judging = {"a": (0.9, 0.1), "b": (0.5, 0.5), "c": (0.05, 0.95)}
    rewards = {"base": [(0.2, 0.3)] * 3, "edit": [(0.9, 0.1), (0.0, 0.0), (0.5, 0.9)]}
    rows = [
        {"method": method, "user_id": user, "reward_x": x, "reward_y": y}
        | dict(zip(("w_x", "w_y"), judging[user], strict=True))
        for method, own in rewards.items()
        for user, (x, y) in zip("abc", own, strict=True)
    ]
    found = edits.uncared(pl.DataFrame(rows), ["x", "y"])
    assert found["uncared.edit"] == pytest.approx((-0.2 + 0.3) / 2)  # a's y and c's x; b has none
    assert found["uncared.base"] == 0
    alone = pl.DataFrame(rows).filter(user_id="b")
    assert edits.uncared(alone, ["x", "y"])["uncared.edit"] is None


def test_the_report_needs_no_true_weights_beside_what_the_evaluation_wrote(world):
    assert not tables.path("hidden").exists()
    found = metrics.measure(read(params_with(3)))
    assert found["uncared.edit"] is not None


def spans(prefix: str = "") -> dict[str, float | None]:
    """Paired differences, and their intervals, as the metrics have them."""
    ends = {
        "base": (0.01, 0.02), "prompt": (-0.01, 0.02), "retrieval": (-0.3, -0.1),
        "edit_mean": (None, None), "dpo": (0.3, 0.4),
    }  # fmt: skip
    return {
        f"{prefix}edit.over.{control}{end}": value
        for control, (low, high) in ends.items()
        for end, value in (("", 0.1), (".low", low), (".high", high))
    }


def test_the_edits_verdict_names_controls_by_their_intervals_for_seen_and_unseen_users():
    found = spans() | spans("unseen.") | {"users.seen": 12, "users.unseen": 10}
    found["unseen.edit.over.prompt.low"] = 0.001
    seen, unseen = edits_page.verdicts(found)
    name = charts.METHOD_NAMES
    assert (seen["who"], unseen["who"]) == ("seen users", "unseen users")
    assert seen["behind"] == [name["base"]] and unseen["behind"] == [name["base"], name["prompt"]]
    assert seen["ahead"] == unseen["ahead"] == [name["retrieval"]]
    assert seen["even"] == [name["edit_mean"], name["prompt"]]  # and DPO, of a few users, nowhere


def test_nine_users_are_too_few_for_words_and_intervals():
    found = spans() | spans("unseen.") | {"users.seen": 10, "users.unseen": 9}
    found |= {"users.no_history": 0, "users.per_user": 2}
    seen, unseen = edits_page.verdicts(found)
    assert seen["behind"] and unseen["behind"] is unseen["even"] is unseen["ahead"] is None
    assert len(edits_page.verdicts(found | {"users.unseen": 0})) == 1
    row = edits_page.beside("edit", "base", found)
    assert (row["seen"], row["unseen"]) == ((0.1, 0.01, 0.02), (0.1, None, None))
    assert row["no_history"] is None
    assert edits_page.beside("edit", "dpo", found)["seen"] == (0.1, None, None)


def test_one_method_that_fails_does_not_press_the_others_into_a_corner():
    found = {"users.per_user": 1}
    worth = {"base": 0.5, "retrieval": -4.0, "edit": 0.6, "ideal": 0.8}
    for method, own in worth.items():
        found |= {f"objective.{method}": own, f"objective.{method}.low": own - 0.01}
        found |= {f"objective.{method}.high": own + 0.01}
    rows = charts.measured(found)
    assert rows["value"].to_list() == list(worth.values())  # the numbers stay as they are
    assert charts.least(found, "objective", rows) == pytest.approx(0.2)
    mild = rows.filter(pl.col("value") > 0)
    assert charts.least(found, "objective", mild) == pytest.approx(0.49)
