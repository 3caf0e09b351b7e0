"""What every stage's command shares: validated params, threads, one-sentence errors."""

import ctypes
import os
import sys
from collections.abc import Callable

from palette.errors import PaletteError
from palette.params import Params
from palette.params_file import load


def run(main: Callable[[Params], None]) -> None:
    """Run a stage: validate params.yaml, set up the process, print a PaletteError as one sentence."""
    try:
        params = load()
        prepare(params.runtime.threads)
        main(params)
    except PaletteError as error:
        sys.exit(f"palette: {error}")
    except KeyboardInterrupt:
        sys.exit("palette: interrupted; what was finished is kept, run the same command to go on")


def prepare(threads: int) -> None:
    """Set up a process for work: threads, memory allocator, no telemetry, no hub unless asked."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Ask glibc to keep freed memory: batches of growing size otherwise fault every page anew.

    Measured: a forward and backward pass over batches sorted by length took 0.36 s against 1.16 s.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:  # not glibc: nothing to tune
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    for option, value in (
        (mmap_threshold, 1 << 30),
        (trim_threshold, 1 << 30),
        (top_pad, 64 << 20),
    ):
        libc.mallopt(option, value)
