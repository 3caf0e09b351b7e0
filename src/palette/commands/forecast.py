"""`palette cost --plan`: what a run takes, reckoned from params.yaml and the inputs before it starts."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palette.commands import screen
from palette.errors import PaletteError

if TYPE_CHECKING:
    from palette.core.compute import Accelerator, Shape, Tokens
    from palette.params import Params
    from palette.workload import Facts

SUPPOSED = 20
"""Members of a plan that is not made yet and has no budget: what the sandbox needed for 5 %."""
COMPARING = ("baselines", "evaluation")
"""Stages that measure what users are given, beside what they could be given: no user waits for them."""
LOOKED_AT = 256
"""Texts whose tokens are counted, evenly from all."""
COUNTS = ("answers", "generated", "read", "traced", "trained")


@dataclass(frozen=True)
class Forecast:
    """What a run takes on one accelerator."""

    stages: dict[str, "Tokens"]
    seconds: dict[str, float]
    """stage → time"""
    per_user: dict[str, float]
    """stage → time that one more user takes"""
    memory: float
    """bytes that one worker holds at most"""


def show(
    params: "Params", users: int | None, members: int | None, on: str, utilisation: float
) -> None:
    """Print what each stage takes, and the whole.

    Args:
        users: as if there were so many, with histories like those of users.file.
        members: of the plan; None: those of the plan that there is, or the budget, or SUPPOSED.
        on: a name of ACCELERATORS.

    Raises:
        PaletteError: the base's config, the prompts or the users cannot be read; no such accelerator.
    """
    from palette.core.compute import ACCELERATORS
    from palette.lm.shapes import shape

    if on not in ACCELERATORS:
        raise PaletteError(f"--on '{on}' is unknown; use one of {', '.join(ACCELERATORS)}")
    model, tokenizer = base(params)
    facts, notes = gather(params, tokenizer, users, members)
    own, device = shape(model), ACCELERATORS[on]
    made = forecast(params, own, facts, device, utilisation)
    _print(params, own, facts, made, device, utilisation, notes)


def forecast(
    params: "Params", shape: "Shape", facts: "Facts", on: "Accelerator", utilisation: float
) -> Forecast:
    """Time of every stage, and memory."""
    from palette import workload
    from palette.core import compute
    from palette.lm.learner import CELLS, PARTS
    from palette.passes import TOGETHER

    context, rank = facts.question + params.rollouts.max_new_tokens, params.adapters.rank

    def times(stages: dict[str, "Tokens"]) -> dict[str, float]:
        return {
            name: compute.seconds(shape, own, context, rank, on, utilisation)
            for name, own in stages.items()
        }

    stages = workload.stages(params, facts)
    seconds = times(stages)
    more = times(workload.stages(params, facts.of(2 * facts.users)))
    per_user = {name: (more[name] - own) / max(facts.users, 1) for name, own in seconds.items()}
    family = params.adapters.kind == "family"
    trained = 1 if family else min(TOGETHER, facts.members)
    batch = max(params.adapters.batch, params.adapters.rloo_batch) * trained
    cells = min(CELLS, batch / PARTS * context * shape.vocabulary)
    memory = max(
        compute.held_to_generate(shape, workload.ROWS, context),
        compute.held_to_train(shape, rank, trained, cells, context),
    )
    return Forecast(stages, seconds, per_user, memory)


def base(params: "Params") -> tuple[Any, Any]:
    """The base without its weights, and its tokenizer: of a hub id its config alone is fetched."""
    from palette.lm.models import load_shape, shape_of

    if params.base.model == "sandbox":
        lm = load_shape()
        return lm.model, lm.tokenizer
    return shape_of(params.base.model, params.base.revision)


def gather(
    params: "Params", tokenizer: Any, users: int | None = None, members: int | None = None
) -> tuple["Facts", list[str]]:
    """What is known of the inputs; and what was supposed, in words."""
    import polars as pl

    from palette import forgotten, prompts, tables, tastes
    from palette import users as histories
    from palette.histories import validate, without
    from palette.lm import templates
    from palette.schema import SPLITS
    from palette.workload import Facts

    file, notes = params.prompts.file, []
    asked = prompts.read(Path(file)) if file else prompts.sandbox(params.sandbox.seed)
    known = without(pl.concat(histories.read(params)[0]), forgotten.read())
    valid = validate(known, params.users.unseen)
    rows = valid.histories
    liked = rows.filter(pl.col("rating").fill_null(1.0) >= tastes.LIKED)

    def tokens(texts: list[str]) -> float:
        some = texts[:: max(1, len(texts) // LOOKED_AT)]
        found = [len(templates.encode(tokenizer, templates.question(text))) for text in some]
        return sum(found) / max(len(found), 1)

    plan, clusters = tables.DATA / "plan" / "plan.json", tables.DATA / "subspaces" / "layers.json"
    if members is None and plan.exists():
        members = len(tables.read_json(plan)["members"])
    elif members is None and params.plan.max_members:
        members = params.plan.max_members
    elif members is None:
        members = SUPPOSED
        notes.append(f"a plan of {SUPPOSED} members: the stage plan will tell, or say --members")
    counts = dict(asked["split"].value_counts().rows())
    told = rows.select(pl.concat_str("prompt", "response", separator="\n"))
    facts = Facts(
        prompts={split: counts[split] for split in SPLITS},
        users=len(valid.users),
        told=liked["user_id"].n_unique(),
        rows=len(rows),
        question=tokens(asked["prompt"].to_list()),
        row=tokens(told.to_series().to_list()),
        members=members,
        kept=members,
        most=params.insights.users,
        clusters=len(tables.read_json(clusters)["clusters"])
        if clusters.exists()
        else params.subspaces.max_clusters,
    )
    if users is not None:
        notes.append(
            f"{users:,} users, with histories as long as those of the {facts.users:,} read"
        )
        facts = facts.of(users)
    return facts, notes


def _print(
    params: "Params", shape: "Shape", facts: "Facts", made: Forecast, on: "Accelerator",
    utilisation: float, notes: list[str],
) -> None:  # fmt: skip
    table = screen.table("stage", numbers=(*COUNTS, "time"))
    total = dict.fromkeys(COUNTS, 0.0)
    for name, own in made.stages.items():
        counts = {kind: getattr(own, kind) for kind in COUNTS}
        total = {kind: total[kind] + counts[kind] for kind in COUNTS}
        table.add_row(name, *map(_short, counts.values()), _time(made.seconds[name]))
    table.add_section()
    whole = sum(made.seconds.values())
    table.add_row("the whole", *map(_short, total.values()), _time(whole))
    console = screen.console()
    console.print(table)
    tokens = ", ".join(f"{count:,} {split}" for split, count in facts.prompts.items())
    lines = [
        f"answers and tokens at most, for {facts.users:,} users with {facts.rows:,} rows and {tokens} "
        f"prompts of {facts.question:.0f} tokens; answers of {params.rollouts.max_new_tokens}.",
        f"The base has {_short(shape.parameters)} parameters; in bfloat16 one worker holds "
        f"about {made.memory / 1e9:,.1f} GB ({on.name}: {on.memory / 1e9:.0f} GB)"
        + ("." if made.memory < on.memory else ": it does not fit on one."),
        f"{whole / 3600:,.2f} hours on one {on.name}, supposing {utilisation:.0%} of what its published "
        f"rate and bandwidth allow; {whole * utilisation / 3600:,.2f} if all of it could be had.",
        f"Each further user takes {sum(made.per_user.values()):,.3g} s, of which "
        f"{sum(made.per_user.get(stage, 0.0) for stage in COMPARING):,.3g} s to compare methods "
        f"({' and '.join(COMPARING)}).",
        "This is an estimate and nothing was run; a training rehearses itself before it starts.",
        *(f"Supposed: {note}." for note in notes),
    ]
    for line in lines:
        console.print(line)


def _short(count: float) -> str:
    """A count in three digits."""
    for size, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.3g}" if count else ""


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:,.1f} h"
