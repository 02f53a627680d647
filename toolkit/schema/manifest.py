"""`manifest.json` of a bundle, as `firmware_bridge.manifest_parse` reads it. A test holds the two together."""

from __future__ import annotations

from firmware_bridge.manifest import KIND, KINDS, NAME, PRECISIONS, SAFE_NAME, SCHEMA, SIGNATURE_NAME
from firmware_bridge.manifest_parse import LUNGS_VERSION, SUITABILITY_VERSION
from firmware_bridge.preprocess import STEPS, WHOLE_NUMBERS
from firmware_bridge.preprocess import VERSION as STEPS_VERSION
from toolkit.schema import Schema
from toolkit.schema.result import SHA256

_FILE: Schema = {"type": "string", "maxLength": 200, "pattern": f"^{SAFE_NAME.pattern}$"}
_TEXT: Schema = {"type": "string", "minLength": 1, "maxLength": 200, "pattern": r"^[^\u0000-\u001f\u007f]*$"}
_FREE: Schema = {"type": "object"}
_NUMBER: Schema = {"type": "number"}
_SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}


def build() -> Schema:
    """The body of the schema: every field is known, and all but `lungs` must be there."""
    properties: Schema = {
        "schema": {"const": SCHEMA},
        "kind": {"const": KIND},
        "name": _TEXT,
        "created": {**_TEXT, "description": "UTC, ISO 8601. Key validity is held against it."},
        "notice": {"type": "string", "description": "Not for diagnosis."},
        "labels": _closed({"negative": _TEXT, "positive": _TEXT}),
        "preprocessing": _preprocessing(),
        "models": _models(),
        "metrics": _about("For people: figures inside and outside the training source."),
        "data": _about("For people: what it was trained on."),
        "sparsity": _about("For people: share of zeros."),
        "tools": _about("For people: versions of what made it."),
        "golden": {"type": "array", "items": _golden()},
        "suitability": _suitability(),
        "lungs": _closed({"file": _FILE, "version": {"type": "integer", "minimum": 1, "maximum": LUNGS_VERSION}}),
        "files": {
            "type": "object",
            "propertyNames": {**_FILE, "not": {"enum": [NAME, SIGNATURE_NAME]}},
            "additionalProperties": _closed({"sha256": SHA256, "bytes": {"type": "integer", "minimum": 0}}),
        },
    }
    return {
        "description": "An unknown field is refused: it could change what a result means. Beyond this schema: every "
        "file that is named stands in files; no model file comes twice; beside every ONNX file stands the TFLite file "
        "of its precision; no key stands twice in one object.",
        **_closed(properties, optional=["lungs"]),
    }


def _preprocessing() -> Schema:
    sizes = [name for name, kind in STEPS.items() if kind.sets_size]
    steps: Schema = {
        "type": "array",
        "items": {"oneOf": [_step(name) for name in STEPS]},
        "contains": {"properties": {"name": {"enum": sizes}}},
        "description": f"In this order. One of {' and '.join(sizes)} must be among them.",
    }
    return {
        "type": "object",
        "properties": {"version": {"type": "integer", "minimum": 1, "maximum": STEPS_VERSION}, "steps": steps},
        "required": ["version", "steps"],
        "description": "From the decoded picture to the model's input.",
    }


def _step(name: str) -> Schema:
    options = {
        key: {"type": "integer" if key in WHOLE_NUMBERS else "number", "minimum": low, "maximum": high}
        for key, (low, high) in STEPS[name].options.items()
    }
    return _closed({"name": {"const": name}, **options})


def _models() -> Schema:
    interval = {"type": ["array", "null"], "items": _NUMBER, "minItems": 2, "maxItems": 2}
    calibration = {
        "temperature": {"type": "number", "exclusiveMinimum": 0},
        "bias": _NUMBER,
        "threshold": _SHARE,
        "wished_sensitivity": {**_SHARE, "type": ["number", "null"]},
        "threshold_interval": {**interval, "description": "95% interval, by patient."},
    }
    about = "probability = sigmoid(logit / temperature + bias); positive at or above the threshold."
    model = {
        "kind": {"enum": list(KINDS), "default": KINDS[0]},
        "file": _FILE,
        "precision": {"enum": list(PRECISIONS)},
        "head": _FILE,
        "calibration": {**_closed(calibration), "description": about},
        "metrics": _FREE,
    }
    return {
        "type": "array",
        "minItems": 1,
        "items": _closed(model, optional=["kind"]),
        # The default is the first, and a device without another runtime must be able to run it.
        "allOf": [{"prefixItems": [{"properties": {"kind": {"const": KINDS[0]}}}]}],
        "description": "The first is the default, a TFLite file.",
    }


def _golden() -> Schema:
    about = "An X-ray that the model must score so, within the tolerance, on the device."
    golden = {"file": _FILE, "model": _FILE, "probability": _SHARE, "tolerance": _SHARE}
    return {**_closed(golden), "description": about}


def _suitability() -> Schema:
    return {
        "type": ["object", "null"],
        "properties": {"file": _FILE, "model": _FILE, "version": {"type": "integer", "const": SUITABILITY_VERSION}},
        "required": ["file", "model", "version"],
        "description": "Statistics by which X-rays are judged before they are scored. The rest is for people.",
    }


def _closed(properties: Schema, *, optional: list[str] | None = None) -> Schema:
    required = [name for name in properties if name not in (optional or [])]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _about(text: str) -> Schema:
    return {**_FREE, "description": text}
