"""The result of a run in a few lines: the verdict and what each method is worth, from metrics."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

METHODS = {
    "base": "the model as it is, for everyone",
    "prompt": "the user's insight, written by the base from the history, before the question",
    "retrieval": "the row of the user's history whose question is most alike, before the question",
    "edit": "the user's edit of hidden states, as strong and on such layers as was tuned",
    "edit_other": "control: the tuned edit of a user of another group",
    "edit_mean": "control: along the base's mean activation, as long as the edit, tuned alike",
    "edit_random": "control: along a random direction, as long as the edit, tuned alike",
    "chameleon": "the rule of CHAMELEON's paper: one edit for all, its layers, strength 1",
    "chameleon_tuned": "the paper's directions, with strength and layers tuned as the edit's are",
    "single": "the one policy that is best for all users together",
    "soup": "one adapter per trait, mixed by the user's estimated weights",
    "family": "the family itself: an adapter for every user, at their estimated weights",
    "sft": "an adapter per user, trained on the user's self-generated personal answers",
    "dpo": "an adapter per user, trained to prefer personal answers to neutral ones",
    "per_user": "an adapter per user, trained as members are, at the user's estimated weights",
    "portfolio": "the member that the user is routed to",
    "portfolio_robust": "the member that loses least at worst within the user's interval",
    "portfolio_edit": "the member that the user is routed to, with the user's edit on top",
    "ideal": "the best that any policy can reach, known without training it",
}
"""What each is; in the order of a reader's questions: without training, with it, what we hand over,
the limit."""
FEW = ("sft", "dpo", "per_user")
"""Methods that are tried on a few users alone."""


UTILITIES = {
    "linear": "the weighted mean itself",
    "p0.5": "a power mean of p = 0.5",
    "p0": "a geometric mean",
    "p-1": "a harmonic mean",
    "worst": "the worst trait alone",
}
"""What a user's utility may be, from the linear model that routes to what is farthest from it."""


@dataclass(frozen=True)
class Method:
    """A line of the methods table: mean J and share with intervals, as text."""

    name: str
    objective: str
    share: str


def methods(metrics: dict[str, float]) -> list[Method]:
    """The methods that a run has measured."""
    return [
        Method(name, interval(metrics, f"objective.{name}"), interval(metrics, f"share.{name}"))
        for name in METHODS
        if f"objective.{name}" in metrics
    ]


def headline(metrics: dict[str, float]) -> list[tuple[str, str]]:
    """(label, value): how many members, the certificate, and what the users who exist lose."""
    passed = metrics["certificate.passed"] == 1
    upper, point = metrics["certificate.epsilon.upper"], metrics["certificate.epsilon.point"]
    lines = [
        (
            "members",
            f"{metrics['portfolio.size']:.0f} adapters beside the base "
            f"({metrics['plan.trainings']:.0f} planned, at least "
            f"{metrics['plan.lower_bound']:.0f} needed{_palm(metrics)})",
        ),
        (
            "ε asked",
            f"{metrics['certificate.epsilon.requested']:g} "
            f"(δ {metrics['certificate.delta.requested']:g})",
        ),
        (
            "ε certified",
            f"{_bound(upper)} (point estimate {_bound(point)}): {'PASS' if passed else 'FAIL'}"
            + _look(metrics),
        ),
    ]
    if metrics.get("adapters.cut_short"):
        lines.append(("cut short", _cut_short(metrics)))
    if metrics.get("adapters.reached"):
        lines.append(("reached", _reached(metrics)))
    if metrics.get("routes.regret.mean") is not None:
        lines.append(("users", _users(metrics)))
    lines += [(f"judge {name}", _judge(metrics, name)) for name in judges(metrics)]
    if said := warning(metrics):
        lines.append(("warning", said))
    return lines


def judges(metrics: dict[str, float]) -> list[str]:
    """The traits that took no part in training, and judged what came of it."""
    ends = (key.split(".") for key in metrics)
    return [parts[1] for parts in ends if parts[0] == "judge" and parts[2:] == ["base"]]


