"""Reading `manifest.json`: strictly, because the device acts on every field of it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

from firmware_bridge.errors import BundleError
from firmware_bridge.manifest import (
    KIND,
    KINDS,
    NAME,
    PRECISIONS,
    SCHEMA,
    SIGNATURE_NAME,
    TFLITE,
    CalibrationEntry,
    FileEntry,
    GoldenEntry,
    LungsEntry,
    Manifest,
    ModelEntry,
    is_safe_name,
)

_SHA256 = re.compile(r"[0-9a-f]{64}")
SUITABILITY_VERSION = 1  # `firmware_bridge.suitability.VERSION`, likewise
LUNGS_VERSION = 1  # `firmware_bridge.lungs.VERSION`, which needs NumPy; a test holds the two together
_REBUILD = "build the bundle again with `cxr-edge bundle build`"

Value = TypeVar("Value")


def parse_manifest(raw: bytes) -> Manifest:
    """Read `manifest.json`.

    Raises:
        BundleError: not JSON, of a newer schema, or any field missing, unknown, of the wrong type or out of range.
    """
    try:
        content = json.loads(
            raw.decode("utf-8"), parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_each_once
        )
        json.dumps(content, ensure_ascii=False).encode()  # half a surrogate pair is no text, though JSON can write it
    except (ValueError, RecursionError) as error:
        raise _broken("manifest.json", "a JSON object in UTF-8", str(error)) from error
    fields = _Fields(content, "manifest.json")
    _check_schema(fields)
    labels = _Fields(fields.take("labels", dict), "labels")
    manifest = Manifest(
        name=_text(fields, "name"),
        created=_text(fields, "created"),
        label_negative=_text(labels, "negative"),
        label_positive=_text(labels, "positive"),
        preprocessing=fields.take("preprocessing", dict),
        models=tuple(_each(fields.take("models", list), "models", _model)),
        files={name: _file(name, entry) for name, entry in fields.take("files", dict).items()},
        golden=tuple(_each(fields.take("golden", list), "golden", _golden)),
        metrics=fields.take("metrics", dict),
        data=fields.take("data", dict),
        sparsity=fields.take("sparsity", dict),
        tools=fields.take("tools", dict),
        suitability=_suitability(fields.take("suitability", dict, optional=True)),
        lungs=_lungs(fields.take("lungs", dict)) if fields.has("lungs") else None,
    )
    fields.take("notice", str)
    labels.done()
    fields.done()
    _check_references(manifest)
    return manifest


def _no_constant(constant: str) -> float:
    raise ValueError(f"{constant} is not a number in JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is beyond any number")
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Readers differ in which of two equal keys they take: a manifest must mean the same to all of them."""
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key that stands twice in one object")
    return content


def _check_schema(fields: _Fields) -> None:
    schema = fields.take("schema", int)
    if schema > SCHEMA:
        raise BundleError(
            "the bundle is newer than this cxr-edge",
            expected=f"manifest schema {SCHEMA} at most",
            came=f"schema {schema}",
            do="update cxr-edge on this device, or build the bundle with the older version",
        )
    if schema != SCHEMA:
        raise _broken("manifest.json: schema", str(SCHEMA), str(schema))
    kind = fields.take("kind", str)
    if kind != KIND:
        raise _broken("manifest.json: kind", KIND, repr(kind)[:80])


def _check_references(manifest: Manifest) -> None:
    if not manifest.models:
        raise _broken("manifest.json: models", "at least one model", "none")
    models = [entry.file for entry in manifest.models]
    if len(set(models)) != len(models):
        raise _broken("manifest.json: models", "every file once", "one file twice")
    forms = {(entry.precision, entry.kind) for entry in manifest.models}
    if manifest.models[0].kind != TFLITE or any((precision, TFLITE) not in forms for precision, _ in forms):
        raise _broken("manifest.json: models", "TFLite first, and beside every ONNX file", "an ONNX file without it")
    named = [*models, *(entry.head for entry in manifest.models), *(entry.file for entry in manifest.golden)]
    named += [manifest.lungs.file] if manifest.lungs else []
    named += [manifest.suitability["file"]] if manifest.suitability else []
    for name in named:
        if name not in manifest.files:
            raise _broken(f"manifest.json: {name[:80]!r}", "listed in `files`", "it is not")
    for golden in manifest.golden:
        if golden.model not in models:
            raise _broken(f"manifest.json: golden {golden.file}", f"a model out of {models}", golden.model)


def _model(content: object, where: str) -> ModelEntry:
    fields = _Fields(content, where)
    precision = fields.take("precision", str)
    if precision not in PRECISIONS:
        raise _broken(f"{where}: precision", " or ".join(PRECISIONS), repr(precision)[:80])
    kind = fields.take("kind", str) if fields.has("kind") else TFLITE
    if kind not in KINDS:
        raise _broken(f"{where}: kind", " or ".join(KINDS), repr(kind)[:80])
    entry = ModelEntry(
        file=_name(fields, "file"),
        precision=precision,
        head=_name(fields, "head"),
        calibration=_calibration(fields.take("calibration", dict), f"{where}.calibration"),
        metrics=fields.take("metrics", dict),
        kind=kind,
    )
    fields.done()
    return entry


