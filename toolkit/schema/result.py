"""The result record of `firmware_bridge.result`: one X-ray, one bundle, one outcome."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from firmware_bridge.result import SCHEMA, BundleRef, ModelRef
from firmware_bridge.suitability import REASONS
from toolkit.schema import Schema

SHA256: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
_SIZE: Schema = {"type": ["integer", "null"], "minimum": 1}
_TEXT: Schema = {"type": "string"}


def build() -> Schema:
    """The body of the schema: what every record has, then what a scored one and what a refused one has."""
    return {
        "description": "One X-ray, one bundle, one outcome: a score, or a refusal with its reason. Not for diagnosis. "
        "Later versions may add fields: readers leave alone what they do not know.",
        "type": "object",
        "properties": {**_head(), **_scored(), "refused": _refused(), "suitability": _suitability()},
        "required": list(_head()),
        "oneOf": [
            {"required": [*_scored(), "suitability"], "not": {"required": ["refused"]}},
            {"required": ["refused"], "not": {"required": ["probability"]}},
        ],
    }


def _head() -> Schema:
    image: Schema = {
        "id": _about(SHA256, "HMAC-SHA-256 of the image's SHA-256, keyed with the device's own key."),
        "width_px": _about(_SIZE, "null where the file was not decoded."),
        "height_px": _SIZE,
        "format": _about(_TEXT, "jpeg, png, tiff or dicom; empty where the file was not decoded."),
        "name": _about(_TEXT, "The file's name, only where the agent runs with names: it can hold a patient's name."),
    }
    return {
        "schema": {"const": SCHEMA},
        "notice": _about(_TEXT, "Not for diagnosis."),
        "id": _about(
            SHA256, "SHA-256 of 'IMAGE_SHA256:BUNDLE_ID': the same picture under the same bundle, the same id."
        ),
        "time": _about(
            {"type": "string", "format": "date-time", "pattern": "Z$"}, "UTC, when it was scored or refused."
        ),
        "image": _object(image, optional=["name"]),
        "bundle": _object({**_of(BundleRef), "id": _about(SHA256, "SHA-256 of the bundle's manifest.json.")}),
    }


def _scored() -> Schema:
    model = {
        **_of(ModelRef),
        "precision": _about(_TEXT, "int8 or fp16."),
        "delegate": _about(_TEXT, "What really ran the model, such as XNNPACK; none where no delegate did."),
    }
    return {
        "model": _object(model),
        "label_positive": _about(_TEXT, "What the probability is of."),
        "probability": _about(
            _SHARE, "Calibrated on validation X-rays of the training source; elsewhere it may mean little."
        ),
        "logit": _about({"type": "number"}, "Before calibration."),
        "threshold": _SHARE,
        "decision": _about({"enum": ["positive", "negative"]}, "positive at or above the threshold."),
        "timings_ms": _about(_numbers({"minimum": 0}), "Milliseconds by stage."),
        "explanation": _explanation(),
    }


def _explanation() -> Schema:
    point = {"type": ["array", "null"], "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
    properties = {
        "method": _TEXT,
        "peak": _about(point, "[x, y] in shares of the whole X-ray; null where the map is empty."),
        "lung_share": _about({**_SHARE, "type": ["number", "null"]}, "Share of the heat map inside the lungs."),
        "overlay": _about({"type": "boolean"}, "Whether the picture lies beside the X-ray."),
    }
    return _about({**_object(properties, optional=["overlay"]), "type": ["object", "null"]}, "About the heat map.")


def _refused() -> Schema:
    reason = {**_TEXT, "minLength": 1, "examples": [*REASONS, "outside"]}
    properties = {
        "what": _about(_TEXT, "What is wrong."),
        "expected": _TEXT,
        "came": _TEXT,
        "do": _about(_TEXT, "What a person can do."),
        "reason": _about(reason, "A code, where the image was decoded and found unsuitable. More may be added."),
    }
    return _object(properties, optional=["reason"])


def _suitability() -> Schema:
    return {
        **_numbers({}),
        "type": ["object", "null"],
        "properties": {"population": {"enum": ["inside", "outside"]}},
        "description": "What was judged before the score, and whether the X-ray is outside the training population. "
        "null: the bundle has no statistics.",
    }


def _of(kind: type[Any]) -> Schema:
    return {field.name: _TEXT for field in fields(kind)}


def _object(properties: Schema, *, optional: list[str] | None = None) -> Schema:
    required = [name for name in properties if name not in (optional or [])]
    return {"type": "object", "properties": properties, "required": required}


def _numbers(limits: Schema) -> Schema:
    return {"type": "object", "additionalProperties": {"type": "number", **limits}}


def _about(schema: Schema, text: str) -> Schema:
    return {**schema, "description": text}
