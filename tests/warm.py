"""Python programs in processes that are forked from one that has imported the libraries.

Every program has a process of its own, with its own arguments, folder, environment and output, and
imports palette itself; only the seconds that torch, transformers and their like take are shared. So is
the seed of hashes: what must not depend on it is to be run by a real `python` as well.
"""

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import traceback
from contextlib import suppress
from pathlib import Path

LIBRARIES = (
    "dvc.cli", "dvc.commands.repro", "dvc.repo.reproduce", "numpy", "polars", "pyarrow.parquet", "yaml",
    "pydantic", "rich", "typer", "scipy.optimize", "scipy.spatial", "scipy.stats", "torch", "joblib",
    "transformers", "transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama",
    "transformers.models.llama.tokenization_llama", "peft", "safetensors.torch", "altair",
    "datasets", "trl.trainer.sft_trainer", "trl.trainer.rloo_trainer", "trl.trainer.dpo_trainer",
)  # fmt: skip
CLIENT = """#!{python} -IS
import json, os, socket, sys
to = socket.socket(socket.AF_UNIX)
to.connect({address!r})
told = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(to, [len(told).to_bytes(8, "big")], [0, 1, 2])
to.sendall(told)
sys.exit(int(to.recv(4) or b"137"))
"""


class Warm:
    """A server of such processes, until it is closed; `python` stands in for the interpreter."""

    def __init__(self, folder: Path):
        address = folder / "warm"
        self.prefix = folder
        """as `sys.prefix`: has bin/python"""
        self.python = folder / "bin/python"
        self.python.parent.mkdir()
        self.python.write_text(CLIENT.format(python=sys.executable, address=str(address)))
        self.python.chmod(0o755)
        environment = os.environ | {  # as palette.stage prepares a process, before it imports
            "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
            "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error",
        }  # fmt: skip
        self.server = subprocess.Popen(
            [sys.executable, __file__, address], env=environment, stdout=subprocess.PIPE
        )
        assert self.server.stdout is not None
        assert self.server.stdout.readline() == b"ready\n"

    def close(self) -> None:
        self.server.kill()
        self.server.wait()


def serve(address: str) -> None:
    """Fork a process for everyone who connects."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    print("ready", flush=True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them but who asked
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            code = 1
            with suppress(BaseException):
                code = answer(connection)
            connection.sendall(str(code).encode())
            os._exit(0)
        connection.close()


def answer(connection: socket.socket) -> int:
    """Run what is asked for; its exit status."""
    head, outputs, _, _ = socket.recv_fds(connection, 8, 3)
    left, parts = int.from_bytes(head, "big"), []
    while left:
        parts.append(connection.recv(left))
        left -= len(parts[-1])
    arguments, folder, environment = json.loads(b"".join(parts))
    for number, output in enumerate(outputs):
        os.dup2(output, number)
        os.close(output)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.pycache_prefix = environment.get("PYTHONPYCACHEPREFIX")
    sys.dont_write_bytecode = bool(environment.get("PYTHONDONTWRITEBYTECODE"))
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    while arguments[0].startswith("-") and arguments[0] != "-m":
        del arguments[0]
    try:
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            runpy.run_path(sys.argv[0], run_name="__main__")
        return 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    import importlib

    del sys.path[0]  # the folder of the tests
    for library in LIBRARIES:
        importlib.import_module(library)
    serve(sys.argv[1])
