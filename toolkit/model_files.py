"""The models that an evaluation scores, read from a bundle, a training run, or a bare `.tflite` file."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from firmware_bridge.bundle import open_bundle
from firmware_bridge.errors import ModelError
from firmware_bridge.interpreter import open_interpreter
from firmware_bridge.manifest import TFLITE
from firmware_bridge.preprocess import Preprocessing
from firmware_bridge.score import Head
from toolkit.config import read_config
from toolkit.data.index import SEEN_SPLITS, Index
from toolkit.lungs.asset import FILE as LUNGS_FILE
from toolkit.lungs.asset import read_lungs
from toolkit.origins import learned_before, read_origins
from toolkit.under_test import NEGATIVE, PRECISIONS, ModelUnderTest

# In this order: the file that is deployed by default comes first.
RUN_FILES = ("model.int8.tflite", "model.fp16.tflite", "model.float.tflite", "model.ptq.int8.tflite")
_FITTED = ("temperature", "bias", "threshold", "wished_sensitivity")


def from_bundle(path: Path) -> list[ModelUnderTest]:
    """Every model of a bundle.

    Raises:
        BundleError: the bundle is damaged or of a newer schema.
    """
    with open_bundle(path) as bundle:
        manifest = bundle.manifest
        return [
            ModelUnderTest(
                name=entry.precision,
                file=f"{path.name}:{entry.file}",
                precision=entry.precision,
                content=bundle.read(entry.file),
                preprocessing=Preprocessing.from_manifest(dict(manifest.preprocessing)),
                head=Head.from_bytes(bundle.read(entry.head)),
                temperature=entry.calibration.temperature,
                bias=entry.calibration.bias,
                threshold=entry.calibration.threshold,
                wished_sensitivity=entry.calibration.wished_sensitivity,
                labels=(manifest.label_negative, manifest.label_positive),
                lungs=bundle.read(manifest.lungs.file) if manifest.lungs else None,
                learned_before=learned_before(manifest.data),
                fitted_to=_fitted_to(manifest.data),
            )
            for entry in manifest.models
            if entry.kind == TFLITE  # another form of the same network: the figures are the same
        ]


def from_run(folder: Path) -> list[ModelUnderTest]:
    """The deployed models of a training run and, beside them, its post-training int8 baseline.

    Raises:
        IndexFormatError, InputError: the run's index, or what it says of its origins, cannot be read.
        ModelError: no such folder, or the run has no model yet.
    """
    if not folder.is_dir():
        raise ModelError(
            f"the run {folder} cannot be read",
            expected="the folder of a training run",
            came="a file" if folder.exists() else "no such folder",
            do="check the path: train-qat names the folder of its run",
        )
    found = [folder / "models" / name for name in RUN_FILES if (folder / "models" / name).is_file()]
    if not found:
        out, name = (shlex.quote(str(part)) for part in (folder.parent, folder.absolute().name))
        raise ModelError(
            f"{folder} holds no model",
            expected="a finished run with " + " or ".join(f"models/{name}" for name in RUN_FILES[:2]),
            came="none of these files",
            do=f"finish it with: cxr-edge train-qat INDEX --out {out} --name {name}, and the options that began it",
        )
    index = folder / "index.csv"
    rows = Index.read(index).rows if index.is_file() else ()
    origins = read_origins(folder)
    seen = frozenset(row.path for row in rows if row.split in SEEN_SPLITS) | origins.seen
    return [replace(from_file(path), seen=seen, learned_before=origins.unknown) for path in found]


def from_file(path: Path) -> ModelUnderTest:
    """A bare model file, with head, calibration and preprocessing from beside it or from its run where there are any.

    `model.int8.tflite` belongs to `head.int8.npy` beside it, and to `calibration.json` and `config.toml` beside it or
    in the folder above.

    Raises:
        ModelError: no such file, or no lung network beside it where the run's preprocessing needs one.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"model {path} cannot be read",
            expected="a .tflite file",
            came=error.strerror or str(error),
            do="check the path",
        ) from error
    stem = path.name.removesuffix(".tflite")
    precision = stem.removeprefix("model.") if stem.startswith("model.") else ""
    if not precision and stem.rpartition(".")[2] in PRECISIONS:
        precision = stem.rpartition(".")[2]
    head = path.with_name(f"head.{precision}.npy")
    calibration = _calibration_of(path, precision)
    config = _beside(path, "config.toml")
    settings = read_config(config, {}) if config else None
    if settings:
        preprocessing = Preprocessing.from_manifest(settings.preprocessing())
    else:
        preprocessing = Preprocessing.default(open_interpreter(content, threads=1).size_px)
    return ModelUnderTest(
        name=precision if stem == f"model.{precision}" else stem,
        file=str(path),
        precision=precision,
        content=content,
        preprocessing=preprocessing,
        head=Head.from_bytes(head.read_bytes()) if head.is_file() else None,
        temperature=calibration.get("temperature", 1.0),
        bias=calibration.get("bias", 0.0),
        threshold=calibration.get("threshold"),
        wished_sensitivity=calibration.get("wished_sensitivity"),
        labels=(NEGATIVE, settings.positive) if settings else None,
        lungs=read_lungs(path.with_name(LUNGS_FILE)) if preprocessing.needs_lungs else None,
    )


def _fitted_to(data: Mapping[str, Any]) -> str:
    """The fingerprint that `recalibrate` leaves in a manifest's `data`, which may hold anything."""
    site = data.get("recalibrated_on")
    return str(site.get("index_sha256", "")) if isinstance(site, Mapping) else ""


def _calibration_of(path: Path, precision: str) -> Mapping[str, float]:
    """Temperature, bias, threshold, wished sensitivity, as far as a `calibration.json` beside the model tells them."""
    file = _beside(path, "calibration.json")
    if file is None:
        return {}
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        models = dict(told.get("models", told))
        entry: Mapping[str, Any] = next(
            (models[key] for key in (path.name, f"models/{path.name}", precision) if key in models), {}
        )
        found = {key: entry[key] for key in _FITTED if entry.get(key) is not None}
        if not all(isinstance(value, int | float) for value in found.values()):
            raise ValueError(f"{found}: not all of them numbers")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"{file} cannot be read",
            expected="the calibration of a run, as JSON",
            came=str(error),
            do="remove it and give the run's cxr-edge train-qat command again",
        ) from error
    return {key: float(value) for key, value in found.items()}


def _beside(path: Path, name: str) -> Path | None:
    return next((place / name for place in (path.parent, path.parent.parent) if (place / name).is_file()), None)
