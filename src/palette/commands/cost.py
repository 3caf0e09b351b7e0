"""`palette cost`: what a run will take; what its members cost to hold, measured on this machine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from palette.commands import screen
from palette.errors import PaletteError

REPEATS = 5


@dataclass(frozen=True)
class Held:
    """What loading the members took; sizes in 10^6 bytes."""

    base: float
    """memory of the process with the base, ready for adapters, alone"""
    all: float
    """the same with all members beside it"""
    seconds: dict[str, float]
    """member → the median time of REPEATS loads"""


def cost(
    plan: Annotated[
        bool,
        typer.Option("--plan", help="estimate a whole run before it starts; nothing is loaded"),
    ] = False,
    users: Annotated[int | None, typer.Option(min=1, help="--plan: as if so many")] = None,
    members: Annotated[int | None, typer.Option(min=0, help="--plan: of the plan")] = None,
    on: Annotated[
        str, typer.Option(help="--plan: A100, H100, H200, B200 or MI300X, as published")
    ] = "H100",
    utilisation: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="--plan: share of the published rates reached")
    ] = 0.3,
) -> None:
    """Estimate what a run takes, or measure its members.

    With --plan: answers, tokens, hours and memory of every stage on a named
    accelerator, from params.yaml, the inputs and the base's config alone.

    Without: the members of the last run are loaded here and now, next to the
    base, by PEFT on the CPU, as a server that switches between them holds
    them; one adapter per user stands beside them. Nothing is written.

    Example: palette cost --plan --on H100
    """
    if plan or users is not None or members is not None:
        from palette.commands.forecast import show as estimate
        from palette.params_file import load as read

        estimate(read(), users, members, on, utilisation)
        return
    from palette import stage, tables
    from palette.lm.models import load_base
    from palette.params_file import load
    from palette.reporting.run import sizes

    stage.prepare(load().runtime.threads)
    portfolio = tables.read_json(tables.DATA / "portfolio" / "portfolio.json")
    served = dict(tables.read("routes")["member"].value_counts().rows())
    folders = {m["id"]: tables.DATA / "adapters" / m["id"] for m in portfolio["members"]}
    if not folders:
        raise PaletteError("the base alone serves every user: there is no adapter to measure")
    for folder in folders.values():
        if not (folder / "adapter_config.json").exists():
            raise PaletteError(f"{folder} holds no adapter; run `dvc repro` to make it")
    held = measure(load_base("cpu").model, folders)
    show({name: sizes(folder) for name, folder in folders.items()}, served, held)


def measure(model: Any, folders: dict[str, Path]) -> Held:
    """Load every member beside the base, then each a few times more, by itself.

    The first adapter, which wraps the base's layers, is loaded once more than it counts: what it
    takes is the base's share.
    """
    import gc
    import statistics
    import time
    import warnings

    import peft
    import psutil

    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries about each other

    def resident() -> float:
        gc.collect()
        return psutil.Process().memory_info().rss / 1e6

    # PEFT forbids dots in names.
    slots = {name: f"member{place}" for place, name in enumerate(folders)}
    wrapped = peft.PeftModel.from_pretrained(model, next(iter(folders.values())), "wrapper")
    base = resident()
    for name, folder in folders.items():
        wrapped.load_adapter(folder, slots[name])
    full, seconds = resident(), {}
    for name, folder in folders.items():
        times = []
        for _ in range(REPEATS):
            wrapped.delete_adapter(slots[name])
            start = time.perf_counter()
            wrapped.load_adapter(folder, slots[name])
            times.append(time.perf_counter() - start)
        seconds[name] = statistics.median(times)
    return Held(base, full, seconds)


def show(sizes: dict[str, tuple[float, float]], served: dict[str, int], held: Held) -> None:
    """Print a row for each member, and the totals beside one adapter per user.

    Args:
        sizes: member → its files and its weights, 10^6 bytes.
        served: member → how many users it serves, the base among them.
    """
    from statistics import fmean

    count, users = len(sizes), sum(served.values())
    each = max(0.0, held.all - held.base) / count
    stored, loaded = (fmean(size) for size in zip(*sizes.values(), strict=True))
    time = fmean(held.seconds.values())
    titles = "users", "MB stored", "MB of weights", "MB in memory", "ms to load"
    table = screen.table("", numbers=titles)
    for name, size in sizes.items():
        own = (*(f"{part:.3f}" for part in size), "", f"{1e3 * held.seconds[name]:.1f}")
        table.add_row(name, str(served.get(name, 0)), *own)
    table.add_section()
    for who, number in (("this portfolio", count), ("one per user", users)):
        measured = (stored * number, loaded * number, each * number, 1e3 * time * number)
        name = f"{who}: {number:,} adapter{'s' if number > 1 else ''}"
        table.add_row(name, f"{users:,}", *(f"{part:,.1f}" for part in measured))
    console = screen.console()
    console.print(table)
    console.print(
        f"This process held {held.base:,.1f} MB with the base and {held.all:,.1f} MB with "
        f"{count} member{'s' if count > 1 else ''} beside it, {each:.2f} MB each. Times are medians "
        f"of {REPEATS} loads on this machine; one per user is the mean member, {users:,} times."
    )
