"""The last stages of a run: calibration on the files' own outputs, golden X-rays, the bundle."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from calibration.calibrate import CalibrationFit, calibrate
from calibration.golden import golden_rows, golden_tolerance
from calibration.temperature import calibrated
from firmware_bridge.decode import decode
from firmware_bridge.interpreter import open_interpreter
from firmware_bridge.manifest import CalibrationEntry, GoldenEntry, ModelEntry
from firmware_bridge.preprocess import Preprocessing
from firmware_bridge.score import Calibration, Scorer
from toolkit.bundle import build_bundle
from toolkit.config import TrainConfig
from toolkit.data.index import Index, Xray
from toolkit.data.load import stretch_back
from toolkit.export_run import FP16, INT8, ExportedModel
from toolkit.files import write_atomically
from toolkit.train import TrainingData

_TOOLS = ("tensorflow", "tf_keras", "tensorflow-model-optimization", "ai-edge-litert", "albumentations", "numpy")
_DEPLOYED = (INT8, FP16)


def calibrate_run(
    exported: Mapping[str, ExportedModel], data: TrainingData, config: TrainConfig, *, folder: Path
) -> dict[str, CalibrationFit]:
    """Fit temperature and threshold of each file on its own validation outputs; write `calibration.json`.

    Raises:
        InputError: validation holds one class only.
    """
    patients = np.array([row.patient_id for row in data.validation_rows])
    fits = {
        precision: calibrate(
            model.logits,
            data.validation.labels,
            patients=patients,
            sensitivity=config.sensitivity,
            seed=config.seed,
        )
        for precision, model in exported.items()
    }
    models = {exported[p].file: fit.to_json() for p, fit in fits.items()}
    write_atomically(folder / "calibration.json", json.dumps({"models": models}, indent=1))
    return fits


def bundle_run(
    exported: Mapping[str, ExportedModel],
    fits: Mapping[str, CalibrationFit],
    data: TrainingData,
    config: TrainConfig,
    *,
    index: Index,
    folder: Path,
    inside: Mapping[str, Any] | None = None,
) -> Path:
    """Build `NAME.cxr` in the run's folder.

    Args:
        exported: the files, int8 and FP16 among them.
        fits: their calibration.
        data: golden X-rays come from its validation split.
        config: of the run.
        index: what was trained on, with splits.
        folder: of the run.
        inside: metrics on the inside test, for the manifest.

    Returns:
        The path of the bundle.
    """
    models = [_entry(exported[p], fits[p], config) for p in _DEPLOYED]
    images, golden = _golden(exported, fits, data, config)
    files: dict[str, bytes | Path] = {f"golden/{i}.png": image for i, image in enumerate(images)}
    for precision in _DEPLOYED:
        files[f"models/{exported[precision].file}"] = exported[precision].content
        files[f"models/head.{precision}.npy"] = exported[precision].head.to_bytes()
    negative = next((label for label in index.labels() if label != config.positive), "normal")
    facts = exported[INT8].facts
    return build_bundle(
        folder / f"{config.name}.cxr",
        name=config.name,
        labels=(negative, config.positive),
        preprocessing=config.preprocessing(),
        models=models,
        files=files,
        golden=golden,
        metrics={"inside": dict(inside or {}), "outside": {}},
        data={"index_sha256": index.fingerprint(), "images": len(index), "train": len(data.train.rows)},
        sparsity={"pruned_kernels": facts.zero_share_pruned, "all_kernels": facts.zero_share_total},
        tools=_tools(),
    )


def _entry(model: ExportedModel, fit: CalibrationFit, config: TrainConfig) -> ModelEntry:
    said = fit.to_json()
    interval = said["threshold_interval"]
    return ModelEntry(
        file=f"models/{model.file}",
        precision=model.precision,
        head=f"models/head.{model.precision}.npy",
        calibration=CalibrationEntry(
            temperature=fit.temperature,
            bias=fit.bias,
            threshold=fit.choice.threshold,
            wished_sensitivity=config.sensitivity,
            threshold_interval=(interval[0], interval[1]) if isinstance(interval, list) else None,
        ),
        metrics={"auroc_validation": model.row["auroc_validation"], "validation": said},
    )


def _golden(
    exported: Mapping[str, ExportedModel],
    fits: Mapping[str, CalibrationFit],
    data: TrainingData,
    config: TrainConfig,
) -> tuple[list[bytes], list[GoldenEntry]]:
    """PNG files of validation X-rays, and what each deployed file must say of them through the device's whole path."""
    preprocessing = Preprocessing.from_manifest(config.preprocessing())
    fit = fits[INT8]
    probabilities = calibrated(exported[INT8].logits, temperature=fit.temperature, bias=fit.bias)
    rows = golden_rows(probabilities, threshold=fit.choice.threshold, n=config.golden)
    images = [_png(data.validation_rows[int(row)], preprocessing) for row in rows]
    entries: list[GoldenEntry] = []
    for precision in _DEPLOYED:
        said = [_scores(exported[precision], fits[precision], preprocessing, images, threads=n) for n in (1, 2)]
        tolerance = golden_tolerance(said[0], said[1])
        entries += [
            GoldenEntry(
                file=f"golden/{i}.png",
                model=f"models/{exported[precision].file}",
                probability=probability,
                tolerance=tolerance,
            )
            for i, probability in enumerate(said[0])
        ]
    return images, entries


def _scores(
    model: ExportedModel, fit: CalibrationFit, preprocessing: Preprocessing, images: list[bytes], *, threads: int
) -> list[float]:
    calibration = Calibration(fit.temperature, fit.bias, fit.choice.threshold)
    scorer = Scorer(open_interpreter(model.content, threads=threads), model.head, calibration, preprocessing)
    return [scorer.score(image).probability for image in images]


def _png(xray: Xray, preprocessing: Preprocessing) -> bytes:
    """The decoded X-ray as PNG: pixels only, so that no name or date of a patient travels in the bundle."""
    decoded = decode(xray.path, min_side_px=preprocessing.decode_min_side_px)
    ok, encoded = cv2.imencode(".png", stretch_back(decoded.pixels, xray))
    assert ok  # a uint8 array always encodes
    return encoded.tobytes()


def _tools() -> dict[str, str]:
    versions = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("cxr-edge", *_TOOLS):
        versions[name] = metadata.version(name)
    return versions
