"""Python: a function of your own on a batch of prompts and responses, from inputs/traits/.

wit: {kind: python, function: 'wit:score', threshold: 0.5}    # inputs/traits/wit.py

    def score(prompts: list[str], responses: list[str], threshold: float) -> list[float]: ...
"""

import hashlib
import re
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from palette.errors import PaletteError, nearest

FOLDER = Path("inputs/traits")
NAMED = re.compile(r"([A-Za-z_]\w*)((?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")
"""module, or package and what lies in it, and function"""


def reward(
    prompts: Sequence[str], responses: Sequence[str], function: str, **parameters: Any
) -> Any:
    """What the function gives; the parameters of the trait are its own.

    Raises:
        PaletteError: there is no such module or function.
    """
    own = _load(function, FOLDER.resolve(), digest(function))
    return own(list(prompts), list(responses), **parameters)


def digest(function: str, **_: Any) -> str:
    """sha256 of the function's module, or of all files of its package.

    Raises:
        PaletteError: there is no such module.
    """
    source = _source(function)
    files = [file for file in sorted([source, *source.rglob("*")]) if file.is_file()]
    total = hashlib.sha256()
    for file in (file for file in files if "__pycache__" not in file.parts):
        total.update(file.relative_to(source.parent).as_posix().encode())
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def _source(function: str) -> Path:
    """The module's file, or the package's folder."""
    named = NAMED.fullmatch(function)
    if not named:
        raise PaletteError(
            f"function is '{function}', but must be module:function, with the module in {FOLDER}/"
        )
    for path in (FOLDER / named[1], FOLDER / f"{named[1]}.py"):
        if path.is_file() or (path / "__init__.py").is_file():
            return path
    known = sorted(path.stem for path in FOLDER.glob("*.py"))
    raise PaletteError(
        f"function is '{function}', but {FOLDER}/{named[1]}.py does not exist; "
        + (nearest(named[1], known) if known else "write it there")
    )


@lru_cache
def _load(function: str, folder: Path, made_of: str) -> Callable[..., Any]:
    """The function, from a module of its own name: imported once in a process, again when changed."""
    source, named = _source(function), NAMED.fullmatch(function)
    assert named  # _source has seen it
    module, inner, name = named.groups()
    package = source.is_dir()
    own = f"palette_trait_{module}_{made_of[:12]}"
    if own not in sys.modules:
        spec = spec_from_file_location(
            own, source / "__init__.py" if package else source,
            submodule_search_locations=[str(folder / module)] if package else None,
        )  # fmt: skip
        assert spec and spec.loader  # of a file that ends in .py
        sys.modules[own] = module_from_spec(spec)
        # Bytecode is found again by time and size alone: it may be that of the module as it was.
        writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
        try:
            spec.loader.exec_module(sys.modules[own])
        except BaseException:
            del sys.modules[own]
            raise
        finally:
            sys.dont_write_bytecode = writes
    found = getattr(import_module(own + inner), name, None)
    if not callable(found):
        raise PaletteError(f"function is '{function}', but {source} has no function {name}")
    return found
