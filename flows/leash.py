"""Runs a command on a leash: once nobody holds the other end of its stdin, the command dies.

    python leash.py GRACE COMMAND ...     # stdin is a pipe, and this process leads its own session

So a flow run that is cancelled, interrupted or killed outright (SIGKILL leaves no time to clean
up) takes its stage along: DVC, the shell under it and every worker process of the stage.
"""

import os
import signal
import stat
import subprocess
import sys
import threading
import time

GRACE_SECONDS = 1.0  # between asking and killing


def start(command: list[str], grace: float = GRACE_SECONDS, **options) -> subprocess.Popen:
    """Put a command on a leash: it dies with all its group once the process's stdin is closed.

    Args:
        grace: seconds between asking and killing; 0 kills without asking.
        options: for subprocess.Popen.
    """
    # Nothing but this file is imported: a leash must not depend on what it is there to end.
    leash = [sys.executable, "-S", "-E", __file__, str(grace)]
    return subprocess.Popen(
        [*leash, *command], stdin=subprocess.PIPE, start_new_session=True, **options
    )


def let_go(process: subprocess.Popen) -> None:
    """End what `start` has put on a leash; it may have ended already."""
    assert process.stdin is not None
    process.stdin.close()


def follow() -> None:
    """End this process and its group once nobody holds the other end of its stdin, if it is a pipe."""
    mode = os.fstat(0).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        threading.Thread(target=_watch, args=[threading.Event(), 0.0], daemon=True).start()


def main(grace: float, command: list[str]) -> int:
    # A handler, not SIG_IGN: being ignored would be inherited by the command.
    signal.signal(signal.SIGTERM, lambda *_: None)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    cut = threading.Event()
    watcher = threading.Thread(target=_watch, args=[cut, grace], daemon=True)
    watcher.start()
    status = child.wait()
    if cut.is_set():
        watcher.join()  # grandchildren may outlive the child: stay until the whole group is killed
    return status if status >= 0 else 128 - status


def _watch(cut: threading.Event, grace: float) -> None:
    while os.read(0, 1024):
        pass
    cut.set()
    if grace:
        os.killpg(0, signal.SIGTERM)
        time.sleep(grace)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
