"""Which files under data/ a piece of code reads, however it opens them."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import safetensors.torch

DATA = "data"
_recording: list[set[str]] = []


@contextmanager
def recorded() -> Iterator[set[str]]:
    """Files under ./data, as data/…, that are opened to be read while this is entered."""
    found: set[str] = set()
    with pytest.MonkeyPatch.context() as patch:
        # These open files in Rust, where Python's audit events do not see them.
        patch.setattr(pl, "read_parquet", _noting(pl.read_parquet))
        patch.setattr(pl, "scan_parquet", _noting(pl.scan_parquet))
        patch.setattr(safetensors.torch, "load_file", _noting(safetensors.torch.load_file))
        _recording.append(found)
        try:
            yield found
        finally:
            _recording.remove(found)


def _noting(opens: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(opens)
    def noting(source: Any, *args: Any, **kwargs: Any) -> Any:
        _note(source)
        return opens(source, *args, **kwargs)

    return noting


def _note(source: Any) -> None:
    if _recording and isinstance(source, str | os.PathLike):
        path = Path(os.path.relpath(source))
        if path.parts[0] == DATA:
            for found in _recording:
                found.add(path.as_posix())


def _hear(event: str, args: tuple) -> None:
    if event == "open" and _recording and not args[2] & (os.O_WRONLY | os.O_RDWR):
        _note(args[0])


sys.addaudithook(_hear)
