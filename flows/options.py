"""What a run may change of params.yaml; DVC sees what is stale then."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flows.clone import bring, is_clone
from palette.errors import PaletteError
from palette.params import Params
from palette.params_edit import set_value
from palette.params_file import load

PARAMS = Path("params.yaml")


@dataclass(frozen=True)
class Options:
    """Values to put into params.yaml; what is None stays as it is there."""

    base: str | None = None
    """base.model; owner/name@commit pins base.revision too"""
    histories: str | None = None
    """users.file"""
    epsilon: float | None = None
    """portfolio.epsilon"""

    def edits(self) -> dict[str, Any]:
        """Key of params.yaml → its new value."""
        found = {"users.file": self.histories, "portfolio.epsilon": self.epsilon}
        found = {key: value for key, value in found.items() if value is not None}
        if self.base is not None:
            model, _, revision = self.base.partition("@")
            if Path(self.base).exists():
                model, revision = self.base, ""
            found |= {"base.model": model, "base.revision": revision or None}
        return found

    def apply(self, root: Path) -> list[str]:
        """Edit params.yaml, whole or not at all; what changed, a phrase for each key.

        In a worker's clone, files that it names are brought from the checkout.

        Raises:
            PaletteError: params.yaml would be refused, or names what does not exist.
        """
        file = root / PARAMS
        with tempfile.TemporaryDirectory() as folder:
            trial = Path(folder) / PARAMS
            shutil.copy2(file, trial)
            try:
                for key, value in self.edits().items():
                    set_value(trial, key, value)
                params = load(trial)
            except PaletteError as error:
                raise PaletteError(str(error).replace(str(trial), str(PARAMS))) from None
            if is_clone(root):
                bring(root, params)
            self._check_named(root, params)
            before, after = file.read_bytes(), trial.read_bytes()
        if after != before:
            part = file.with_suffix(".tmp")
            part.write_bytes(after)
            shutil.copymode(file, part)
            part.replace(file)
        return _changes(yaml.safe_load(before), yaml.safe_load(after), self.edits())

    def _check_named(self, root: Path, params: Params) -> None:
        if self.histories is not None and not (root / self.histories).is_file():
            raise PaletteError(f"histories is '{self.histories}', and there is no such file")
        if self.base not in (None, "sandbox"):
            from palette.base import reference

            reference(params.base.model, params.base.revision)


def _changes(before: dict, after: dict, edits: dict[str, Any]) -> list[str]:
    def value(content: dict, key: str) -> Any:
        section, name = key.split(".")
        return (content.get(section) or {}).get(name)

    pairs = [(key, value(before, key), value(after, key)) for key in edits]
    return [f"{key}: {old} → {new}" for key, old, new in pairs if old != new]
