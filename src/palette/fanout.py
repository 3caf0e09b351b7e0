"""Fanning out over prompts, users or weights with joblib: `runtime.engine` says where to."""

import warnings
from collections.abc import Callable, Iterable
from typing import Any

from palette.params import Runtime
from palette.progress import progress
from palette.stage import prepare


def fan_out(
    function: Callable[..., Any], items: Iterable[Any], runtime: Runtime, words: str
) -> Iterable[Any]:
    """Yield `function(item)` of every item, in order, with a progress bar.

    What a function returns must depend on its item alone, never on the worker that runs it.
    """
    from joblib import Parallel, delayed

    # loky replaces a worker whose memory has grown, which is what should happen, and warns of it.
    warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
    items = list(items)
    workers = min(runtime.workers, len(items)) or 1
    engine = runtime.engine if workers > 1 else "sequential"
    parallel = Parallel(n_jobs=workers, backend=engine, return_as="generator", pre_dispatch=workers)
    with progress(words, total=len(items)) as advance:
        for result in parallel(delayed(_run)(function, item, runtime.threads) for item in items):
            advance(1)
            yield result


def _run(function: Callable[..., Any], item: Any, threads: int) -> Any:
    import torch

    prepare(threads)
    torch.set_num_threads(threads)
    return function(item)
