"""`palette select VALUES.csv --epsilon 0.05`: of the policies that you have, the fewest that do."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palette.commands import screen
from palette.errors import PaletteError, nearest
from palette.progress import QUIET_SECONDS

if TYPE_CHECKING:
    from palette.commands.policy_table import PolicyTable
    from palette.core.paired import Measured
    from palette.core.region import Region
    from palette.core.selecting import Say

FEWEST = 2  # prompts in a half, without which there is no spread to speak of
NOISE = 1e-9  # by which an upper bound may exceed the asked ε for want of digits
SHOWN = 20_000  # weights from which the table's "wins" are counted; nothing else depends on them


def select(
    values: Annotated[
        Path,
        typer.Argument(
            help="CSV, Parquet or JSONL: policy, a column of numbers per objective (more is "
            "better), and, if you like, cost and prompt (a row per policy and prompt)"
        ),
    ],
    epsilon: Annotated[float, typer.Option(help="share of the best that may be lost, in [0, 1)")],
    delta: Annotated[float, typer.Option(help="additive slack, in units of the values")] = 0.0,
    max_size: Annotated[
        int | None,
        typer.Option(help="at most so many: those of least worst ε"),
    ] = None,
    floor: Annotated[
        list[str] | None,
        typer.Option(help="an objective's least weight; repeatable", metavar="NAME=WEIGHT"),
    ] = None,
    normalize: Annotated[
        bool,
        typer.Option(
            "--normalize",
            help="objectives to [0, 1], constant ones to 0; no costs",
        ),
    ] = False,
    confidence: Annotated[float, typer.Option(help="where the table has prompts")] = 0.95,
) -> None:
    """Choose the fewest of your own policies that serve all weights.

    For every w, the best of the chosen is worth at least (1 − ε) of the best
    of all, less δ. With prompts, half of them choose and the others certify.
    JSON on stdout, a table on stderr.

    Exit status: 0 it holds; 1 no subset of the size holds; 2 wrong input.

    Example: palette select values.csv --epsilon 0.05 --floor safety=0.1
    """
    from palette.commands import policy_table

    try:
        _check(epsilon, delta, max_size, confidence)
        table = policy_table.read(values)
        region = _region(table.objectives, floor or [])
        if epsilon > 0 and not normalize:
            policy_table.refuse_negative(table)
        answer = _answer(table, region, epsilon, delta, max_size, normalize, confidence)
    except PaletteError as error:
        print(f"palette: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    _print(table, region, answer)
    raise typer.Exit(0 if answer["passed"] else 1)


def _check(epsilon: float, delta: float, max_size: int | None, confidence: float) -> None:
    if not 0 <= epsilon < 1:
        raise PaletteError(f"--epsilon {epsilon} must be at least 0 and less than 1")
    if not 0 <= delta < float("inf"):
        raise PaletteError(f"--delta {delta} must be at least 0")
    if max_size is not None and max_size < 1:
        raise PaletteError(f"--max-size {max_size} must be at least 1")
    if not 0.5 <= confidence < 1:
        raise PaletteError(f"--confidence {confidence} must be at least 0.5 and less than 1")


def _region(objectives: tuple[str, ...], floors: list[str]) -> "Region":
    from palette.core.region import Region

    least = dict.fromkeys(objectives, 0.0)
    for floor in floors:
        name, _, text = floor.rpartition("=")
        if name not in least:
            raise PaletteError(f"--floor {floor}: no such objective; {nearest(name, objectives)}")
        try:
            least[name] = float(text)
        except ValueError:
            raise PaletteError(f"--floor {floor}: '{text}' must be a number") from None
        if not least[name] >= 0:
            raise PaletteError(f"--floor {floor} must be at least 0")
    if not sum(least.values()) < 1:
        raise PaletteError(f"the floors add up to {sum(least.values()):g}: keep them below 1")
    return Region(tuple(least.values()))


def _answer(
    table: "PolicyTable",
    region: "Region",
    epsilon: float,
    delta: float,
    size: int | None,
    normalize: bool,
    confidence: float,
) -> dict[str, Any]:
    """What goes to stdout."""
    from palette.core.paired import choose, choosing, epsilon_upper
    from palette.core.selecting import best, smallest

    say = _patiently()
    measured, certifying = table.measured, {}
    if table.prompts is None:
        measured = measured.normalized(measured) if normalize else measured
        contest = _contest(measured, region, epsilon)
        choice = (
            smallest(contest, epsilon, delta, say)
            if size is None
            else best(contest, size, epsilon, delta, say)
        )
    else:
        here = choosing(table.prompts)
        if min(here.sum(), (~here).sum()) < FEWEST:
            raise PaletteError(
                f"{len(here)} prompts are too few to choose on one half and certify on the other: "
                "add prompts, or average them and drop the column"
            )
        measured = measured.normalized(measured.on(here)) if normalize else measured
        _contest(measured.on(here), region, epsilon)
        choice, claim = choose(measured.on(here), region, epsilon, delta, confidence, size, say)
        contest = _contest(measured.on(~here), region, epsilon)
        upper = epsilon_upper(claim.bound(measured.on(~here), confidence), epsilon)
        certifying = {
            "confidence": confidence,
            "epsilon_upper": upper if upper <= 1 else None,
            "prompts": {"choose": int(here.sum()), "certify": int((~here).sum())},
        }
    members = choice.members
    holds = contest.holds(members, epsilon, delta / contest.unit)
    worst, shares = contest.worst(members, delta / contest.unit)
    needed, deepest = contest.shortfall(members, epsilon)
    if not contest.relative:  # with ε = 0: no share means anything, so δ decides
        worst, shares = (0.0 if holds else float("inf")), deepest
    if holds:
        worst = min(worst, epsilon)
    passed = upper <= epsilon + NOISE if certifying else holds
    weights = region.spread(shares)
    return {
        "members": [measured.names[member] for member in members],
        "epsilon": epsilon,
        "delta": delta,
        "worst": worst if worst <= 1 else None,
        "worst_weights": dict(zip(table.objectives, map(float, weights), strict=True)),
        "worst_delta": needed * contest.unit,
        "passed": passed,
        "optimal": choice.optimal,
        "lower_bound": choice.lower_bound,
        "size": len(members),
        "objectives": list(table.objectives),
        "policies": len(measured.names),
        **certifying,
    }


def _patiently() -> "Say":
    """Tells how far it has come on stderr, but only of work that takes long."""
    spoken = time.monotonic()

    def say(line: str) -> None:
        nonlocal spoken
        if time.monotonic() - spoken >= QUIET_SECONDS:
            spoken = time.monotonic()
            print(line, file=sys.stderr, flush=True)

    return say


def _contest(measured: "Measured", region: "Region", epsilon: float) -> Any:
    from palette.core.linear_regret import Contest

    contest = Contest(measured.planes, region)
    if epsilon > 0 and not contest.relative:
        raise PaletteError(
            "at some weights every policy costs more than it is worth, and a share of a negative "
            "worth means nothing: lower the costs, or use --epsilon 0 with a --delta"
        )
    return contest


def _print(table: "PolicyTable", region: "Region", answer: dict[str, Any]) -> None:
    import json

    import numpy as np

    planes = table.measured.planes
    chosen = planes.take([planes.names.index(name) for name in answer["members"]])
    shares = np.random.default_rng(0).dirichlet(np.ones(region.d), SHOWN)
    wins = np.bincount(chosen.best(region.spread(shares)), minlength=len(chosen)) / SHOWN
    shown = screen.table("policy", *table.objectives, "cost", "wins about")
    for name, row, cost, won in zip(chosen.names, chosen.values, chosen.costs, wins, strict=True):
        shown.add_row(name, *(f"{value:.4g}" for value in row), f"{cost:.4g}", f"{won:.0%}")
    screen.console(stderr=True).print(shown)
    screen.say(_verdict(answer), stderr=True)
    print(json.dumps(answer, indent=2, ensure_ascii=False))


def _verdict(answer: dict[str, Any]) -> str:
    size, bound = answer["size"], answer["lower_bound"]
    proven = "proven best" if answer["optimal"] else f"not proven best, at least {bound} needed"
    worst = "no ε up to 1" if answer["worst"] is None else f"ε = {answer['worst']:.4g}"
    certified = ""
    if "confidence" in answer:
        upper = answer["epsilon_upper"]
        certified = (
            f", {'none' if upper is None else format(upper, '.4g')} with confidence "
            f"{answer['confidence']:g}"
        )
    return (
        f"{'PASS' if answer['passed'] else 'FAIL'}: {size} of {answer['policies']} policies "
        f"({proven}) hold {worst}{certified}; asked ε = {answer['epsilon']:g}, "
        f"δ = {answer['delta']:g}"
    )
