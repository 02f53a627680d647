"""The configuration file of training, from the fields of `toolkit.config.TrainConfig`."""

from __future__ import annotations

import dataclasses

from toolkit.augmentation import AS_PRESET, METHODS
from toolkit.backbones.kinds import BACKBONES
from toolkit.config import CHOICES, NAME, RANGES, TrainConfig
from toolkit.schema import Schema

_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def build() -> Schema:
    """The body of the schema: one flat table, no key of which must be there."""
    return {
        "description": "One flat table, every key optional. An unknown key is refused. Beyond this schema: mixup and "
        "cutmix together are 1 at most; augment_lungs_only and augment_outside need lungs; message_token a teacher.",
        "type": "object",
        "properties": {field.name: _field(field.name, field) for field in dataclasses.fields(TrainConfig)},
        "additionalProperties": False,
    }


def _field(name: str, field: dataclasses.Field[object]) -> Schema:
    schema: Schema = {"type": _TYPES[type(field.default)], "description": field.metadata["help"]}
    for key, low, high in RANGES:
        if key == name:
            schema |= {"minimum": low, "maximum": high}
    if name in CHOICES:
        schema["enum"] = list(CHOICES[name])
    schema |= _ODD.get(name, {})
    return {
        **schema,
        "default": field.default,
        "x-environment": f"CXR_EDGE_TRAIN_{name.upper()}",
    }


# What `TrainConfig.__post_init__` and `require_backbone` ask for besides ranges and choices.
_ODD: dict[str, Schema] = {
    **{f"augment_{method}": {"anyOf": [{"const": AS_PRESET}, {"minimum": 0.0, "maximum": 1.0}]} for method in METHODS},
    "name": {"pattern": f"^{NAME.pattern}$"},
    "backbone": {"enum": list(BACKBONES)},
    "size_px": {"multipleOf": 32},
    **{name: {"pattern": r"\S"} for name in ("positive", "weights", "teacher")},
    "unfreeze": {"pattern": r"^[\s,]*([^\s,=]+=[0-9]+[\s,]*)*$"},
}
