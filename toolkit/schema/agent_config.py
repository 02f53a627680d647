"""The agent's configuration file, from the dataclasses of `firmware_bridge.settings.SECTIONS`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from firmware_bridge.settings import SECTIONS, kind_of_hint, section_kind, variable_of
from toolkit.schema import Schema

_TYPES: dict[type[Any], Schema] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    Path: {"type": "string", "minLength": 1, "pattern": r"^[^\u0000]*$"},
    tuple: {"type": "array", "items": {"type": "string"}},
}


def build() -> Schema:
    """The body of the schema: an object of sections, none of which must be there."""
    return {
        "description": "A table for each section, all optional. An unknown section or key is refused. "
        "Paths are relative to the file. x-environment is the variable that comes before the file.",
        "type": "object",
        "properties": {name: _section(name) for name in sorted(SECTIONS)},
        "additionalProperties": False,
    }


def _section(name: str) -> Schema:
    kind = section_kind(name)
    hints = get_type_hints(kind)
    properties = {
        key.name: {
            **_value(hints[key.name], key.metadata, key.default),
            "x-environment": variable_of(name, key.name, key.metadata),
        }
        for key in fields(kind)
    }
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _value(hint: Any, metadata: Mapping[str, Any], default: object) -> Schema:
    kind, _ = kind_of_hint(hint)
    schema = {**_TYPES[kind], "description": metadata["help"]}
    if metadata["least"] is not None:
        schema["minimum"] = metadata["least"]
    if metadata["most"] is not None:
        schema["maximum"] = metadata["most"]
    if metadata["choices"]:
        schema["enum"] = list(metadata["choices"])
    if default is not None:
        schema["default"] = list(default) if isinstance(default, tuple) else default
    return schema
