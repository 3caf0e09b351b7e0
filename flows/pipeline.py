"""The whole chain as Prefect flows: insights → subspaces → adapters → portfolio.

    python -m flows.pipeline        # with the server of PREFECT_API_URL, or one for this run alone
    python -m flows.pipeline --repair-rounds 2      # and trains further while the verdict fails

A task is one DVC stage. DVC decides what is stale; the state of a task's run says what it decided:
Completed (the stage ran), Cached (restored from the run-cache) or Skipped (nothing had changed).
"""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, wait
from prefect.states import Completed, Failed, State
from pydantic import Field

from flows import repair
from flows.graph import read_stages
from flows.reproduction import Outcome, Reproducer, StageFailed
from palette import summary, tables
from palette.errors import PaletteError
from palette.params_file import load

REPORT = Path("reports/index.html")
METRICS = Path("reports/metrics.json")


@task(task_run_name="{stage}", cache_policy=NO_CACHE, persist_result=False)
def reproduce(stage: str, reproducer: Reproducer) -> State:
    """Bring one stage up to date."""
    logger = get_run_logger()
    try:
        outcome = reproducer.reproduce(stage, say=logger.info)
    except StageFailed as error:
        return Failed(message=f"{stage}: {error}")
    return Completed(name=outcome.value, message=f"{stage}: {outcome.value}", data=outcome.value)


@flow(name="insights")
def insights() -> State:
    """From users' histories to the base's sentences on them."""
    return _run_stages("insights")


@flow(name="subspaces")
def subspaces() -> State:
    """From self-generated pairs to personal and neutral directions."""
    return _run_stages("subspaces")


@flow(name="adapters")
def adapters() -> State:
    """From rollouts and rewards to the plan, and the adapters that it asks for."""
    return _run_stages("adapters")


@flow(name="portfolio")
def portfolio() -> State:
    """From adapters to the certified portfolio, a route for every user, and the report."""
    return _run_stages("portfolio")


@flow(name="palette")
def pipeline(repair_rounds: Annotated[int, Field(ge=0)] = 0) -> State:
    """The whole chain; ends with the verdict as an artifact.

    Args:
        repair_rounds: how often at most, while the verdict fails, the weights that would mend it
            are added to the plan and what follows runs again. Each is one more look at certify.
    """
    try:
        load()
        outcomes = _chain()
        looks: list[repair.Look] = []
        _publish(outcomes, looks)  # it stands also where a stage of a repair fails
        if repair_rounds:
            looks = _repair(repair_rounds, outcomes)
            _publish(outcomes, looks)
    except PaletteError as error:
        return Failed(message=str(error))
    message = "; ".join([_count(outcomes), *repair.conclusion(looks)])
    return Completed(message=message, data=outcomes)


def _repair(rounds: int, outcomes: dict[str, str]) -> list[repair.Look]:
    """Train for what would mend the verdict while it fails; every look, the first included.

    What a round ran is added to the outcomes. Where the plan cannot be extended, the rounds end.

    Raises:
        PaletteError: a stage failed.
    """
    logger = get_run_logger()
    looks = [repair.read_look()]
    for _ in range(rounds):
        try:
            words = repair.begin(looks[-1])
        except PaletteError as error:
            logger.warning("no repair was begun: %s", error)
            return [*looks[:-1], looks[-1].unmended(str(error))]
        if words is None:
            break
        logger.info(words)
        # A stage that ran before is not one that this run skipped.
        again = _chain().items()
        outcomes |= {stage: state for stage, state in again if state != Outcome.SKIPPED}
        looks.append(repair.read_look())
        logger.info(repair.bought(*looks[-2:]))
    return looks


def _chain() -> dict[str, str]:
    """Run the sub-flows one after another; stage → its state's name.

    Raises:
        PaletteError: one of them failed.
    """
    outcomes: dict[str, str] = {}
    for part in (insights, subspaces, adapters, portfolio):
        state = part(return_state=True)
        if not state.is_completed():
            raise PaletteError(state.message)
        outcomes |= state.result()
    return outcomes


def _run_stages(name: str) -> State:
    """Run the stages of a flow, each as soon as those that it needs are done."""
    root = Path.cwd()
    try:
        stages = [stage for stage in read_stages(root) if stage.flow == name]
    except PaletteError as error:
        return Failed(message=str(error))
    futures: dict[str, PrefectFuture[State]] = {}
    with Reproducer(root) as reproducer:
        for stage in stages:
            needs = [futures[need] for need in stage.needs if need in futures]
            futures[stage.name] = reproduce.submit(
                stage.name, reproducer, wait_for=needs, return_state=False
            )
        wait(list(futures.values()))
    failed = [str(future.state.message) for future in futures.values() if future.state.is_failed()]
    if failed:
        return Failed(message="; ".join(failed))
    outcomes = {stage: str(future.state.name) for stage, future in futures.items()}
    return Completed(message=_count(outcomes), data=outcomes)


def _count(outcomes: dict[str, str]) -> str:
    names = list(outcomes.values())
    return ", ".join(f"{names.count(name)} {name}" for name in Outcome if name in names)


def _publish(outcomes: dict[str, str], looks: list[repair.Look]) -> None:
    result = "\n\n".join([_result(outcomes), *repair.markdown(looks)])
    create_markdown_artifact(result, key="palette-result", description="The verdict, and what ran")


def _result(outcomes: dict[str, str]) -> str:
    """The artifact: verdict, methods, what ran and where the report lies."""
    rows = "\n".join(f"| {stage} | {outcome} |" for stage, outcome in outcomes.items())
    verdict = summary.markdown(tables.read_json(METRICS))
    return f"{verdict}\n\nReport: `{REPORT}`\n\n| stage | state |\n|---|---|\n{rows}\n"


def main(
    repair_rounds: Annotated[
        int,
        typer.Option(
            min=0,
            help="While the verdict fails, train for what would mend it: so many rounds at most, "
            "each one more look at certify.",
        ),
    ] = 0,
) -> None:
    """Run the whole pipeline here; exit with status 1 and one line if it fails."""
    # Polars installs a handler that restarts system calls: Ctrl-C would not wake a waiting flow.
    signal.siginterrupt(signal.SIGINT, True)
    try:
        state = pipeline(repair_rounds=repair_rounds, return_state=True)
    except KeyboardInterrupt:
        sys.exit("palette: interrupted; finished stages are kept, run the same command to go on")
    if not state.is_completed():
        sys.exit(f"palette: {state.message}")
    print(f"palette: {state.message}")


if __name__ == "__main__":
    typer.run(main)
