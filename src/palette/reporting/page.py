"""One page that answers the question within a minute, works offline and treats all text as data."""

from dataclasses import dataclass
from typing import Any

import polars as pl

from palette.reporting import colors, edits_page
from palette.reporting.charts import METHOD_NAMES, Pictures, name_of
from palette.reporting.intervals import LEAST
from palette.reporting.members import numbers, shades
from palette.reporting.metrics import GROUPS, Metrics
from palette.reporting.run import Run
from palette.reporting.theme import embedded
from palette.reporting.users import QUANTILES
from palette.summary import METHODS, UTILITIES, strained, warning

SKILL_NAMES = {
    "insight.exact": "a personal insight names what the history shows, on every trait",
    "neutral.exact": "a neutral insight names no taste",
    "judge.exact": "a yes or no on whether an answer has a trait is right",
    "answer.on_topic": "a plain answer stays with the question",
    "manner.exact": "an answer follows an insight on every trait at once",
}
WEAK = 0.75  # a skill below it is named weak
RIVALS = (
    "base", "prompt", "retrieval", "edit", "edit_other", "edit_mean", "edit_random", "chameleon",
    "chameleon_tuned", "single", "soup", "family",
)  # fmt: skip


def render(run: Run, metrics: Metrics, policies: pl.DataFrame, pictures: Pictures) -> str:
    """The HTML of the page. Texts of models and users are escaped; only own pictures are not."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("palette", "reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "decimals": decimals, "interval": interval}
    drawn = {
        name: Markup(embedded(getattr(pictures, name), name, told))
        for name, told in descriptions(run).items()
    }
    return environment.get_template("page.html.jinja").render(
        m=metrics,
        run=run,
        answer=answer(run, metrics),
        traits=list(
            zip(run.params.trait_names, colors.of_traits(len(run.params.trained)), strict=True)
        ),
        pictures=drawn,
        members=portraits(run, policies),
        methods=compared(metrics),
        confidence=confidence(metrics),
        rival=rival(metrics),
        regrets=regrets(run, metrics),
        utilities=utilities(metrics),
        warning=warning(metrics),
        mend=mended(run),
        prompts=conversations(run),
        skills=skills(run),
        edits=edits_page.section(run, metrics),
    )


@dataclass(frozen=True)
class Answer:
    headline: str
    verdict: str
    passed: bool


def answer(run: Run, metrics: Metrics) -> Answer:
    """The question's answer in a headline, and the verdict against what was asked."""
    size, users = metrics["portfolio.size"], metrics["users.total"]
    who = f"{size} adapter{'s' if size > 1 else ''} and the base" if size else "The base alone"
    headline = f"{who} serve{'' if size else 's'} all {users:,} users."
    asked = percent(metrics["certificate.epsilon.requested"])
    delta = metrics["certificate.delta.requested"]
    beyond = f", beyond an allowance of {delta:g}" if delta else ""
    sure = f"With {confidence(metrics)} confidence"
    upper = metrics["certificate.epsilon.upper"]
    passed = metrics["certificate.passed"] == 1
    if upper is None:
        verdict = f"No loss can be guaranteed from these prompts; at most {asked} was asked for."
    else:
        loss = f"{sure}, no taste loses more than {percent(upper)} of its ideal value{beyond}"
        ending = f"at most {asked} was asked for."
        verdict = f"{loss}; {ending}" if passed else f"{loss}. That is not enough: {ending}"
    return Answer(headline, verdict, passed)


def descriptions(run: Run) -> dict[str, str]:
    """What each picture shows, for those who do not see it."""
    worst = run.portfolio["worst"]
    place = ", ".join(f"{trait} {percent(w)}" for trait, w in worst["weights"].items())
    before = run.planned.worst()[1]
    return {
        "members": "Map of all tastes, cut into the parts that each member serves. The table of "
        "members below has the same in numbers.",
        "planned": "Loss of every taste against its ideal value as planned, before training, with "
        f"ideal adapters for the planned weights. The largest is {percent(before)}.",
        "losses": f"Loss of every taste against its ideal value. The largest, "
        f"{percent(worst['multiplicative'])}, is at {place}, served by {worst['member']}.",
        "methods": "Objective of every method with its interval, for seen and unseen users and "
        "those with no history. The table beside it has the numbers.",
        "edits": "Share of the possible gain of the edit and of what it must beat, with intervals, "
        "for the same groups of users. The table of methods has the numbers.",
    }


def portraits(run: Run, policies: pl.DataFrame) -> list[dict[str, Any]]:
    """Rows of the table of members; `weights` and `values` in the order of the traits."""
    number, color, traits = numbers(run), shades(run), run.params.trait_names
    return [
        row
        | {
            "number": number[row["id"]],
            "color": color[row["id"]],
            "weights": [row[f"weight_{trait}"] for trait in traits],
            "values": [row[f"value_{trait}"] for trait in traits],
        }
        for row in policies.iter_rows(named=True)
    ]


