"""Rounds of repair: what each look at certify saw, and what the trainings before it bought."""

from dataclasses import dataclass, replace

from palette import tables
from palette.commands.extend import COUNTED, PORTFOLIO, append


@dataclass(frozen=True)
class Look:
    """One verdict on the certify split; infinite ε are None."""

    number: int
    passed: bool
    members: int
    """that the portfolio keeps, the base not counted"""
    trained: int
    """that pruning chose them from"""
    point: float | None
    upper: float | None
    confidence: float
    remedy: int
    """weights that would mend it"""
    advice: str
    """what to do next where it failed"""

    def unmended(self, refusal: str) -> "Look":
        """The same verdict, and why the repair that it asks for cannot be done."""
        return replace(self, advice=f"{self.advice} No repair was begun: {refusal}.")


def read_look() -> Look:
    """The verdict that lies in the data folder."""
    content = tables.read_json(PORTFOLIO)
    plan = tables.read_json(tables.DATA / "plan" / "plan.json")
    certificate, mend = content["certificate"], content["mend"]
    return Look(
        certificate["looks"],
        content["passed"],
        len(content["members"]),
        len(plan["members"]),
        certificate["epsilon_point"],
        certificate["epsilon_upper"],
        certificate["confidence"],
        len(mend["weights"]),
        mend["advice"],
    )


def begin(look: Look) -> str | None:
    """Extend the plan by what would mend a failed verdict, and say so; None if there is no cause.

    Raises:
        PaletteError: the plan cannot be extended so (see `append`).
    """
    if look.passed or not look.remedy:
        return None
    done = append(PORTFOLIO)
    return (
        f"repair round {done.look - 1}: {look.advice} {done.what} added to {done.file}; "
        f"the next verdict is look {done.look}, judged at confidence {done.confidence:.4g}"
    )


def bought(before: Look, after: Look) -> str:
    """What a round changed, as one sentence; worse is said as plainly as better."""
    return (
        f"repair round {after.number - 1} trained {after.trained - before.trained} more: look "
        f"{after.number}, members {before.members} → {after.members}, ε point "
        f"{_percent(before.point)} → {_percent(after.point)}, upper {_percent(before.upper)} → "
        f"{_percent(after.upper)}: {_verdict(after)}"
    )


def conclusion(looks: list[Look]) -> list[str]:
    """The last verdict, for the run's state; nothing where no repair was asked for."""
    if not looks:
        return []
    last = looks[-1]
    verdict = f"look {last.number} at certify: {_verdict(last)}"
    return [verdict] if last.passed else [verdict, last.advice]


def markdown(looks: list[Look]) -> list[str]:
    """A table with a line per look, for the artifact; nothing where no repair was asked for."""
    if not looks:
        return []
    head = "| look | confidence | trained | members | ε point | ε upper | verdict |\n"
    lines = [
        f"| {look.number} | {look.confidence:.4g} | {look.trained} | {look.members} | "
        f"{_percent(look.point)} | {_percent(look.upper)} | {_verdict(look)} |"
        for look in looks
    ]
    table = head + "|---|---|---|---|---|---|---|\n" + "\n".join(lines)
    return [COUNTED, table] if looks[-1].passed else [COUNTED, table, looks[-1].advice]


def _percent(epsilon: float | None) -> str:
    return "no bound" if epsilon is None else f"{epsilon:.2%}"


def _verdict(look: Look) -> str:
    return "PASS" if look.passed else "FAIL"