def _calibration(content: object, where: str) -> CalibrationEntry:
    fields = _Fields(content, where)
    temperature = fields.number("temperature")
    if temperature <= 0:
        raise _broken(f"{where}: temperature", "above 0", str(temperature))
    interval = fields.take("threshold_interval", list, optional=True)
    wished = fields.take("wished_sensitivity", float, optional=True)
    if wished is not None and not 0.0 <= wished <= 1.0:
        raise _broken(f"{where}: wished_sensitivity", "a number from 0 to 1", str(wished))
    entry = CalibrationEntry(
        temperature=temperature,
        bias=fields.number("bias"),
        threshold=fields.number("threshold", low=0.0, high=1.0),
        wished_sensitivity=wished,
        threshold_interval=None if interval is None else _interval(interval, where),
    )
    fields.done()
    return entry


def _interval(content: list[Any], where: str) -> tuple[float, float]:
    fields = _Fields(dict(enumerate(content)), f"{where}: threshold_interval")
    low, high = fields.number(0), fields.number(1)
    fields.done()
    return low, high


def _golden(content: object, where: str) -> GoldenEntry:
    fields = _Fields(content, where)
    entry = GoldenEntry(
        file=_name(fields, "file"),
        model=_name(fields, "model"),
        probability=fields.number("probability", low=0.0, high=1.0),
        tolerance=fields.number("tolerance", low=0.0, high=1.0),
    )
    fields.done()
    return entry


def _suitability(content: dict[str, Any] | None) -> dict[str, Any] | None:
    """Which file, which version, of which model; what else stands there is for people."""
    if content is None:
        return None
    fields = _Fields(content, "suitability")
    _name(fields, "file")
    _name(fields, "model")
    version = fields.take("version", int)
    if version != SUITABILITY_VERSION:
        raise BundleError(
            "the bundle's suitability statistics are of another version",
            expected=f"version {SUITABILITY_VERSION}",
            came=f"version {version}",
            do="update cxr-edge on this device, or build the bundle again",
        )
    return content


def _lungs(content: object) -> LungsEntry:
    fields = _Fields(content, "lungs")
    entry = LungsEntry(file=_name(fields, "file"), version=fields.take("version", int))
    if entry.version > LUNGS_VERSION:
        raise BundleError(
            "the bundle's lung network is newer than this cxr-edge",
            expected=f"version {LUNGS_VERSION} at most",
            came=f"version {entry.version}",
            do="update cxr-edge on this device",
        )
    if entry.version < 1:
        raise _broken("lungs: version", "1 or more", str(entry.version))
    fields.done()
    return entry


def _file(name: str, content: object) -> FileEntry:
    where = f"files: {name[:80]!r}"
    if not is_safe_name(name) or name in (NAME, SIGNATURE_NAME):
        raise _broken(where, "a relative name of letters, digits, '.', '_', '-' and '/'", "this name")
    fields = _Fields(content, where)
    entry = FileEntry(sha256=fields.take("sha256", str), size_bytes=fields.take("bytes", int))
    if not _SHA256.fullmatch(entry.sha256) or entry.size_bytes < 0:
        raise _broken(where, "64 hex digits and a size of 0 or more", f"{entry.sha256[:80]!r}, {entry.size_bytes}")
    fields.done()
    return entry


def _each(items: list[Any], where: str, parse: Callable[[object, str], Value]) -> list[Value]:
    return [parse(item, f"{where}[{position}]") for position, item in enumerate(items)]


def _text(fields: _Fields, key: str) -> str:
    text: str = fields.take(key, str)
    if not text or len(text) > 200 or not text.isprintable():
        raise _broken(f"{fields.where}: {key}", "1 to 200 printable characters", repr(text)[:80])
    return text


def _name(fields: _Fields, key: str) -> str:
    name: str = fields.take(key, str)
    if not is_safe_name(name):
        raise _broken(f"{fields.where}: {key}", "the plain relative name of a file in the bundle", repr(name)[:80])
    return name


class _Fields:
    """Takes typed values out of a JSON object and complains about what is missing, wrong, or left over."""

    def __init__(self, content: object, where: str) -> None:
        if not isinstance(content, dict):
            raise _broken(where, "a JSON object", type(content).__name__)
        self.where = where
        self._left: dict[Any, Any] = dict(content)

    def take(self, key: str | int, kind: type[Value], *, optional: bool = False) -> Any:
        """The value of `key`, which must be a `kind`; None is taken where it is optional."""
        if key not in self._left:
            raise _broken(f"{self.where}: {key}", f"a {kind.__name__}", "it is missing")
        value = self._left.pop(key)
        if value is None and optional:
            return None
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value) if abs(value) < 2**1000 else math.inf
        # bool is an int in Python, not in JSON.
        if not isinstance(value, kind) or isinstance(value, bool):
            raise _broken(f"{self.where}: {key}", f"a {kind.__name__}", repr(value)[:80])
        return value

    def has(self, key: str) -> bool:
        """Whether `key` is there and not taken yet."""
        return key in self._left

    def number(self, key: str | int, *, low: float = -math.inf, high: float = math.inf) -> float:
        """A finite number within [low, high]."""
        value = float(self.take(key, float))
        if not math.isfinite(value) or not low <= value <= high:
            raise _broken(f"{self.where}: {key}", f"a number from {low} to {high}", str(value))
        return value

    def done(self) -> None:
        """Nothing may be left: an unknown field could change what a result means."""
        if self._left:
            left = ", ".join(sorted(str(key)[:40] for key in self._left)[:5])
            raise _broken(self.where, f"only the fields of schema {SCHEMA}", f"also {left}")


def _broken(what: str, expected: str, came: str) -> BundleError:
    return BundleError(f"the bundle's {what} is wrong", expected=expected, came=came, do=_REBUILD)
