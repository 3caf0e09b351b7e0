"""The Prefect server that `make serve` talks to: which one it is, and what it must know of us."""

import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter, WorkPoolFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_SERVER_API_HOST,
    PREFECT_SERVER_API_PORT,
    temporary_settings,
)
from prefect.states import Cancelled, Crashed, Scheduled, State
from prefect.workers.process import ProcessWorker

from palette.errors import PaletteError

POOL = "palette"
HOME = Path(".palette/prefect")
"""Database, logs and slots of a server of our own."""
LOCAL = ("127.0.0.1", "localhost", "::1", "0.0.0.0")
ANSWER_SECONDS = 10  # for a health check, until it counts as none
START_SECONDS = 300  # ten on an idle machine; a first start makes the database


@dataclass(frozen=True)
class Server:
    """A Prefect server; `running` already, or to be started by us."""

    url: str
    running: bool

    @property
    def environment(self) -> dict[str, str]:
        """Variables for whoever talks to it; nothing of a server of our own is outside the project."""
        home = {} if self.running else {"PREFECT_HOME": str(HOME.absolute())}
        return os.environ | home | {"PREFECT_API_URL": self.url}

    @property
    def ui(self) -> str:
        return self.url.removesuffix("/api")

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or {"http": 80, "https": 443}[parts.scheme]

    def wait(self, process: subprocess.Popen) -> bool:
        """Until the server that this process starts answers; False if it ends before."""
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            if _answers(self.url):
                return True
            time.sleep(0.2)
        return False

    def welcome(self) -> int:
        """Make the work pool, and let runs go on whose worker was killed; how many these are.

        The pool runs one flow at a time: all runs share one clone, which each of them refreshes.
        """
        with (
            temporary_settings({PREFECT_API_URL: self.url}),
            get_client(sync_client=True) as client,
        ):
            template = ProcessWorker.get_default_base_job_template()
            pool = WorkPoolCreate(
                name=POOL, type="process", base_job_template=template, concurrency_limit=1
            )
            client.create_work_pool(pool, overwrite=True)
            return sum(_go_on(client, run) for run in _lost(client))

    def deploy(self, root: Path) -> None:
        """Create or update the deployments of prefect.yaml.

        Raises:
            PaletteError: Prefect refuses.
        """
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
            cwd=root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            raise PaletteError(f"prefect.yaml could not be deployed: {said[-1].strip()}")


def find() -> Server:
    """The server that PREFECT_API_URL names, else one of our own.

    Raises:
        PaletteError: it does not answer, or another program has its port.
    """
    named = PREFECT_API_URL.value()
    host, port = PREFECT_SERVER_API_HOST.value(), PREFECT_SERVER_API_PORT.value()
    server = Server(named or f"http://{host}:{port}/api", False)
    if _answers(server.url):
        if named:
            return Server(named, True)
        raise PaletteError(
            f"a Prefect server runs at {server.ui} already: `PREFECT_API_URL={server.url} make "
            f"serve` uses it, `PREFECT_SERVER_API_PORT={port + 1} make serve` starts another"
        )
    if server.address[0] not in LOCAL:
        raise PaletteError(
            f"PREFECT_API_URL is {named}, where no Prefect server answers: start it, or unset "
            "PREFECT_API_URL to have one of your own"
        )
    if _taken(server.address):
        raise PaletteError(
            f"port {server.address[1]} is taken by another program: choose one, as in "
            f"`PREFECT_SERVER_API_PORT={server.address[1] + 1} make serve`"
        )
    return server


def _lost(client: SyncPrefectClient) -> list[FlowRun]:
    """Runs that are not done and have no process: their worker was killed."""
    unfinished = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    runs = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state={"type": {"any_": unfinished}}),
        work_pool_filter=WorkPoolFilter(name={"any_": [POOL]}),
    )
    return [run for run in runs if not _alive(run.infrastructure_pid)]


def _go_on(client: SyncPrefectClient, run: FlowRun) -> bool:
    """Schedule a lost run again, unless it was to be cancelled: whether it goes on."""
    goes_on = run.state_type != StateType.CANCELLING
    state: State[None] = Cancelled(message="its worker was stopped, and it with it")
    if goes_on:
        state = Scheduled(name="AwaitingRetry", message="its worker was stopped; it goes on")
    client.set_flow_run_state(run.id, state, force=True)
    _bury_stages(client, run.id)
    return goes_on


def _bury_stages(client: SyncPrefectClient, run: UUID) -> None:
    """The stages of a run that was killed did not end, and nobody else will ever say so."""
    running = TaskRunFilter(state={"type": {"any_": [StateType.RUNNING]}})
    own, inside = (FlowRunFilter(**{key: {"any_": [run]}}) for key in ("id", "parent_flow_run_id"))
    for where in (own, inside):
        for found in client.read_task_runs(flow_run_filter=where, task_run_filter=running):
            if found.state and found.state.state_details.child_flow_run_id is None:
                state: State[None] = Crashed(message="its worker was stopped")
                client.set_task_run_state(found.id, state, force=True)  # but a sub-flow goes on


def _answers(url: str) -> bool:
    hasty = {"timeout": ANSWER_SECONDS}
    with (
        temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}),
        get_client(httpx_settings=hasty, sync_client=True) as client,
    ):
        return client.api_healthcheck() is None


def _taken(address: tuple[str, int]) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(address) == 0


def _alive(pid: str | None) -> bool:
    return pid is not None and pid.isdigit() and psutil.pid_exists(int(pid))
