"""The page's section on edits: what they are worth, what was chosen, what they were made of."""

from typing import Any

from palette.reporting.charts import METHOD_NAMES, name_of
from palette.reporting.edits import CONTROLS
from palette.reporting.intervals import LEAST
from palette.reporting.members import numbers, shades
from palette.reporting.metrics import GROUPS, Metrics
from palette.reporting.run import Run
from palette.summary import FEW, METHODS

SOURCES = {
    "insight": "the insight's text",
    "pairs": "the self-generated pairs",
    "history": "the history itself",
    "estimate": "the estimated weights",
}
REASONS = {
    "identical": "both answers are the same",
    "empty": "an answer says nothing",
    "echo": "an answer only repeats the prompt",
}
DIRECTIONS = {
    "gradient": "One direction for each trait is the natural step up the reward of the base's own "
    "answers to the train questions; a user's edit adds them by the weights estimated from the "
    "user's history.",
    "contrast": "A direction is the mean difference between self-generated answers under the "
    "user's insight and under a neutral one.",
    "contrast-svd": "A direction is the mean difference between self-generated answers under the "
    "user's insight and under a neutral one, within the span where such differences are largest.",
    "style-vector": "A direction is the mean of what the user wrote and liked, less that of the "
    "base's own answers to the same questions.",
    "chameleon": "What lies along the self-generated personal answers is strengthened, and what "
    "tells neutral answers from them is removed.",
}
"""subspaces.method → what the edits of a run were made of"""
JUDGED = {"seen": "seen users", "unseen": "unseen users"}
"""The groups of users that the verdict is on."""
LAYERS = {"all": "all layers", "upper": "upper half", "last": "last layer"}
SIDES = ("kl", "surprise", "broken", "uncared")

Row = dict[str, Any]


def section(run: Run, metrics: Metrics) -> dict[str, Any] | None:
    """What the template shows; None for a run whose edits were not measured."""
    if metrics.get("objective.edit") is None:
        return None
    pairs = [(method, own) for method in CONTROLS for own in CONTROLS[method]]
    measured = [(method, own) for method, own in pairs if f"{method}.over.{own}" in metrics]
    return {
        "made_of": DIRECTIONS.get(run.method or "", ""),
        "verdicts": verdicts(metrics),
        "over": [beside(method, own, metrics) | {"idle": idle(run, own)} for method, own in measured],
        "sides": sides(metrics),
        "clusters": clusters(run),
        "members": members(run),
        "tuned": [METHOD_NAMES[name] for name in tuned(run)],
        "revealed": revealed(run),
        "pairs": run.pairs,
        "least": LEAST,
        "dropped": [(REASONS.get(reason, reason), count) for reason, count in run.dropped.items()],
    }  # fmt: skip


def verdicts(metrics: Metrics) -> list[Row]:
    """For seen and for unseen users: whom the edit is told apart from by the paired intervals.

    `behind`, `even` and `ahead` are names of controls; None in all of them where the group has too
    few users to tell. What is tried on a few users alone takes no part.
    """
    return [
        {"who": who, "users": metrics[f"users.{group}"]} | verdict(metrics, group)
        for group, who in JUDGED.items()
        if metrics[f"users.{group}"]
    ]


def verdict(metrics: Metrics, group: str) -> dict[str, list[str] | None]:
    found: dict[str, list[str]] = {"behind": [], "even": [], "ahead": []}
    if metrics[f"users.{group}"] < LEAST:
        return dict.fromkeys(found)
    for control in CONTROLS["edit"]:
        key = f"{GROUPS[group]}edit.over.{control}"
        if control in FEW or key not in metrics:
            continue
        low, high = metrics[f"{key}.low"], metrics[f"{key}.high"]
        known = low is not None and high is not None
        place = "behind" if known and low > 0 else "ahead" if known and high < 0 else "even"
        found[place].append(METHOD_NAMES[control])
    return {**found}


def beside(method: str, control: str, metrics: Metrics) -> Row:
    """Group of users → (difference, low, high), or None; and who is laid beside whom.

    Fewer than LEAST users have no interval.
    """
    spans = {}
    for group, prefix in GROUPS.items():
        key = f"{prefix}{method}.over.{control}"
        users = metrics["users.per_user" if control in FEW else f"users.{group}"]
        ends = [metrics.get(f"{key}.{end}") if users >= LEAST else None for end in ("low", "high")]
        spans[group] = None if metrics.get(key) is None else (metrics[key], *ends)
    return {
        "id": method,
        "method": METHOD_NAMES[method],
        "control": name_of(control, metrics),
        **spans,
    }


def idle(run: Run, method: str) -> str:
    """Where tuning left a method at strength 0, in words; nothing where it did not."""
    rows = run.trials.filter("chosen", method=method)
    none = len(rows.filter(strength=0))
    if none == 0:
        return ""
    where = "all clusters" if none == len(rows) else f"{none} of {len(rows)} clusters"
    return f"identity chosen in {where}: the base there"


def sides(metrics: Metrics) -> list[Row]:
    """Side effects on seen users, of every method of which one was measured."""
    rows = [
        {"id": method, "name": name_of(method, metrics)}
        | {side: metrics.get(f"{side}.{method}") for side in SIDES}
        for method in METHODS
    ]
    return [row for row in rows if row["broken"] is not None]


def tuned(run: Run) -> list[str]:
    """The methods that were tuned, in the page's order."""
    there = set(run.trials["method"])
    return [method for method in METHODS if method in there]


def clusters(run: Run) -> list[Row]:
    """Every cluster of users, and what was chosen there for each tuned method."""
    rows = run.trials.filter("chosen")
    chosen = {(row["cluster"], row["method"]): choice(row) for row in rows.iter_rows(named=True)}
    return [
        {
            "name": name,
            "users": count,
            "choices": [chosen.get((name, method)) for method in tuned(run)],
        }
        for name, count in run.clusters.items()
    ]


def members(run: Run) -> list[Row]:
    """Every member, and what was chosen on top of it."""
    rows = run.member_trials.filter("chosen")
    chosen = {row["member"]: choice(row) for row in rows.iter_rows(named=True)}
    number, color = numbers(run), shades(run)
    return [
        {"id": name, "number": number[name], "color": color[name], "choice": chosen[name]}
        for name in number
        if name in chosen
    ]


def choice(row: Row) -> str:
    """The strength and the layers of a trial in words."""
    if row["strength"] == 0:
        return "identity: the base" if "cluster" in row else "none: the member"
    return f"{row['strength']:g}, {LAYERS.get(row['layers'], row['layers'])}"


def revealed(run: Run) -> list[Row]:
    """Every source, with the part of each trait's true weight that it tells."""
    found: dict[str, dict[str, float | None]] = {}
    for source, trait, r2 in run.revealed.select("source", "trait", "r2").iter_rows():
        found.setdefault(source, {})[trait] = r2
    rank = list(SOURCES)
    return [
        {
            "name": SOURCES.get(source, source),
            "r2": [found[source].get(trait) for trait in run.params.trait_names],
        }
        for source in sorted(
            found, key=lambda name: (rank.index(name) if name in rank else 9, name)
        )
    ]
