"""The result of a run in a few lines: the verdict and what each method is worth, from metrics."""

from dataclasses import dataclass

METHODS = (
    "base",
    "prompt",
    "edit",
    "edit_random",
    "edit_other",
    "single",
    "soup",
    "per_user",
    "portfolio",
    "portfolio_edit",
    "ideal",
)
"""In the order of a reader's questions: without training, with it, what we hand over, the limit."""


@dataclass(frozen=True)
class Method:
    """A line of the methods table: mean J and share with intervals, as text."""

    name: str
    objective: str
    share: str


def methods(metrics: dict[str, float]) -> list[Method]:
    """The methods that a run has measured."""
    return [
        Method(name, _interval(metrics, f"objective.{name}"), _interval(metrics, f"share.{name}"))
        for name in METHODS
        if f"objective.{name}" in metrics
    ]


def headline(metrics: dict[str, float]) -> list[tuple[str, str]]:
    """(label, value): how many members, and the certificate."""
    passed = metrics["certificate.passed"] == 1
    upper, point = metrics["certificate.epsilon.upper"], metrics["certificate.epsilon.point"]
    return [
        (
            "members",
            f"{metrics['portfolio.size']:.0f} adapters beside the base "
            f"({metrics['plan.trainings']:.0f} planned, at least "
            f"{metrics['plan.lower_bound']:.0f} needed)",
        ),
        (
            "ε asked",
            f"{metrics['certificate.epsilon.requested']:g} "
            f"(δ {metrics['certificate.delta.requested']:g})",
        ),
        (
            "ε certified",
            f"{_bound(upper)} (point estimate {_bound(point)}): {'PASS' if passed else 'FAIL'}",
        ),
    ]


def markdown(metrics: dict[str, float]) -> str:
    """Headline and methods as Markdown, for places that show it."""
    head = [f"**{label}**: {value}  " for label, value in headline(metrics)]
    table = [
        "| method | objective J | share of what is possible |",
        "|---|---|---|",
        *(f"| {line.name} | {line.objective} | {line.share} |" for line in methods(metrics)),
    ]
    return "\n".join([*head, "", *table])


def _bound(epsilon: float | None) -> str:
    """null in the metrics is an ε that no data of this run bound."""
    return "no bound" if epsilon is None else f"{epsilon:g}"


def _interval(metrics: dict[str, float], key: str) -> str:
    if metrics.get(key) is None:
        return ""
    low, high = metrics.get(f"{key}.low"), metrics.get(f"{key}.high")
    value = f"{metrics[key]:.3f}"
    return value if low is None or high is None else f"{value} ({low:.3f} to {high:.3f})"
