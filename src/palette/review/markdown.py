"""What changed, as Markdown for a pull request: short enough for a comment, and all text inert."""

from collections.abc import Mapping
from typing import Any

from palette.reporting.metrics import GROUPS
from palette.review import cells, changes
from palette.review.changes import Member
from palette.review.lock import Staleness
from palette.review.snapshot import Snapshot
from palette.summary import METHODS, interval

MARKER = "<!-- palette diff -->"
"""By it the comment of an earlier push is found again."""
LONGEST = 60_000  # characters; GitHub takes no comment of more than 65,536
HERE = "the working tree"
CERTIFICATE = {
    "certificate.epsilon.upper": ("ε certified", cells.PERCENT),
    "certificate.epsilon.point": ("ε, point estimate", cells.PERCENT),
    "certificate.epsilon.requested": ("ε asked", cells.PERCENT),
    "certificate.delta.requested": ("δ asked", "{:g}"),
    "certificate.confidence": ("confidence", "{:g}"),
    "certificate.looks": ("looks at certify", "{:g}"),
    "certificate.regret": ("regret at the worst taste", "{:g}"),
    "portfolio.size": ("members", "{:g}"),
    "plan.trainings": ("members planned", "{:g}"),
    "plan.lower_bound": ("members needed at least", "{:g}"),
    "routes.regret.mean": ("users' mean regret", "{:g}"),
    "users.total": ("users", "{:g}"),
}


def document(
    since: str, before: Snapshot, after: Snapshot, standing: Staleness, pictures: str
) -> str:
    """The whole text.

    Args:
        since: what the commit before is called.
        standing: of the working tree.
        pictures: where the top folder of `after` can be seen: a URL, or nothing for this folder.
    """
    found = changes.members(before.members, after.members)
    blocks = {
        "lock": lock(standing),
        "certificate": certificate(before.metrics, after.metrics),
        "parameters": parameters(before, after),
        "members": members(found),
        "users": users(since, before, after, changes.renamed(found)),
        "methods": methods(before.metrics, after.metrics),
        "traits": traits(before.metrics, after.metrics),
        "pictures": seen(before, after, pictures),
        "artifacts": artifacts(before, after),
        **samples(since, before, after, found),
    }
    head = f"{MARKER}\n## palette: {headline(before.metrics, after.metrics)}\n\nSince `{since}`."
    return fitted(head, {name: block for name, block in blocks.items() if block})


def fitted(head: str, blocks: Mapping[str, str]) -> str:
    """The head and as many whole blocks as a comment has room for; the others are named."""
    names = ", ".join(blocks)
    parts, left, room = [head], [], LONGEST - len(head) - len(names) - 100
    for name, block in blocks.items():
        if len(block) + 2 <= room:
            parts.append(block)
            room -= len(block) + 2
        else:
            left.append(name)
    if left:
        parts.append(f"*No room here for: {', '.join(left)}. `reports/` has them.*")
    return "\n\n".join(parts) + "\n"


