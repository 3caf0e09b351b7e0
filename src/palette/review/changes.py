"""What differs between two snapshots of a run: plain comparisons of names, numbers and counts."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
WEIGHT, VALUE = "weight_", "value_"


@dataclass(frozen=True)
class Member:
    """A member, as portfolio.csv has it before and after; None where it is not in one of them."""

    before: Row | None
    after: Row | None
    moved: float = 0.0
    """the part of its weight that went elsewhere, 0 to 1"""

    @property
    def fate(self) -> str:
        if self.before is None:
            return "added"
        if self.after is None:
            return "dropped"
        if self.moved:
            return "moved"
        return "kept" if _worth(self.before) == _worth(self.after) else "other values"


@dataclass(frozen=True)
class Rerouted:
    """How many users of a group are served by another member."""

    group: str
    users: int
    """in both runs"""
    rerouted: int
    new: int
    gone: int


def members(before: list[Row], after: list[Row]) -> list[Member]:
    """Every member of either portfolio, matched by nearest weights; a trait not there weighs 0.

    Args:
        before: rows of portfolio.csv; the base, which has no weights, is left out. So in `after`.
    """
    import numpy as np

    from palette.core.matching import distances, matched

    old, new = ([row for row in rows if row["id"] != "base"] for rows in (before, after))
    names = sorted({name for row in old + new for name in row if name.startswith(WEIGHT)})
    weights = [
        np.reshape(
            [[row.get(name) or 0.0 for name in names] for row in rows], (len(rows), len(names))
        )
        for rows in (old, new)
    ]
    pairs, apart = dict(matched(*weights)), distances(*weights)
    found = [
        Member(row, new[pairs[place]], round(float(apart[place, pairs[place]]), 4))
        if place in pairs
        else Member(row, None)
        for place, row in enumerate(old)
    ]
    return found + [
        Member(None, row) for place, row in enumerate(new) if place not in pairs.values()
    ]


def renamed(found: list[Member]) -> dict[str, str]:
    """Member before → the same one after, of those that have one; the base is itself."""
    return {"base": "base"} | {
        own.before["id"]: own.after["id"] for own in found if own.before and own.after
    }


def rerouted(
    before: Mapping[str, tuple[str, str]],
    after: Mapping[str, tuple[str, str]],
    names: Mapping[str, str],
) -> list[Rerouted]:
    """Users served by another member, exactly.

    Args:
        before: user → (group, member); `after` alike.
        names: as `renamed` has them: who follows a member that moved is not rerouted.
    """
    counts: dict[str, Counter[str]] = {}
    for user in {**before, **after}:
        (_, was), (_, now) = before.get(user, ("", "")), after.get(user, ("", ""))
        what = "new" if not was else "gone" if not now else "users"
        own = counts.setdefault((after.get(user) or before[user])[0], Counter())
        own[what] += 1
        own["rerouted"] += what == "users" and names.get(was) != now
    return [
        Rerouted(group, own["users"], own["rerouted"], own["new"], own["gone"])
        for group, own in sorted(counts.items())
    ]


def least_rerouted(before: list[Row], after: list[Row], names: Mapping[str, str]) -> list[Rerouted]:
    """Users who at least are served by another member, from counts, if the others are the same users.

    Args:
        before: group, member, users of each row; `after` alike.
    """
    served: tuple[dict[str, Counter], dict[str, Counter]] = ({}, {})
    for row in before:
        served[0].setdefault(row["group"], Counter())[names.get(row["member"])] += row["users"]
    for row in after:
        served[1].setdefault(row["group"], Counter())[row["member"]] += row["users"]
    found = []
    for group in sorted({*served[0], *served[1]}):
        was, now = (counts.get(group, Counter()) for counts in served)
        more = now.total() - was.total()
        left = (was - now).total()  # subtraction of counters drops what is below 0
        gone = max(0, -more)
        both = min(was.total(), now.total())
        found.append(Rerouted(group, both, left - gone, max(0, more), gone))
    return found


def answers(before: list[Row], after: list[Row], found: list[Member]) -> dict[str, list[Row]]:
    """Prompt → who said what before and after, where it is not the same.

    Args:
        before: prompts as samples.json has them; `after` alike.

    Returns:
        rows of member, before and after; what a member that is not there said is None.
    """
    said = [
        {
            prompt["prompt"]: {row["member"]: row["answer"] for row in prompt["answers"]}
            for prompt in run
        }
        for run in (before, after)
    ]
    sides = [("base", "base")] + [
        (own.before and own.before["id"], own.after and own.after["id"]) for own in found
    ]
    changed = {}
    for prompt in {**said[0], **said[1]}:
        was, now = (run.get(prompt, {}) for run in said)
        rows = [
            {"member": new or old, "before": was.get(old), "after": now.get(new)}
            for old, new in sides
            if was.get(old) != now.get(new)
        ]
        if rows:
            changed[prompt] = rows
    return changed


def worded(value: Any) -> str:
    """A value as params.yaml would have it on one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def differing(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Keys with another value, and both values; of a key that is not there, "not there"."""
    for key in {**before, **after}:
        old, new = before.get(key, "not there"), after.get(key, "not there")
        if old != new:
            yield key, old, new


def flat(content: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Dotted key → value, of nested mappings."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        inner = isinstance(value, Mapping) and value
        found |= flat(value, f"{path}{key}.") if inner else {f"{path}{key}": value}
    return found


def _worth(row: Row) -> Row:
    return {name: value for name, value in row.items() if name.startswith(VALUE) or name == "kl"}
