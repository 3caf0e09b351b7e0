"""The whole chain as Prefect flows: insights → subspaces → adapters → portfolio.

    python -m flows.pipeline        # with the server of PREFECT_API_URL, or one for this run alone
    python -m flows.pipeline --repair-rounds 2      # and trains further while the verdict fails

A task is one DVC stage. DVC decides what is stale; the state of a task's run says what it decided:
Completed (the stage ran), Cached (restored from the run-cache) or Skipped (nothing had changed).
"""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from prefect import flow, get_run_logger
from prefect.states import Completed, Failed, State
from pydantic import Field

from flows import artifacts, repair
from flows.branch import Branch
from flows.graph import read_stages
from flows.options import Options
from flows.reproduction import Outcome
from flows.run import begin
from flows.stages import CHAIN, Chain, count, run_stages
from palette.errors import PaletteError

Commit = Annotated[str | None, Field(description="branch on which the results are committed")]
Push = Annotated[bool, Field(description="and pushed to origin")]
Notify = Annotated[str | None, Field(description="notification block, as TYPE/NAME")]


@flow(name="insights", flow_run_name=artifacts.run_name)
def insights(commit: Commit = None, push: Push = False, notify: Notify = None) -> State:
    """From users' histories to the base's sentences on them."""
    return _part("insights", Branch(Path.cwd(), commit, push), notify)


@flow(name="subspaces", flow_run_name=artifacts.run_name)
def subspaces(commit: Commit = None, push: Push = False, notify: Notify = None) -> State:
    """From self-generated pairs to personal and neutral directions."""
    return _part("subspaces", Branch(Path.cwd(), commit, push), notify)


@flow(name="adapters", flow_run_name=artifacts.run_name)
def adapters(commit: Commit = None, push: Push = False, notify: Notify = None) -> State:
    """From rollouts and rewards to the plan, and the adapters that it asks for."""
    return _part("adapters", Branch(Path.cwd(), commit, push), notify)


@flow(name="portfolio", flow_run_name=artifacts.run_name)
def portfolio(commit: Commit = None, push: Push = False, notify: Notify = None) -> State:
    """From adapters to the certified portfolio, a route for every user, and the report."""
    return _part("portfolio", Branch(Path.cwd(), commit, push), notify)


@flow(name="palette", flow_run_name=artifacts.run_name)
def pipeline(
    base: Annotated[
        str | None, Field(description="base.model; a hub id as owner/name@commit")
    ] = None,
    histories: Annotated[str | None, Field(description="users.file, in inputs/users/")] = None,
    epsilon: Annotated[float | None, Field(gt=0, lt=1, description="portfolio.epsilon")] = None,
    repair_rounds: Annotated[int, Field(ge=0)] = 0,
    commit: Commit = None,
    push: Push = False,
    notify: Notify = None,
) -> State:
    """The whole chain; ends with the verdict as an artifact.

    Args:
        base, histories, epsilon: put into params.yaml; what is None stays as it is there.
        repair_rounds: how often at most, while the verdict fails, the weights that would mend it
            are added to the plan and what follows runs again. Each is one more look at certify.
        commit: branch on which dvc.lock, reports/ and changed parameters are committed.
        push: and it is pushed to origin.
        notify: notification block that tells of a certificate lost and of tastes that drifted.
    """
    options = Options(base, histories, epsilon)

    def work() -> tuple[dict[str, str], list[str]]:
        outcomes = _chain()
        looks: list[repair.Look] = []
        artifacts.publish(outcomes, looks)  # it stands also where a stage of a repair fails
        if repair_rounds:
            looks = _repair(repair_rounds, outcomes)
            artifacts.publish(outcomes, looks)
        return outcomes, repair.conclusion(looks)

    return _run(options, Branch(Path.cwd(), commit, push), notify, work)


def _part(name: str, branch: Branch, notify: str | None) -> State:
    """A sub-flow, as a part of the chain or by itself."""
    if CHAIN.get() is not None:
        try:
            outcomes = run_stages(name)
        except PaletteError as error:
            return Failed(message=str(error))
        return Completed(message=count(outcomes), data=outcomes)
    return _run(Options(), branch, notify, lambda: (run_stages(name), []))


def _run(
    options: Options,
    branch: Branch,
    notify: str | None,
    work: Callable[[], tuple[dict[str, str], list[str]]],
) -> State:
    """A run that was asked for by itself; `work` gives stage → state, and what else to say."""
    try:
        run = begin(options, branch, notify)
        outcomes, said = work()
        words = "; ".join([count(outcomes), *said])
        words = "; ".join([words, *run.end(words)])
    except PaletteError as error:
        return Failed(message=str(error))
    return Completed(message=words, data=outcomes)


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
    stages = read_stages(Path.cwd())
    token = CHAIN.set(Chain(stages, artifacts.Progress(len(stages))))
    try:
        for part in (insights, subspaces, adapters, portfolio):
            state = part(return_state=True)
            if not state.is_completed():
                raise PaletteError(state.message)
            outcomes |= state.result()
    finally:
        CHAIN.reset(token)
    return outcomes


def main(
    base: Annotated[
        str | None,
        typer.Option(help="Set base.model in params.yaml first; owner/name@commit for a hub id."),
    ] = None,
    histories: Annotated[
        str | None, typer.Option(help="Set users.file in params.yaml first; in inputs/users/.")
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Set portfolio.epsilon in params.yaml first.")
    ] = None,
    repair_rounds: Annotated[
        int,
        typer.Option(
            min=0,
            help="While the verdict fails, train for what would mend it: so many rounds at most, "
            "each one more look at certify.",
        ),
    ] = 0,
    commit: Annotated[
        str | None,
        typer.Option(help="Commit dvc.lock, reports/ and parameters on this other branch."),
    ] = None,
    push: Annotated[bool, typer.Option("--push", help="And push the branch to origin.")] = False,
) -> None:
    """Run the whole pipeline here; exit with status 1 and one line if it fails."""
    # Polars installs a handler that restarts system calls: Ctrl-C would not wake a waiting flow.
    signal.siginterrupt(signal.SIGINT, True)
    try:
        Branch(Path.cwd(), commit, push).check()
        Options(base, histories, epsilon).apply(Path.cwd())
        state = pipeline(repair_rounds=repair_rounds, commit=commit, push=push, return_state=True)
    except PaletteError as error:
        sys.exit(f"palette: {error}")
    except KeyboardInterrupt:
        sys.exit("palette: interrupted; finished stages are kept, run the same command to go on")
    if not state.is_completed():
        sys.exit(f"palette: {state.message}")
    print(f"palette: {state.message}")


if __name__ == "__main__":
    typer.run(main)
