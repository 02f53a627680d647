"""`manifest.json` of a bundle, schema 1: what a bundle says about itself. `manifest_parse` reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from firmware_bridge.errors import BundleError
from firmware_bridge.result import NOTICE

SCHEMA = 1
KIND = "cxr-edge-bundle"
PRECISIONS = ("int8", "fp16")
# What a model file is. ONNX is another form of the TFLite file of the same precision, for TensorRT and ONNX Runtime.
TFLITE, ONNX = "tflite", "onnx"
KINDS = (TFLITE, ONNX)
# What may run a model file; "tflite" stands for whichever TFLite runtime is installed.
TFLITE_RUNTIME, ONNX_RUNTIME, TENSORRT = "tflite", "onnxruntime", "tensorrt"
MODEL_RUNTIMES = (TFLITE_RUNTIME, ONNX_RUNTIME, TENSORRT)
NAME = "manifest.json"
SIGNATURE_NAME = "manifest.sig"
# A member's name: relative, forward slashes, every part starts with a letter or digit (so no "..", no hidden file).
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")


def kind_of(runtime: str) -> str:
    """The kind of model file that a runtime takes."""
    return TFLITE if runtime == TFLITE_RUNTIME else ONNX


def is_safe_name(name: str) -> bool:
    """Whether `name` may be a file in a bundle: relative, plain, no traversal, at most 200 characters."""
    return len(name) <= 200 and SAFE_NAME.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class CalibrationEntry:
    """From logit to decision: probability = sigmoid(logit / temperature + bias), positive at or above `threshold`."""

    temperature: float
    bias: float
    threshold: float
    wished_sensitivity: float | None = None
    threshold_interval: tuple[float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """The `calibration` object of a model."""
        interval = self.threshold_interval
        return {
            "temperature": self.temperature,
            "bias": self.bias,
            "threshold": self.threshold,
            "wished_sensitivity": self.wished_sensitivity,
            "threshold_interval": None if interval is None else list(interval),
        }


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model file with its head and its calibration. The first in the manifest is the default."""

    file: str
    precision: str
    head: str
    calibration: CalibrationEntry
    metrics: Mapping[str, Any] = field(default_factory=dict)
    kind: str = TFLITE

    def to_json(self) -> dict[str, Any]:
        """One element of `models`."""
        return {
            # Bundles of TFLite files alone keep their bytes, and so their id.
            **({"kind": self.kind} if self.kind != TFLITE else {}),
            "file": self.file,
            "precision": self.precision,
            "head": self.head,
            "calibration": self.calibration.to_json(),
            "metrics": dict(self.metrics),
        }


@dataclass(frozen=True, slots=True)
class GoldenEntry:
    """An X-ray in the bundle with the probability that `model` must give for it, within `tolerance`."""

    file: str
    model: str
    probability: float
    tolerance: float

    def to_json(self) -> dict[str, Any]:
        """One element of `golden`."""
        return {
            "file": self.file,
            "model": self.model,
            "probability": self.probability,
            "tolerance": self.tolerance,
        }


@dataclass(frozen=True, slots=True)
class LungsEntry:
    """The lung network in the bundle; `version` is the form of its file, see `firmware_bridge.lungs`."""

    file: str
    version: int

    def to_json(self) -> dict[str, Any]:
        """The `lungs` object."""
        return {"file": self.file, "version": self.version}


@dataclass(frozen=True, slots=True)
class FileEntry:
    """What a file of the bundle must be."""

    sha256: str
    size_bytes: int

    def to_json(self) -> dict[str, Any]:
        """One value of `files`."""
        return {"sha256": self.sha256, "bytes": self.size_bytes}


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything a bundle says about itself. The device acts on all but the free-form mappings, for people."""

    name: str
    created: str
    label_negative: str
    label_positive: str
    preprocessing: Mapping[str, Any]
    models: tuple[ModelEntry, ...]
    files: Mapping[str, FileEntry]
    golden: tuple[GoldenEntry, ...] = ()
    metrics: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    sparsity: Mapping[str, Any] = field(default_factory=dict)
    tools: Mapping[str, Any] = field(default_factory=dict)
    suitability: Mapping[str, Any] | None = None
    lungs: LungsEntry | None = None

    def model(self, precision: str | None = None, *, kind: str = TFLITE) -> ModelEntry:
        """The model of that precision and kind; without a precision the default model's.

        Raises:
            BundleError: the bundle has no such model.
        """
        precision = precision or self.models[0].precision
        for entry in self.models:
            if (entry.precision, entry.kind) == (precision, kind):
                return entry
        raise BundleError(
            f"bundle '{self.name}' has no {precision} model" + (" in ONNX" if kind == ONNX else ""),
            expected="one of " + ", ".join(f"{entry.precision} ({entry.kind})" for entry in self.models),
            came=f"{precision} ({kind})",
            do="choose one of these, or build a bundle that has it"
            + (" (`cxr-edge bundle add-onnx`)" if kind == ONNX else ""),
        )

    def to_json(self) -> dict[str, Any]:
        """The manifest as a JSON object."""
        return {
            "schema": SCHEMA,
            "kind": KIND,
            "name": self.name,
            "created": self.created,
            "notice": NOTICE,
            "labels": {"negative": self.label_negative, "positive": self.label_positive},
            "preprocessing": dict(self.preprocessing),
            "models": [entry.to_json() for entry in self.models],
            "metrics": dict(self.metrics),
            "data": dict(self.data),
            "sparsity": dict(self.sparsity),
            "tools": dict(self.tools),
            "golden": [entry.to_json() for entry in self.golden],
            "suitability": None if self.suitability is None else dict(self.suitability),
            # Bundles from before there were lung networks keep their bytes, and so their id.
            **({"lungs": self.lungs.to_json()} if self.lungs else {}),
            "files": {name: self.files[name].to_json() for name in sorted(self.files)},
        }

    def to_bytes(self) -> bytes:
        """The bytes of `manifest.json`: the same for the same content, since the bundle's id is their hash."""
        text = json.dumps(self.to_json(), ensure_ascii=False, allow_nan=False, indent=1, sort_keys=True)
        return text.encode() + b"\n"
