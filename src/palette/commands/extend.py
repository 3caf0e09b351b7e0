"""`palette extend`: the weights that would mend the verdict become part of the next plan."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from palette.errors import PaletteError

PORTFOLIO = Path("data/portfolio/portfolio.json")
PINNED = Path("inputs/plan/pinned.csv")
PARAMS = Path("params.yaml")
COUNTED = (
    "The first verdict is look 1 at certify, and each round of repair in the file of plan.pinned is "
    "one more; verdicts under other params or data are not counted."
)


@dataclass(frozen=True)
class Extension:
    """What was added to the file of plan.pinned."""

    file: Path
    added: int
    """weights that mend the verdict"""
    held: int
    """weights of the present plan that the file did not have yet"""
    look: int
    """which look at certify the next verdict is"""
    confidence: float
    """at which that look is judged"""

    @property
    def what(self) -> str:
        return "1 weight vector" if self.added == 1 else f"{self.added} weight vectors"


def extend(
    portfolio: Annotated[
        Path, typer.Option(help="the failed portfolio, with plan/plan.json beside its folder")
    ] = PORTFOLIO,
) -> None:
    """Pin the weights that would mend a failed verdict.

    They are appended to the file of plan.pinned; `dvc repro` then trains for
    them alone, and judges at a higher confidence for the second look.

    Example: palette extend && dvc repro
    """
    from palette import tables

    if tables.read_json(portfolio)["passed"]:
        print(f"{portfolio} passed already: nothing to add")
        return
    done = append(portfolio)
    plan = f", after {done.held} of the present plan" if done.held else ""
    print(f"added {done.what} to {done.file} as round {done.look - 1}{plan}")
    print(
        f"commit it with {PARAMS}, then `dvc repro`: the next verdict is look {done.look} at "
        f"certify, judged at confidence {done.confidence:.4g}"
    )
    print(COUNTED)


def append(portfolio: Path) -> Extension:
    """Append the weights that mend a failed portfolio to the file of plan.pinned.

    All weights of its plan are in the file then, so the next plan extends this one and nothing that
    is trained is trained again. The file is written before params.yaml names it: whatever is killed
    in between, the same call goes on from there.

    Raises:
        PaletteError: no weights would help, these are in the file already, or all together are more
            than plan.max_members. Nothing is written then.
    """
    import numpy as np

    from palette import pinned, tables
    from palette.core.certificate import confidence_of_look
    from palette.params_edit import set_value
    from palette.params_file import load

    params, verdict = load(PARAMS), tables.read_json(portfolio)
    plan = tables.read_json(portfolio.parents[1] / "plan" / "plan.json")
    traits = params.trait_names
    if "mend" not in verdict or sorted(verdict["traits"]) != sorted(traits):
        raise PaletteError(f"{portfolio} does not fit {PARAMS}; run `dvc repro` first")
    if not verdict["mend"]["weights"]:
        raise PaletteError(verdict["mend"]["advice"])
    file = Path(params.plan.pinned or PINNED)
    weights, rounds = np.empty((0, len(traits))), np.empty(0, dtype=int)
    if params.plan.pinned:
        weights, rounds = pinned.read(file, traits)
    mend = _rows(verdict["mend"]["weights"], traits)
    if _among(mend, weights).any():
        raise PaletteError(f"{file} has the weights that would mend already; run `dvc repro` first")
    members = _rows([member["weights"] for member in plan["members"]], traits)
    fresh = ~_among(members, weights)
    held_rounds = np.array([member.get("round", 0) for member in plan["members"]], dtype=int)
    latest = max([*rounds, *held_rounds, plan.get("looks", 1) - 1])
    weights = np.concatenate([weights, members[fresh], mend])
    rounds = np.concatenate([rounds, held_rounds[fresh], np.full(len(mend), latest + 1)])
    _afford(params.plan.max_members, len(weights))
    if not params.plan.pinned:
        _spare(file, traits, weights)
    pinned.write(file, traits, weights, rounds)
    if not params.plan.pinned:
        set_value(PARAMS, "plan.pinned", str(file))
    look = int(latest) + 2
    confidence = confidence_of_look(params.portfolio.confidence, look)
    return Extension(file, len(mend), int(fresh.sum()), look, confidence)


def _rows(weights: list[dict[str, float]], traits: list[str]):
    """(K, d) in hundredths, from one mapping of trait to weight each."""
    import numpy as np

    rows = [[weight[trait] for trait in traits] for weight in weights]
    return np.rint(100 * np.reshape(rows, (-1, len(traits)))) / 100


def _among(rows, known):
    """(K,) bool: which rows (K, d) are among the known ones (P, d), in hundredths."""
    import numpy as np

    present = {tuple(row) for row in np.rint(100 * known).astype(int)}
    return np.array([tuple(row) in present for row in np.rint(100 * rows).astype(int)], dtype=bool)


def _afford(most: int | None, members: int) -> None:
    """Refuse what the next plan would refuse, while the file is as it was."""
    if most is not None and members > most:
        raise PaletteError(
            f"plan.max_members is {most}, but the plan with the weights that would mend it has "
            f"{members} members; raise it to {members} in {PARAMS}, then run `palette extend` again"
        )


def _spare(file: Path, traits: list[str], weights) -> None:
    """Refuse to overwrite a file that params.yaml does not name, unless this very call wrote it."""
    import numpy as np

    from palette import pinned

    if file.exists() and not np.array_equal(pinned.read(file, traits)[0], weights):
        raise PaletteError(
            f"{file} exists, but {PARAMS} does not name it: name it in plan.pinned, or delete it"
        )
