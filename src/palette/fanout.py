"""Fanning out over prompts, users or weights with joblib: `runtime.engine` says where to.

`dask` is a cluster that runs already; Dask's own setting names it:

    dask scheduler                                               # prints tcp://HOST:8786
    dask worker tcp://HOST:8786 --nworkers 4 --nthreads 1        # on each machine, in a checkout
    DASK_SCHEDULER_ADDRESS=tcp://HOST:8786 dvc repro             # runtime: {engine: dask, workers: 8}

At most `runtime.workers` items are under way at once, on as many workers of the cluster. A worker has
one thread, because items share the models that a process has loaded; `threads` are PyTorch's, and
`device` is looked for on the worker. An item brings along the rows that it works on; models and adapters
are read from `data/`, so workers start in a checkout of the same commit, with this `data/` (on a shared
file system). Results come back to the process that asked, which stores them; checkpoints of unfinished
trainings are the worker's to store: `runtime.store` is best a bucket, or on that file system.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from palette.errors import PaletteError
from palette.params import Runtime
from palette.progress import progress
from palette.stage import prepare


def fan_out(
    function: Callable[..., Any], items: Iterable[Any], runtime: Runtime, words: str
) -> Iterable[Any]:
    """Yield `function(item)` of every item, in order, with a progress bar.

    What a function returns must depend on its item alone, never on the worker that runs it. Where
    there are fewer items than workers, each has the threads of the idle ones too (on a cluster they
    are other machines'): sums of floats may then differ in their last bits from those of a run with
    more items.

    Raises:
        PaletteError: the first that a function raised, on whatever worker; or no Dask cluster is to
            be had.
    """
    from joblib import Parallel, delayed, parallel_config

    # loky replaces a worker whose memory has grown, which is what should happen, and warns of it.
    warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
    items = list(items)
    workers = min(runtime.workers, len(items)) or 1
    threads = runtime.threads
    if runtime.engine != "dask":
        threads = threads * runtime.workers // workers
    with _engine(function, runtime.engine, workers, bool(items)) as engine:
        with parallel_config(**engine):  # joblib knows dask only by this way
            parallel = Parallel(n_jobs=workers, return_as="generator", pre_dispatch=workers)
        with progress(words, total=len(items)) as advance:
            for result in parallel(delayed(_run)(function, item, threads) for item in items):
                advance(1)
                yield result


@contextmanager
def lent(runtime: Runtime) -> Iterator[None]:
    """Work that is not fanned out has the threads of all workers."""
    with _threads(runtime.threads * runtime.workers):
        yield


def _run(function: Callable[..., Any], item: Any, threads: int) -> Any:
    prepare(threads)
    with _threads(threads):
        return function(item)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _engine(
    function: Callable[..., Any], engine: str, workers: int, needed: bool
) -> Iterator[dict[str, Any]]:
    """What joblib.parallel_config has to know of an engine."""
    if engine == "dask" and needed:
        with _cluster() as client:
            # What the function holds (prompts, rollouts) goes to each worker once, not with each item.
            yield {"backend": "dask", "client": client, "scatter": [function]}
    else:
        yield {"backend": engine if workers > 1 else "sequential"}


def _cluster() -> Any:
    """A client of the running cluster that Dask's configuration names.

    Raises:
        PaletteError: none is named, none answers, or it cannot run our items.
    """
    try:
        import dask
        from distributed import Client
    except ImportError:
        raise PaletteError(
            "runtime.engine is dask, which is not installed: pip install dask distributed, here and "
            "on the workers, or set runtime.engine to loky"
        ) from None
    address = dask.config.get("scheduler-address", None)
    if not address:
        raise PaletteError(
            "runtime.engine is dask, but no cluster is named: set DASK_SCHEDULER_ADDRESS to the "
            "address that `dask scheduler` prints, such as tcp://HOST:8786, or runtime.engine to loky"
        )
    try:
        client = Client(address, set_as_default=False)
    except (OSError, ValueError) as error:
        raise PaletteError(
            f"no Dask scheduler answers at {address} ({error}): start one with `dask scheduler`, or "
            "correct DASK_SCHEDULER_ADDRESS"
        ) from None
    threads = client.nthreads()
    if threads and max(threads.values()) == 1:
        return client
    client.close()
    trouble = "has a worker of several threads" if threads else "has no worker"
    raise PaletteError(
        f"the Dask cluster at {address} {trouble}: start its workers with "
        f"`dask worker {address} --nworkers N --nthreads 1`"
    )
