"""A small world made of numbers alone, with any number of traits: what the report reads of a run."""

from dataclasses import fields

import numpy as np
import polars as pl
from safetensors.numpy import save_file

from palette import portfolio, tables, utilities
from palette.params import Params
from palette.reporting import charts, members, metrics, page
from palette.reporting.run import Run
from palette.routes import read_planes
from palette.summary import FEW, METHODS

EVIL = 'Ha | <script>alert(1)</script> {{ 7 * 7 }}\n# `x` "quoted" [link](https://example.org)'
SECRET = "only its author knows this"
SPLITS = {"select": 8, "certify": 8, "test": 4}
SAMPLES, USERS = 24, 12
NAMES = [f"private-{i}" if i % 2 else f"user-{i}" for i in range(USERS)]
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
    groups = ["no_history" if i < 2 else "unseen" if i < 5 else "seen" for i in range(USERS)]
    weights = rng.dirichlet(np.ones(d), USERS)
    public = pl.Series([name.startswith("user") for name in NAMES])
    frame = pl.DataFrame({"user_id": NAMES, "group": groups, "public": public})
    cohort = pl.col("group").replace("no_history", "seen")
    tables.write("users", frame.with_columns(cohort=cohort, rows=pl.lit(3)))
    own = pl.when("public").then(pl.lit(EVIL)).otherwise(pl.lit(SECRET))
    with_history = frame.slice(2)
    history = {"prompt": own, "response": own, "row": pl.lit(0)}
    history |= {"rating": pl.lit(0.75), "timestamp": pl.lit(None)}
    tables.write("histories", with_history.with_columns(**history))
    kinds = pl.DataFrame({"kind": ["personal", "neutral"]})
    insights = with_history.join(kinds, how="cross").with_columns(insight=own, items=pl.lit([0]))
    tables.write("insights", insights)
    tables.write("weights", pl.DataFrame([
        {"user_id": user, "trait": trait, "weight": w, "low": 0.0, "high": 1.0, "evidence": 1.0}
        for user, own in zip(NAMES, weights, strict=True)
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
        frames.append(rows.slice(USERS - 2, 1) if method in FEW else rows)
    tables.write("evaluation", pl.concat(frames))


def write_answers() -> None:
    """What every method answers, of private users too, whom a stage would leave out."""
    asked = tables.read("prompts").filter(split="test").sort("prompt_id").head(3)
    own = pl.when(pl.col("user_id").str.starts_with("user")).then("prompt_id")
    said = pl.format("{} answers {}", "method", own.otherwise(pl.lit(SECRET)))
    rows = tables.read("evaluation").filter(pl.col("method") != "ideal").select("method", "user_id")
    rows = rows.join(asked, how="cross").with_columns(response=said)
    routed = ["base", "single", "portfolio", "portfolio_robust", "portfolio_edit"]
    tables.write("answers", rows.filter(pl.col("method").is_in(routed)))
    tables.write("baseline_answers", rows.filter(~pl.col("method").is_in(routed)))


def write_edits(params: Params) -> None:
    """Two clusters, what was tuned for them and for the members, pairs, and what they reveal."""
    groups = [{"user_id": name, "cluster": f"c{i > 7:d}"} for i, name in enumerate(NAMES)]
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
    said = {"prompt": EVIL, "personal": SECRET, "neutral": SECRET, "user_id": NAMES[1]}
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
    write_answers()
    write_edits(params)


def page_of(run: Run, found: metrics.Metrics | None = None) -> str:
    """The page of a run, or of other metrics than its own; with no picture in it, for they take long."""
    blank = charts.Pictures(*["<svg/>"] * len(fields(charts.Pictures)))
    return page.render(run, found or metrics.measure(run), members.table(run), blank)