def headline(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """The verdict, its ε and the members, and what they were."""
    if not after:
        return "no report yet"
    told = [
        (verdict(run), "ε " + cells.figure(run, "certificate.epsilon.upper", cells.PERCENT),
         cells.figure(run, "portfolio.size", "{:g}") + " members") if run else ("", "", "")
        for run in (before, after)
    ]  # fmt: skip
    return ", ".join(cells.turned(old, new) for old, new in zip(*told, strict=True))


def verdict(metrics: Mapping[str, Any]) -> str:
    return {1: "PASS", 0: "FAIL"}.get(metrics.get("certificate.passed"), "")


def lock(standing: Staleness) -> str:
    """Which stages would run now, and why."""
    if not standing.stale:
        return "`dvc.lock` fits: `dvc repro` has nothing to run."
    rows = [(cells.inert(why), named(stages)) for why, stages in standing.by_reason().items()]
    more = f"\n\nWhat comes after them and may run too: {named(standing.after)}."
    return (
        "### Not reproduced\n\n`dvc.lock` does not fit: run `dvc repro`, and commit what it writes. "
        f"It would run {named(list(standing.stale))}.\n\n"
        + cells.table(("why", "stages"), rows)
        + more * bool(standing.after)
    )


def named(stages: list[str]) -> str:
    return ", ".join(f"`{stage}`" for stage in stages)


def certificate(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    rows = [("verdict", verdict(before), verdict(after))]
    rows += [
        (label, cells.figure(before, key, shape), cells.figure(after, key, shape))
        for key, (label, shape) in CERTIFICATE.items()
    ]
    marked = [
        (label, old, f"**{new}**" if new and old != new else new)
        for label, old, new in rows
        if old or new
    ]
    return cells.section("Certificate", ("", "before", "after"), marked)


def parameters(before: Snapshot, after: Snapshot) -> str:
    changed = changes.differing(before.params, after.params)
    rows = [(cells.inert(key), cells.inert(old), cells.inert(new)) for key, old, new in changed]
    return cells.section("Parameters", ("params.yaml", "before", "after"), rows)


def members(found: list[Member]) -> str:
    """Those that are not as they were, and how many of each kind there are."""
    rows = []
    for own in found:
        if own.fate != "kept":
            fate = own.fate + (f" by {own.moved:.0%}" if own.moved else "")
            name, users, share = (
                cells.turned(
                    *(cells.inert(run[key]) if run else "" for run in (own.before, own.after))
                )
                for key in ("id", "users", "share")
            )
            rows.append((name, fate, users, share))
    fates = [own.fate for own in found]
    counts = ", ".join(f"{fates.count(fate)} {fate}" for fate in sorted(set(fates)))
    header = ("member", counts, "users", "share on certify")
    return cells.section("Members", header, rows)


def users(since: str, before: Snapshot, after: Snapshot, names: Mapping[str, str]) -> str:
    """Counts alone: who is re-routed is nobody's business here."""
    if before.routes is not None and after.routes is not None:
        found = changes.rerouted(before.routes, after.routes, names)
        told = "Counted user by user; who follows a member that moved is not re-routed."
    elif before.served and after.served:
        found = changes.least_rerouted(before.served, after.served, names)
        told = (
            "At least so many, by the counts of reports/routes.csv, if the users are the same. "
            "Exact counts need both runs' data in DVC's cache: `dvc fetch --all-commits`."
        )
    else:
        gone = HERE if before.served else f"`{since}`"
        return f"### Users\n\nHow many were re-routed is unknown: {gone} has no reports/routes.csv."
    rows = [
        (cells.inert(row.group), row.users, f"{row.rerouted} ({row.rerouted / max(row.users, 1):.0%})",
         row.new, row.gone)
        for row in found
    ]  # fmt: skip
    if not any(row.rerouted or row.new or row.gone for row in found):
        return "### Users\n\nNobody was seen to be re-routed."
    return (
        f"{cells.section('Users', ('group', 'users', 're-routed', 'new', 'gone'), rows)}\n\n{told}"
    )


def methods(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What every method is worth to seen users, and the portfolio to all groups, where it changed."""
    keys = {name: (f"objective.{name}", f"share.{name}") for name in METHODS}
    for group, prefix in GROUPS.items():
        own = f"{prefix}objective.portfolio", f"{prefix}share.portfolio"
        keys[f"portfolio, {group} users" if prefix else "portfolio"] = own
    rows = []
    for label, (worth, share) in keys.items():
        values = [interval(run, key) for key in (worth, share) for run in (before, after)]
        if values[::2] != values[1::2]:
            rows.append((cells.inert(label), *values, cells.apart(before, after, worth)))
    header = ("method", "J before", "J after", "share before", "share after", "intervals of J")
    return cells.section("Methods", header, rows)


def traits(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Mean rewards of what seen users are served, where they changed."""
    rows = []
    for key in sorted({**before, **after}):
        kind, *rest = key.split(".")
        old, new = interval(before, key), interval(after, key)
        if kind == "trait" and len(rest) == 2 and old != new:
            name, method = rest
            rows.append(
                (f"{cells.inert(name)}, {method}", old, new, cells.apart(before, after, key))
            )
    return cells.section("Traits", ("mean reward", "before", "after", "intervals"), rows)


def seen(before: Snapshot, after: Snapshot, where: str) -> str:
    """The pictures that changed, as they are now."""
    prefix = f"{where.rstrip('/')}/" if where else ""
    shown = [
        f"![{path}]({prefix}{path})"
        for path, content in after.pictures.items()
        if content != before.pictures.get(path)
    ]
    return "\n\n".join(["### Pictures", *shown]) if shown else ""


def artifacts(before: Snapshot, after: Snapshot) -> str:
    rows: dict[str, list[str]] = {}
    for path in [path for path, *_ in changes.differing(before.outputs, after.outputs)]:
        sides = (path in before.outputs, path in after.outputs)
        what = {(False, True): " (new)", (True, False): " (gone)"}.get(sides, "")
        stage = after.makers.get(path) or before.makers[path]
        rows.setdefault(stage, []).append(f"`{path}`{what}")
    shown = [(named([stage]), ", ".join(paths)) for stage, paths in rows.items()]
    return cells.section("Artifacts that changed", ("stage", "artifacts"), shown)


def samples(since: str, before: Snapshot, after: Snapshot, found: list[Member]) -> dict[str, str]:
    """A block for each prompt; in HTML, where nothing of a model's text is Markdown."""
    if not (before.samples and after.samples):
        gone = HERE if before.samples else f"`{since}`"
        return {"samples": f"### Samples\n\n{gone} has no reports/samples.json to compare."}
    blocks = {}
    for prompt, rows in changes.answers(before.samples, after.samples, found).items():
        lines = [
            "".join(
                f"<td>{cells.literal(row[side])}</td>" for side in ("member", "before", "after")
            )
            for row in rows[: cells.ROWS]
        ]
        body = "\n".join(f"<tr>{line}</tr>" for line in lines)
        title = "" if blocks else "### Samples\n\n"
        blocks[f"samples {len(blocks) + 1}"] = (
            f"{title}<details><summary>{cells.literal(prompt)}</summary>\n<table>\n<tr><th>member</th>"
            f"<th>before</th><th>after</th></tr>\n{body}\n</table>\n</details>"
        )
    return blocks
