"""The stages of a flow as task runs: side by side where they can, tried again where it may help."""

from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, as_completed
from prefect.states import Completed, Failed, State

from flows.artifacts import Progress
from flows.graph import Stage, read_stages
from flows.reproduction import Outcome, Reproducer, StageFailed, StageRefused, StageStopped
from palette.errors import PaletteError

RETRY_SECONDS, JITTER = [3.0, 30.0], 0.5
FAILED = "Failed"
NAMES = {StageRefused: "Refused", StageStopped: "Stopped"}
"""What the state of a task's run is called where trying again would be in vain."""


@dataclass(frozen=True)
class Chain:
    """What the sub-flows of one run share."""

    stages: list[Stage]
    progress: Progress


CHAIN: ContextVar[Chain | None] = ContextVar("chain", default=None)
"""The run that a sub-flow is a part of; None where it runs by itself."""


@task(
    task_run_name="{stage}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=len(RETRY_SECONDS),
    retry_delay_seconds=RETRY_SECONDS,
    retry_jitter_factor=JITTER,
    retry_condition_fn=lambda _task, _run, state: state.name == FAILED,
)
def reproduce(stage: str, reproducer: Reproducer) -> State:
    """Bring one stage up to date; tried again where it failed for a reason that may pass."""
    logger = get_run_logger()
    try:
        outcome = reproducer.reproduce(stage, say=logger.info)
    except StageFailed as error:
        name = NAMES.get(type(error), FAILED)
        return Failed(name=name, message=f"{stage}: {error}")
    return Completed(name=outcome.value, message=f"{stage}: {outcome.value}", data=outcome.value)


def run_stages(name: str) -> dict[str, str]:
    """Run the stages of a flow, each as soon as those that it needs are done; stage → state.

    Raises:
        PaletteError: some failed; those that need none of them are done all the same.
    """
    root = Path.cwd()
    chain = CHAIN.get()
    stages = chain.stages if chain else read_stages(root)
    stages = [stage for stage in stages if stage.flow == name]
    progress = chain.progress if chain else Progress(len(stages))
    futures: dict[str, PrefectFuture[State]] = {}
    with Reproducer(root) as reproducer:
        for stage in stages:
            needs = [futures[need] for need in stage.needs if need in futures]
            futures[stage.name] = reproduce.submit(
                stage.name, reproducer, wait_for=needs, return_state=False
            )
        names = {future: stage for stage, future in futures.items()}
        for future in as_completed(list(futures.values())):
            future.wait()  # or its state would be the one that the server has heard of
            progress.step(names[future], str(future.state.name))
    failed = [str(future.state.message) for future in futures.values() if future.state.is_failed()]
    if failed:
        raise PaletteError("; ".join(failed))
    return {stage: str(future.state.name) for stage, future in futures.items()}


def count(outcomes: dict[str, str]) -> str:
    """How many stages ended in each state."""
    names = list(outcomes.values())
    return ", ".join(f"{names.count(name)} {name}" for name in Outcome if name in names)
