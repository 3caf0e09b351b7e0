"""A Prefect server, the deployments of prefect.yaml and a worker that runs them, until stopped.

    python -m flows.serve       # what `make serve` runs

The server's database lies in .palette/prefect, the worker's clone in .palette/clone. However this
process ends, killed outright included, server, worker and the stage that runs end with it; what was
running goes on when it is started again.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from filelock import FileLock, Timeout

from flows import clone, leash
from palette.errors import PaletteError

if TYPE_CHECKING:
    from flows.server import Server

LOCK = Path(".palette/serve.lock")
LOOK_SECONDS = 1.0


def main(
    source: Annotated[
        str | None,
        typer.Option(
            envvar="SOURCE",
            help="What runs follow, and where commits are pushed to: a git URL or path, by its "
            "checked-out branch; by default this checkout, by what it has committed.",
        ),
    ] = None,
) -> None:
    """Serve scheduled runs until stopped; exit with status 1 and one line where that fails."""
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGHUP, _stop)
    try:
        serve(Path.cwd(), source)
    except PaletteError as error:
        sys.exit(f"palette: {error}")
    except KeyboardInterrupt:
        _say("stopped; a run that was not done goes on with the next `make serve`")


def serve(root: Path, source: str | None) -> None:
    """Start everything in order, then wait until something ends.

    Raises:
        PaletteError: something cannot be started, or has ended by itself.
    """
    # Prefect takes seconds to import: help, and a second start, do without.
    from flows.server import HOME, find

    LOCK.parent.mkdir(exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(LOCK, blocking=False))
        except Timeout:
            raise PaletteError("`make serve` runs here already") from None
        server = find()
        here = clone.make(root, source or str(root))
        running = {}
        if not server.running:
            _say(f"starting a Prefect server, which keeps its database in {HOME}")
            running["server"] = stack.enter_context(_server(server))
            if not server.wait(running["server"]):
                raise PaletteError(
                    f"the Prefect server did not start; {HOME / 'server.log'} says why"
                )
        resumed = server.welcome()
        server.deploy(root)
        running["worker"] = stack.enter_context(_worker(server, here))
        if resumed:
            _say(f"{resumed} unfinished runs go on")
        _say(f"serving at {server.ui}, runs in {here}; Ctrl-C stops all of it")
        _wait(running)


@contextmanager
def _server(server: "Server") -> Iterator[subprocess.Popen]:
    from flows.server import HOME

    HOME.mkdir(parents=True, exist_ok=True)
    host, port = server.address
    # Kept in files, slots that are taken are known after a restart.
    leases = "prefect.server.concurrency.lease_storage.filesystem"
    environment = server.environment | {"PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": leases}
    command = [sys.executable, "-m", "prefect", "server", "start"]
    options = ["--host", host, "--port", str(port)]
    with (
        (HOME / "server.log").open("ab") as log,
        _leashed(
            [*command, *options],
            leash.GRACE_SECONDS,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        yield process


def _worker(server: "Server", here: Path) -> AbstractContextManager[subprocess.Popen]:
    from flows.server import POOL

    paths = [str(here / "src"), str(here), os.environ.get("PYTHONPATH", "")]
    programs = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    environment = server.environment | {
        "PALETTE_CLONE": str(here),
        # The environment has the checkout's modules; those of the clone come before them.
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PATH": os.pathsep.join(filter(None, programs)),
    }
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL]
    # Killed without asking: a run that it told to end would be reported as crashed, and not go on.
    return _leashed(command, 0, env=environment)


@contextmanager
def _leashed(command: list[str], grace: float, **options) -> Iterator[subprocess.Popen]:
    process = leash.start(command, grace, **options)
    try:
        yield process
    finally:
        leash.let_go(process)
        process.wait()
        # A command that ended by itself may have left some of its own behind.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _wait(running: dict[str, subprocess.Popen]) -> None:
    """Until one of the programs ends by itself.

    Raises:
        PaletteError: always, as they should not.
    """
    while True:
        time.sleep(LOOK_SECONDS)
        for name, process in running.items():
            if process.poll() is not None:
                raise PaletteError(
                    f"the Prefect {name} ended by itself with status {process.returncode}: start "
                    "`make serve` again, and what was running goes on"
                )


def _say(words: str) -> None:
    print(f"palette: {words}", flush=True)


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    typer.run(main)