def strained(metrics: dict[str, float]) -> list[str]:
    """The utilities under which the routed members lose more than the ε asked, on average.

    The loss is a part of what the portfolio's best member would be worth to the user. That of the
    linear model itself comes of weights that are not known exactly.
    """
    asked = metrics["certificate.epsilon.requested"]
    return [name for name in UTILITIES if (metrics.get(f"utility.{name}.loss.mean") or 0.0) > asked]


def warning(metrics: dict[str, float]) -> str | None:
    """What to beware of where utilities are not linear; None where routing does well under all."""
    if not (names := strained(metrics)):
        return None
    lost = [f"{UTILITIES[name]} ({metrics[f'utility.{name}.loss.mean']:.1%})" for name in names]
    return (
        "routing by a weighted mean of the traits loses more than the "
        f"{metrics['certificate.epsilon.requested']:.1%} asked, on average over users, where "
        f"utility is {', '.join(lost)}"
    )


def interval(metrics: Mapping[str, Any], key: str) -> str:
    """A number of the metrics with its interval, as text; empty where it was not measured."""
    if metrics.get(key) is None:
        return ""
    low, high = metrics.get(f"{key}.low"), metrics.get(f"{key}.high")
    value = f"{metrics[key]:.3f}"
    return value if low is None or high is None else f"{value} ({low:.3f} to {high:.3f})"


def markdown(metrics: dict[str, float]) -> str:
    """Headline and methods as Markdown, for places that show it."""
    head = [f"**{label}**: {value}  " for label, value in headline(metrics)]
    table = [
        "| method | objective J | share of what is possible |",
        "|---|---|---|",
        *(f"| {line.name} | {line.objective} | {line.share} |" for line in methods(metrics)),
    ]
    return "\n".join([*head, "", *table])


def _palm(metrics: dict[str, float]) -> str:
    """PALM's bound on the size, beside the size found."""
    bound = metrics.get("plan.palm_bound")
    return "" if bound is None else f"; PALM's bound is {bound:,.0f}"


def _reached(metrics: dict[str, float]) -> str:
    return (
        f"{metrics['adapters.reached']:.0f} of {metrics['adapters.trainings']:.0f} trainings ended "
        "early: they had reached adapters.share"
    )


def _cut_short(metrics: dict[str, float]) -> str:
    return (
        f"{metrics['adapters.cut_short']:.0f} of {metrics['adapters.trainings']:.0f} trainings ended "
        "by adapters.max_minutes before their steps were done"
    )


def _look(metrics: dict[str, float]) -> str:
    """Which look at certify this is, where it is not the first."""
    looks = metrics.get("certificate.looks", 1)
    if looks == 1:
        return ""
    return f", look {looks:.0f} at certify, confidence {metrics['certificate.confidence']:g}"


def _users(metrics: dict[str, float]) -> str:
    """Regrets of all users at their estimated weights, and how many were moved."""
    moved = metrics["routes.moved"]
    return (
        f"regret {metrics['routes.regret.mean']:.3f} on average, "
        f"{metrics['routes.regret.p95']:.3f} or less for 95%, "
        f"{metrics['routes.regret.worst']:.3f} at worst"
        + (f"; {moved:.0f} of {metrics['users.total']:.0f} moved" if moved else "")
    )


def _judge(metrics: dict[str, float], name: str) -> str:
    """What members are worth to a judge, against the base."""
    key = f"judge.{name}"
    return (
        f"members differ from the base's {metrics[f'{key}.base']:.3f} by "
        f"{interval(metrics, f'{key}.change')} on average; of the {metrics[f'{key}.gained']:.0f} that "
        f"gained on their own rewards {metrics[f'{key}.lost']:.0f} lost on it"
    )


def _bound(epsilon: float | None) -> str:
    """null in the metrics is an ε that no data of this run bound."""
    return "no bound" if epsilon is None else f"{epsilon:g}"