def compared(metrics: Metrics) -> list[dict[str, Any]]:
    """Rows of the table of methods: (value, low, high) of each measure, or None."""
    measures = {"objective": "objective", "kl": "kl"}
    measures |= {group: f"{prefix}share" for group, prefix in GROUPS.items()}
    return [
        {"id": method, "name": name_of(method, metrics), "told": told}
        | {column: spread(metrics, f"{key}.{method}") for column, key in measures.items()}
        for method, told in METHODS.items()
        if f"objective.{method}" in metrics
    ]


def rival(metrics: Metrics) -> dict[str, Any] | None:
    """The best of the methods that could replace the portfolio, and how far it is behind."""
    measured = [method for method in RIVALS if metrics.get(f"lead.{method}") is not None]
    if not measured:
        return None
    best = min(measured, key=lambda method: metrics[f"lead.{method}"])
    lead = spread(metrics, f"lead.{best}")
    enough = lead[1] is not None and metrics["users.seen"] >= LEAST
    told = enough and (lead[1] > 0 or lead[2] < 0)
    return {"name": METHOD_NAMES[best], "lead": lead, "told_apart": told}


def regrets(run: Run, metrics: Metrics) -> list[tuple[str, list[float | None]]]:
    """Rows of the table of regrets: whose, and mean, quantiles and worst, or None."""
    judged = "at the true taste" if run.params.users.file is None else "at the estimate"
    rows = {
        "all users, at the estimate": "routes.regret",
        "all users, worst in the interval": "routes.worst_regret",
        "seen users, at the estimate": "routes.seen.regret",
        "seen users, worst in the interval": "routes.seen.worst_regret",
        f"seen users, {judged}, on test": "regret.portfolio",
    }
    steps = ("mean", *QUANTILES, "worst")
    return [(name, [metrics[f"{key}.{step}"] for step in steps]) for name, key in rows.items()]


def utilities(metrics: Metrics) -> list[dict[str, Any]]:
    """Rows of the table of utilities; `strained` where the loss is more than asked."""
    beyond = strained(metrics)
    return [
        {"name": name, "strained": key in beyond}
        | {step: metrics[f"utility.{key}.loss.{step}"] for step in ("mean", "p95", "beyond")}
        for key, name in UTILITIES.items()
    ]


def mended(run: Run) -> dict[str, Any] | None:
    """What would mend a verdict that fails: weights in the order of the traits, and advice."""
    if run.portfolio["passed"]:
        return None
    mend, traits = run.portfolio["mend"], run.params.trait_names
    weights = [[weights[trait] for trait in traits] for weights in mend["weights"]]
    return mend | {"weights": weights}


def conversations(run: Run) -> list[dict[str, Any]]:
    """The shown prompts, each with one answer of every policy."""
    number, color, traits = numbers(run), shades(run), run.params.trait_names
    shown = []
    for rows in run.answers.partition_by("prompt_id", maintain_order=True):
        answers = [
            {
                "member": row["member"],
                "number": number[row["member"]],
                "color": color[row["member"]],
                "text": row["response"],
                "rewards": [row[f"reward_{trait}"] for trait in traits],
            }
            for row in rows.iter_rows(named=True)
        ]
        shown.append({"prompt": rows["prompt"][0], "answers": answers})
    return shown


def skills(run: Run) -> list[dict[str, Any]]:
    """What the sandbox's model can do, worst last."""
    rows = [
        {"name": SKILL_NAMES.get(key, _manner(key)), "value": value, "weak": value < WEAK}
        for key, value in run.skills.items()
    ]
    return sorted(rows, key=lambda row: (-row["value"], row["name"]))


def _manner(key: str) -> str:
    kind, _, trait = key.partition(".")
    return f"an answer follows an insight on {trait}" if kind == "manner" else key


def spread(metrics: Metrics, key: str) -> tuple[float, float | None, float | None] | None:
    if metrics.get(key) is None:
        return None
    return metrics[key], metrics[f"{key}.low"], metrics[f"{key}.high"]


def percent(number: float | None, places: int = 1) -> str:
    """12.3%, with a real minus sign; a dash for what is absent."""
    return "–" if number is None else f"{decimals(100 * number, places)}%"


def confidence(metrics: Metrics) -> str:
    """Every digit: 97.5% must not become 98%."""
    return f"{100 * metrics['certificate.confidence']:.6g}%"


def decimals(number: float | None, places: int = 2) -> str:
    return "–" if number is None else f"{number:z.{places}f}".replace("-", "−")


def interval(ends: tuple[float | None, ...], as_percent: bool = False) -> str:
    """`low to high`; nothing where there is no interval, or only a point."""
    if ends[1] is None or ends[2] is None:
        return ""
    low, high = (percent(end, 0) if as_percent else decimals(end, 3) for end in ends[1:])
    return f"{low} to {high}" if low != high else ""
