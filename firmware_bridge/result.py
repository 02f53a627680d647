"""The result record: one X-ray, one bundle, one outcome. The same JSON lies beside the X-ray and travels over MQTT."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from firmware_bridge.errors import CxrEdgeError, UnsuitableImage

NOTICE = "Not for diagnosis: a research tool, not a medical device."
SCHEMA = 1


def result_id(image_sha256: str, bundle_id: str) -> str:
    """The id of the one outcome that an image has under a bundle: the same picture under another name has the same id.

    Args:
        image_sha256: hex digest over the bytes of the image file.
        bundle_id: the bundle's id (hex digest over its manifest).
    """
    return hashlib.sha256(f"{image_sha256}:{bundle_id}".encode()).hexdigest()


def image_id(image_sha256: str, device_key: bytes) -> str:
    """The id of an image outside the device: a keyed hash, so that nobody without the key can link it to a file."""
    return hmac.new(device_key, image_sha256.encode(), hashlib.sha256).hexdigest()


def utc_now() -> str:
    """The time now as ISO 8601 in UTC, to the millisecond, with a trailing Z."""
    return iso_utc(datetime.now(timezone.utc), timespec="milliseconds")


def iso_utc(moment: datetime, *, timespec: str = "seconds") -> str:
    """A moment in UTC as ISO 8601 with a trailing Z."""
    return moment.isoformat(timespec=timespec).replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What a result says about the image. `name` stays empty unless the user wants it: it can hold a patient's name."""

    id: str
    width_px: int | None = None
    height_px: int | None = None
    format: str = ""
    name: str = ""

    def to_json(self) -> dict[str, Any]:
        """The `image` object of the record."""
        facts: dict[str, Any] = {
            "id": self.id,
            "width_px": self.width_px,
            "height_px": self.height_px,
            "format": self.format,
        }
        if self.name:
            facts["name"] = self.name
        return facts


@dataclass(frozen=True, slots=True)
class BundleRef:
    """The bundle that a result comes from."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ModelRef:
    """The model file that a result comes from, and what really ran it."""

    file: str
    precision: str
    runtime: str
    delegate: str


@dataclass(frozen=True, slots=True)
class Result:
    """One scored X-ray.

    Attributes:
        probability: calibrated, 0 to 1, for `label_positive`.
        logit: before calibration.
        threshold: at or above it `decision` is "positive".
        timings_ms: decode, preprocess, infer, ... in milliseconds.
        explanation: numbers about the heat map, where there is one.
        suitability: why the image was found fit to be scored, where the bundle has such a check.
    """

    id: str
    image: ImageFacts
    bundle: BundleRef
    model: ModelRef
    label_positive: str
    probability: float
    logit: float
    threshold: float
    positive: bool
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    explanation: Mapping[str, Any] | None = None
    suitability: Mapping[str, Any] | None = None
    time: str = field(default_factory=utc_now)

    @property
    def decision(self) -> str:
        """`positive` or `negative`, as the threshold has it."""
        return "positive" if self.positive else "negative"

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object."""
        return {
            **_head(self.id, self.time, self.image, self.bundle),
            "model": {
                "file": self.model.file,
                "precision": self.model.precision,
                "runtime": self.model.runtime,
                "delegate": self.model.delegate,
            },
            "label_positive": self.label_positive,
            "probability": round(self.probability, 6),
            "logit": round(self.logit, 6),
            "threshold": self.threshold,
            "decision": self.decision,
            "timings_ms": {name: round(value, 3) for name, value in self.timings_ms.items()},
            "explanation": None if self.explanation is None else dict(self.explanation),
            "suitability": None if self.suitability is None else dict(self.suitability),
        }


@dataclass(frozen=True, slots=True)
class Refusal:
    """One file that got no score, with the reason.

    Attributes:
        reason: a code for programs where the image was decoded and found unsuitable, else empty.
        suitability: the numbers that were judged then.
    """

    id: str
    image: ImageFacts
    bundle: BundleRef
    what: str
    expected: str
    came: str
    do: str
    reason: str = ""
    suitability: Mapping[str, Any] | None = None
    time: str = field(default_factory=utc_now)

    @classmethod
    def from_error(cls, error: CxrEdgeError, *, id: str, image: ImageFacts, bundle: BundleRef) -> Refusal:
        """The refusal that an error of ours amounts to."""
        refusal = cls(id, image, bundle, what=error.what, expected=error.expected, came=error.came, do=error.do)
        if isinstance(error, UnsuitableImage):
            return replace(refusal, reason=error.reason, suitability=error.measures or None)
        return refusal

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object: no score, but `refused`."""
        refused = {"what": self.what, "expected": self.expected, "came": self.came, "do": self.do}
        record = {**_head(self.id, self.time, self.image, self.bundle), "refused": refused}
        if self.reason:
            refused["reason"] = self.reason
            record["suitability"] = None if self.suitability is None else dict(self.suitability)
        return record


def _head(id: str, time: str, image: ImageFacts, bundle: BundleRef) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "notice": NOTICE,
        "id": id,
        "time": time,
        "image": image.to_json(),
        "bundle": {"id": bundle.id, "name": bundle.name},
    }


def dump(record: Mapping[str, Any]) -> str:
    """A record as compact JSON text. NaN is refused: it is no JSON."""
    return json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
