"""Reading params.yaml: a bad file is refused in one sentence before anything runs.

python -m palette.params_file        # explain every key
"""

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from palette.consistency import trait_kinds
from palette.errors import PaletteError, nearest
from palette.params import Params, Trait


def load(path: str | Path = "params.yaml") -> Params:
    """Read and validate a params file.

    Raises:
        PaletteError: one sentence naming the key, its value and what is allowed.
    """
    path = Path(path)
    if not path.exists():
        raise PaletteError(f"{path} does not exist; run palette from the project's top folder")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" (line {where.line + 1})" if where else ""
        raise PaletteError(f"{path} is not valid YAML{line}: mend the syntax there") from None
    if not isinstance(raw, dict):
        raise PaletteError(f"{path} must be a mapping of sections, such as `base:` and `traits:`")
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise PaletteError(f"{path}: {_sentence(error)}") from None


def _sentence(error: ValidationError) -> str:
    """The first problem, as a sentence."""
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"] if part != "[key]")
    if problem["type"] == "extra_forbidden":
        section = _section(problem["loc"][:-1])
        return f"'{key}' is an unknown key; {nearest(str(problem['loc'][-1]), section)}"
    if problem["type"] == "missing":
        return f"'{key}' is missing; add it"
    if not key:
        return problem["msg"].removeprefix("Value error, ")
    allowed = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{key} is {problem['input']!r}, but {allowed}"


def _section(loc: tuple[Any, ...]) -> list[str]:
    model: Any = Params
    for part in loc:
        model = model.model_fields[part].annotation
    return list(model.model_fields)


def describe() -> list[tuple[str, str, str]]:
    """(key, default, meaning) of every parameter, for `palette params`."""
    rows = []
    for section, field in Params.model_fields.items():
        if section == "traits":
            for key, sub in Trait.model_fields.items():
                kinds = ": " + ", ".join(trait_kinds()) if key == "kind" else ""
                default = "" if sub.is_required() else str(sub.default)
                rows.append((f"traits.NAME.{key}", default, (sub.description or "") + kinds))
            continue
        model: Any = field.annotation
        for key, sub in model.model_fields.items():
            default = sub.default
            shown = default.model_dump() if isinstance(default, BaseModel) else default
            rows.append((f"{section}.{key}", str(shown), sub.description or ""))
    return rows


if __name__ == "__main__":
    for key, default, meaning in describe():
        print(f"{key:28} {default:12} {meaning}")
