"""The report on small worlds made of numbers alone, with two, three and four traits and one."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import get_args
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from palette import portfolio, report, tables, utilities
from palette.core.envelope import Planes
from palette.params import Evaluation, Params, Subspaces
from palette.reporting import charts, colors, edits, edits_page, members, metrics, page, samples
from palette.reporting.run import read
from palette.reporting.theme import embedded
from palette.routes import read_planes
from palette.summary import FEW, METHODS, UTILITIES, headline, strained, warning

EVIL = 'Ha | <script>alert(1)</script> {{ 7 * 7 }}\n# `x` "quoted" [link](https://example.org)'
SECRET = "only its author knows this"
FILES = [
    "metrics.json", "portfolio.csv", "routes.csv", "samples.json", "samples.md", "simplex.svg",
    "methods.svg", "index.html",
]  # fmt: skip
SPLITS = {"select": 8, "certify": 8, "test": 4}
SAMPLES, USERS = 24, 12
MEND = {"weights": [], "expected": None, "advice": "Nothing to mend."}


def params_with(traits: int, **sections) -> Params:
    names = ["brevity", "humor", "safety", "warmth"][:traits]
    sections.setdefault("portfolio", {"epsilon": 0.2, "bootstrap": 200})
    sections.setdefault("evaluation", {"bootstrap": 200})
    kinds = {name: {"kind": "humor"} for name in names}
    return Params.model_validate({"traits": kinds} | sections)


def answers(rng: np.random.Generator, count: int, d: int) -> np.ndarray:
    z = rng.normal(size=(count, d))
    return 1 / (1 + np.exp(-1.5 * (z - 0.8 * z.mean(axis=1, keepdims=True))))


def write_prompts_and_base(params: Params, rng: np.random.Generator) -> pl.DataFrame:
    rows = [(f"{split}{i}", f"How | {i}?", split) for split, n in SPLITS.items() for i in range(n)]
    prompts = pl.DataFrame(rows, schema=["prompt_id", "prompt", "split"], orient="row")
    prompts = prompts.with_columns(topic="prompt_id")
    tables.write("prompts", prompts)
    keys = prompts.select("prompt_id").join(
        pl.DataFrame({"sample": range(SAMPLES)}), how="cross", maintain_order="left_right"
    )
    told = {"response": pl.lit(EVIL), "tokens": pl.lit([1]), "logprob": pl.lit(-1.0)}
    tables.write("rollouts", keys.with_columns(**told))
    rewards = answers(rng, len(keys), len(params.traits))
    for column, trait in enumerate(params.traits):
        tables.write("rewards", keys.with_columns(pl.Series("reward", rewards[:, column])), trait)
    return prompts


def write_members(params: Params, rng: np.random.Generator, prompts: pl.DataFrame) -> None:
    """A plan of one adapter near each corner and one in the middle, and what they answered."""
    names, d = params.trait_names, len(params.traits)
    corners = [*(0.7 * np.eye(d) + 0.3 / d), np.full(d, 1 / d)] if d > 1 else [np.ones(1)]
    chosen, rows = [], []
    for place, weights in enumerate(corners):
        chosen.append({"id": f"m{place}", "weights": dict(zip(names, weights, strict=True))})
        folder = tables.DATA / "adapters" / f"m{place}"
        folder.mkdir(parents=True)
        weights_file = {"lora_A": np.zeros((250, 240), np.float32)}
        save_file(weights_file, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text("{}" + " " * 9_998)
        for prompt_id, split in prompts.select("prompt_id", "split").iter_rows():
            pool = answers(rng, 200, d)
            chance = np.exp(pool @ weights / params.objective.beta)
            chance /= chance.sum()
            for sample, picked in enumerate(rng.choice(200, size=8, p=chance)):
                key = {"member": f"m{place}", "prompt_id": prompt_id, "split": split}
                told = {"sample": sample, "response": EVIL}
                told |= {"logprob": np.log(chance[picked] * 200) - 2.0, "logprob_base": -2.0}
                rewards = zip(names, pool[picked], strict=True)
                rows.append(key | told | {f"reward_{name}": reward for name, reward in rewards})
    tables.write("values", pl.DataFrame(rows))
    certify = tables.read("rollouts").join(prompts.filter(split="certify"), on="prompt_id")
    likelihoods = certify.select("prompt_id", "sample").join(
        pl.DataFrame({"member": [own["id"] for own in chosen]}), how="cross"
    )
    noise = pl.Series("logprob", rng.normal(-1, 0.3, len(likelihoods)))
    tables.write("likelihoods", likelihoods.with_columns(noise))
    plan = {"members": chosen, "traits": names, "trainings": len(chosen), "lower_bound": 1}
    plan |= {"epsilon": 0.03, "palm_bound": 1234.5, "reached": 0.028, "looks": 1}
    tables.write_json(tables.DATA / "plan" / "plan.json", plan)


def write_users(params: Params, rng: np.random.Generator) -> None:
    """Users, half of them private, with routes and an evaluation that agree with the planes."""
    names, d = params.trait_names, len(params.traits)
    users = [f"user-{i}" for i in range(USERS)]
    groups = ["no_history" if i < 2 else "unseen" if i < 5 else "seen" for i in range(USERS)]
    weights = rng.dirichlet(np.ones(d), USERS)
    frame = pl.DataFrame({"user_id": users, "group": groups})
    tables.write("users", frame.with_columns(
        cohort=pl.col("group").replace("no_history", "seen"), rows=pl.lit(3),
        public=pl.Series(np.arange(USERS) % 2 == 0),
    ))  # fmt: skip
    history = {"prompt": pl.lit("?"), "response": pl.lit(SECRET), "row": pl.lit(0)}
    history |= {"rating": pl.lit(None), "timestamp": pl.lit(None)}
    tables.write("histories", frame.with_columns(**history))
    tables.write("weights", pl.DataFrame([
        {"user_id": user, "trait": trait, "weight": w, "low": 0.0, "high": 1.0, "evidence": 1.0}
        for user, own in zip(users, weights, strict=True)
        for trait, w in zip(names, own, strict=True)
    ]))  # fmt: skip
    planes = read_planes(tables.read_json(tables.DATA / "portfolio" / "portfolio.json"), params)
    member = [planes.names[k] for k in planes.best(weights)]
    told = {"edit": pl.lit("everyone"), "uncertain": pl.lit(False)}
    told |= {"strength": pl.lit(0.5), "layers": pl.lit("all")}
    regret = np.linspace(0, 0.1, USERS)
    told |= {"regret": pl.Series(regret), "worst_regret": pl.Series(2 * regret)}
    told |= {"moved": pl.Series(np.arange(USERS) < 2), "robust": pl.Series(member)}
    tables.write("routes", frame.with_columns(member=pl.Series(member), **told))
    tables.write("utilities", utilities.compare(frame, weights, member, planes))
    base, worth = planes.worth(weights)[:, 0], planes.worth(weights).max(axis=1)
    objective = {method: base + rng.normal(0, 0.02, USERS) for method in METHODS}
    objective |= {"base": base, "portfolio": worth, "ideal": worth + 0.05}
    frames = []
    for method, own in objective.items():
        numbers = {"objective": own, "reward": own + 0.1, "base": base, "ideal": worth + 0.05}
        columns = {name: pl.Series(values) for name, values in numbers.items()}
        columns |= {f"reward_{name}": pl.lit(0.5) for name in names}
        columns |= {f"w_{name}": pl.Series(weights[:, i]) for i, name in enumerate(names)}
        broken = pl.lit(None if method == "ideal" else 0.25, pl.Float64)
        columns |= {"surprise": 3 * broken, "broken": broken}
        rows = frame.with_columns(method=pl.lit(method), kl=pl.lit(1.0), **columns)
        frames.append(rows.tail(1) if method in FEW else rows)
    tables.write("evaluation", pl.concat(frames))


def write_edits(params: Params) -> None:
    """Two clusters, what was tuned for them and for the members, pairs, and what they reveal."""
    groups = [{"user_id": f"user-{i}", "cluster": f"c{i > 7:d}"} for i in range(USERS)]
    tables.write("groups", pl.DataFrame(groups).with_columns(group="cluster"))
    numbers = {"objective": 0.4, "kl": 0.1, "broken": 0.0}
    tried = [("all", 0.0), ("all", 0.5), ("last", 1.0)]
    for table, units in {
        "trials": [
            {"method": m, "cluster": c} for m in ("edit", "edit_mean") for c in ("c0", "c1")
        ],
        "member_trials": [{"member": "m0"}],
    }.items():
        tables.write(table, pl.DataFrame([
            unit | numbers | {"layers": layers, "strength": strength, "chosen": place == own % 3}
            for own, unit in enumerate(units, start=1)
            for place, (layers, strength) in enumerate(tried)
        ]))  # fmt: skip
    tables.write("revealed", pl.DataFrame([
        {"source": source, "trait": trait, "r2": r2, "users": 9}
        for source, r2 in (("pairs", -0.25), ("history", 0.875)) for trait in params.trait_names
    ]))  # fmt: skip
    said = {"prompt": EVIL, "personal": SECRET, "neutral": SECRET, "user_id": "user-1"}
    tables.write("pairs", pl.DataFrame([said | {"pair": pair} for pair in range(5)]))
    tables.write_json(tables.DATA / "subspaces" / "layers.json", {"method": "gradient"})
    reasons = ["echo", "empty", "echo"]
    tables.write("dropped", pl.DataFrame([said | {"reason": reason} for reason in reasons]))


def change(name: str, **keys) -> None:
    """Keys of portfolio.json or plan.json, as another run might have them."""
    file = tables.DATA / name / f"{name}.json"
    tables.write_json(file, tables.read_json(file) | keys)


def make(params: Params) -> None:
    rng = np.random.default_rng(3)
    write_members(params, rng, write_prompts_and_base(params, rng))
    portfolio.main(params)
    change("portfolio", mend=MEND)
    tables.write_json(tables.DATA / "sandbox" / "skills.json", {"insight.exact": 0.5, "new": 0.9})
    write_users(params, rng)
    write_edits(params)


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(params_with(3))
    return tmp_path


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


def test_floors_shrink_the_map_to_what_is_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params = params_with(3, weights={"floor": {"safety": 0.2}})
    make(params)
    run = read(params)
    assert sum(members.table(run)["region"]) == pytest.approx(1)
    assert "safety 20.0%" in page.render(run, metrics.measure(run), members.table(run),
                                         charts.draw(run, metrics.measure(run)))  # fmt: skip


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


def test_a_warning_names_the_utilities_that_lose_more_than_asked_and_no_others(world):
    run = read(params_with(3))
    quiet = metrics.measure(run) | {f"utility.{name}.loss.mean": 0.19 for name in UTILITIES}
    loud = quiet | {"utility.worst.loss.mean": 0.21, "utility.p0.loss.mean": 0.2}
    assert warning(quiet) is None and "warning" not in dict(headline(quiet))
    said = dict(headline(loud))["warning"]
    assert "the worst trait alone (21.0%)" in said and "20.0% asked" in said
    assert "geometric" not in said and strained(loud) == ["worst"]
    pictures = charts.draw(run, loud)
    assert "WARNING" in page.render(run, loud, members.table(run), pictures)
    assert "WARNING" not in page.render(run, quiet, members.table(run), pictures)


def test_a_verdict_that_fails_shows_what_would_mend_it(world):
    run = read(params_with(3))
    found, policies = metrics.measure(run), members.table(run)
    pictures = charts.draw(run, found)
    mend = {"weights": [{"brevity": 0.62, "humor": 0.05, "safety": 0.33}], "expected": 0.19}
    mend |= {"advice": "One <more> member."}

    def shown(**keys) -> str:
        changed = replace(run, portfolio=run.portfolio | keys)
        return page.render(changed, found, policies, pictures)

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
    assert "With 97.5% confidence" in page.answer(run, found).verdict
    assert dict(headline(found))["ε certified"].endswith(", look 2 at certify, confidence 0.975")
    text = page.render(run, found, members.table(run), charts.draw(run, found))
    assert "this is look 2" in text and "with 97.5% confidence" in text


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


def test_the_page_is_whole_offline_and_treats_model_text_as_data(world):
    report.main(params_with(3))
    text = (world / "reports/index.html").read_text()
    assert len(text) < 1_500_000
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "{{ 7 * 7 }}" in text
    assert SECRET not in text and "user-" not in text

    class Reader(HTMLParser):
        void = frozenset({"meta", "br"})

        def __init__(self):
            super().__init__()
            self.open, self.ids, self.tags = [], [], set()

        def handle_starttag(self, tag, attrs):
            self.tags.add(tag)
            self.ids += [value for name, value in attrs if name == "id"]
            own = {name: value for name, value in attrs}
            assert not {"src", "srcset", "onload", "onclick"} & set(own)
            assert (own.get("href") or "#").startswith("#")
            if tag not in self.void:
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    reader = Reader()
    reader.feed(text)
    assert not reader.open and not reader.tags & {"script", "link", "img", "iframe", "object"}
    assert len(reader.ids) == len(set(reader.ids))
    style = text[text.index("<style>") : text.index("</style>")]
    assert "@import" not in style and "url(" not in style
    outside = re.sub(r'xmlns(:\w+)?="[^"]+"', "", text).replace("https://example.org", "")
    assert "http" not in outside.replace("http-equiv", "")
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(reader.ids)


def test_the_answer_says_what_was_asked_and_what_was_reached(world):
    run = read(params_with(3))
    found = metrics.measure(run) | {"portfolio.size": 4, "users.total": 1200}
    told = {"certificate.epsilon.upper": 0.13, "certificate.epsilon.requested": 0.05}
    failed = page.answer(run, found | told | {"certificate.passed": 0})
    assert failed.headline == "4 adapters and the base serve all 1,200 users." and not failed.passed
    assert "more than 13.0%" in failed.verdict and "not enough: at most 5.0%" in failed.verdict
    passed = page.answer(run, found | told | {"certificate.passed": 1})
    assert passed.passed and "not enough" not in passed.verdict
    unknown = page.answer(run, found | {"certificate.epsilon.upper": None})
    assert "No loss can be guaranteed" in unknown.verdict
    alone = page.answer(run, found | {"portfolio.size": 0})
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
    rival = page.rival(found)
    assert rival["name"] == charts.METHOD_NAMES["soup"] and not rival["told_apart"]
    sure = found | {"lead.soup.low": 0.005}
    assert page.rival(sure)["told_apart"]
    assert not page.rival(sure | {"users.seen": 9})["told_apart"]
    assert page.rival({}) is None


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


def test_samples_for_programs_say_the_same(world):
    run = read(params_with(3))
    told = samples.as_json(run)
    assert [prompt["prompt"] for prompt in told] == ["How | 0?", "How | 1?", "How | 2?"]
    answers = [own for prompt in told for own in prompt["answers"]]
    assert [own["member"] for own in answers] == run.answers["member"].to_list()
    assert {own["answer"] for own in answers} == {EVIL}
    for trait in run.params.trait_names:
        rewards = run.answers[f"reward_{trait}"].to_list()
        assert [own["rewards"][trait] for own in answers] == pytest.approx(rewards, rel=1e-3)


def test_the_counts_of_routes_are_by_group_and_name_nobody(world):
    report.main(params_with(3))
    text = (world / "reports/routes.csv").read_text()
    counts = pl.read_csv(text.encode())
    assert counts.columns == ["group", "member", "users"] and "user-" not in text
    groups = dict(counts.group_by("group").agg(pl.col("users").sum()).rows())
    assert groups == {"seen": 7, "unseen": 3, "no_history": 2}
    seen = [f"user-{i}" for i in range(5, USERS)]
    routed = tables.read("routes").filter(pl.col("user_id").is_in(seen))["member"]
    own = counts.filter(group="seen").select("member", "users")
    assert dict(own.rows()) == dict(routed.value_counts().rows())


def test_the_rewards_of_what_is_served_have_intervals(world):
    run = read(params_with(3))
    spread = pl.col("user_id").str.slice(5).cast(pl.Float64) / 100
    rows = run.evaluation.with_columns(reward_humor=spread)
    found = metrics.measure(replace(run, evaluation=rows))
    own = np.arange(5, USERS) / 100  # seen users
    assert found["trait.humor.portfolio"] == pytest.approx(own.mean(), rel=1e-3)
    low, high = (found[f"trait.humor.portfolio.{end}"] for end in ("low", "high"))
    assert own.min() < low < own.mean() < high < own.max()
    assert [found[f"trait.safety.base{end}"] for end in ("", ".low", ".high")] == [0.5] * 3
    assert "trait.humor.soup" not in found


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
    text = page.render(run, found, members.table(run), charts.draw(run, found))
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
    text = page.render(run, found, members.table(run), charts.draw(run, found))
    assert text.count(said) == 1
    assert set(edits_page.DIRECTIONS) == set(get_args(Subspaces.model_fields["method"].annotation))


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
    text = page.render(bare, found, members.table(bare), charts.draw(bare, found))
    assert 'id="edits"' not in text and 'id="methods"' in text


def test_every_method_has_a_name_and_a_line_that_tells_what_it_is(world):
    assert list(METHODS) == list(charts.METHOD_NAMES)
    run = read(params_with(3))
    found = metrics.measure(run)
    text = page.render(run, found, members.table(run), charts.draw(run, found))
    for told in METHODS.values():
        assert told.replace("'", "&#39;") in text


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
