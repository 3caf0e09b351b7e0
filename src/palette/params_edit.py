"""Changing one key of params.yaml in place: every other byte of the file stays as it is."""

import shutil
from pathlib import Path
from typing import Any

import yaml

from palette.errors import PaletteError

ROOM = 2  # spaces between a value and its comment where the value reaches the comment's column


def set_value(path: Path, key: str, value: Any) -> None:
    """Set `section.key` to a value, where it is or as the section's first key, or in a new section.

    A comment behind the value stays in its column where there is room. Written whole or not at all.

    Raises:
        PaletteError: the file is not a mapping of sections, or the key's place in it is not plain.
    """
    text = path.read_bytes().decode("utf-8")
    section, name = key.split(".")
    try:
        edited = _edit(text, section, name, value)
        before, after = yaml.safe_load(text), yaml.safe_load(edited)
        plain = after == before | {section: (before.get(section) or {}) | {name: value}}
    except (yaml.YAMLError, LookupError, TypeError, AttributeError):
        plain = False
    if not plain:
        raise PaletteError(f"{path} cannot be changed safely; set {key}: {_flow(value)} by hand")
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(edited.encode("utf-8"))
    shutil.copymode(path, temporary)
    temporary.replace(path)


def _edit(text: str, section: str, name: str, value: Any) -> str:
    whole = yaml.compose(text, Loader=yaml.SafeLoader)
    inside = _child(whole, section) if isinstance(whole, yaml.MappingNode) else None
    if inside is None:
        return f"{text.rstrip()}\n{section}:\n  {name}: {_flow(value)}\n"
    if not isinstance(inside, yaml.MappingNode):
        return _replace(text, inside, {name: value})
    old = _child(inside, name)
    return _insert(text, inside, name, value) if old is None else _replace(text, old, value)


def _child(node: yaml.MappingNode, key: str) -> yaml.Node | None:
    return {name.value: child for name, child in node.value}.get(key)


def _replace(text: str, node: yaml.Node, value: Any) -> str:
    """The text with another value in a scalar's place, the line's comment in its old column."""
    start, end = node.start_mark.index, node.end_mark.index
    new = _flow(value) if end > start else f" {_flow(value)}"
    rest = text[end:]
    behind = rest.lstrip(" ")
    if behind.startswith("#"):
        gap = max(ROOM, len(rest) - len(behind) - len(new) + end - start)
        rest = " " * gap + behind
    return text[:start] + new + rest


def _insert(text: str, section: yaml.MappingNode, name: str, value: Any) -> str:
    """The text with a new first key in a section."""
    if not section.value:
        return _replace(text, section, {name: value})
    first = section.value[0][0].start_mark
    apart = ", " if section.flow_style else "\n" + " " * first.column
    return f"{text[: first.index]}{name}: {_flow(value)}{apart}{text[first.index :]}"


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).split("\n")[0]
