"""Runs a command on a leash: once nobody holds the other end of its stdin, the command dies.

    python leash.py COMMAND ...     # stdin is a pipe, and this process leads its own session

So a flow run that is cancelled, interrupted or killed outright (SIGKILL leaves no time to clean
up) takes its stage along: DVC, the shell under it and every worker process of the stage.
"""

import os
import signal
import subprocess
import sys
import threading
import time

GRACE_SECONDS = 1.0  # between asking and killing


def main(command: list[str]) -> int:
    # A handler, not SIG_IGN: being ignored would be inherited by the command.
    signal.signal(signal.SIGTERM, lambda *_: None)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    cut = threading.Event()
    watcher = threading.Thread(target=_watch, args=[cut], daemon=True)
    watcher.start()
    status = child.wait()
    if cut.is_set():
        watcher.join()  # grandchildren may outlive the child: stay until the whole group is killed
    return status if status >= 0 else 128 - status


def _watch(cut: threading.Event) -> None:
    while os.read(0, 1024):
        pass
    cut.set()
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
