"""A bundle from the folder of a finished training run, without training again and without TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from calibration.golden import golden_rows, golden_tolerance
from firmware_bridge.decode import decode
from firmware_bridge.errors import BundleError
from firmware_bridge.interpreter import open_interpreter
from firmware_bridge.manifest import PRECISIONS, CalibrationEntry, GoldenEntry, ModelEntry
from firmware_bridge.preprocess import Preprocessing
from firmware_bridge.score import Calibration, Scorer
from toolkit.bundle import build_bundle
from toolkit.data.index import Index, Xray
from toolkit.data.load import stretch_back
from toolkit.under_test import ModelUnderTest, from_run

_CANDIDATES = 64


def bundle_from_run(run: Path, out: Path | None = None, *, name: str = "", golden: int = 6) -> Path:
    """Build a bundle from `run/models/`, its calibration and its index.

    Args:
        run: folder of a finished run.
        out: the file to write; by default `NAME.cxr` in the run's folder.
        name: of the bundle; by default the folder's.
        golden: how many validation X-rays go in as golden cases; 0: none.

    Raises:
        BundleError: the run has no calibrated int8 or FP16 model.
        IndexFormatError: its index cannot be read (with golden cases wished for).
        ModelError: no model at all.
    """
    models = [model for model in from_run(run) if model.precision in PRECISIONS]
    models.sort(key=lambda model: PRECISIONS.index(model.precision))
    entries = [_entry(model, _told(run)) for model in models]
    if not entries:
        raise BundleError(
            f"{run} has nothing to deploy",
            expected="models/model.int8.tflite or models/model.fp16.tflite",
            came="neither",
            do="finish the run with `cxr-edge train-qat`",
        )
    files: dict[str, bytes | Path] = {}
    for model, entry in zip(models, entries, strict=True):
        files[entry.file] = model.content
        assert model.head is not None  # `_entry` saw to it
        files[entry.head] = model.head.to_bytes()
    cases: list[GoldenEntry] = []
    data: dict[str, Any] = {}
    if (run / "index.csv").is_file():
        index = Index.read(run / "index.csv")
        data = {"index_sha256": index.fingerprint(), "images": len(index)}
    if golden:
        images = _golden_images(Index.read(run / "index.csv").select(split="validation"), models[0], golden)
        files.update({f"golden/{i}.png": image for i, image in enumerate(images)})
        cases = [case for model, entry in zip(models, entries, strict=True) for case in _cases(model, entry, images)]
    name = name or run.resolve().name
    return build_bundle(
        out or run / f"{name}.cxr",
        name=name,
        labels=models[0].labels or ("negative", "positive"),
        preprocessing=models[0].preprocessing.to_manifest(),
        models=entries,
        files=files,
        golden=cases,
        data=data,
    )


def _told(run: Path) -> dict[str, Any]:
    """`calibration.json`: model file name -> what was fitted. `from_run` has found it readable."""
    file = run / "calibration.json"
    models = json.loads(file.read_text(encoding="utf-8")).get("models", {}) if file.is_file() else {}
    return models if isinstance(models, dict) else {}


def _entry(model: ModelUnderTest, told: dict[str, Any]) -> ModelEntry:
    if model.head is None or model.threshold is None:
        raise BundleError(
            f"{model.file} is not ready for a device",
            expected="its head (head.*.npy) and its calibration (calibration.json) beside it",
            came="no head" if model.head is None else "no threshold",
            do="finish the run with `cxr-edge train-qat`",
        )
    fitted = told.get(Path(model.file).name, {})
    interval = fitted.get("threshold_interval")
    return ModelEntry(
        file=f"models/{Path(model.file).name}",
        precision=model.precision,
        head=f"models/head.{model.precision}.npy",
        calibration=CalibrationEntry(
            temperature=model.temperature,
            bias=model.bias,
            threshold=model.threshold,
            wished_sensitivity=model.wished_sensitivity,
            threshold_interval=(float(interval[0]), float(interval[1])) if isinstance(interval, list) else None,
        ),
        metrics={"validation": fitted},
    )


def _golden_images(rows: Index, model: ModelUnderTest, n: int) -> list[bytes]:
    """PNG files of validation X-rays: pixels only, so that no name or date of a patient travels in the bundle."""
    chosen = list(rows)[:: max(1, len(rows) // _CANDIDATES)]
    images = [_png(row, model.preprocessing) for row in chosen]
    assert model.threshold is not None
    wanted = golden_rows(np.array(_probabilities(model, images, threads=1)), threshold=model.threshold, n=n)
    return [images[int(row)] for row in wanted]


def _png(xray: Xray, preprocessing: Preprocessing) -> bytes:
    decoded = decode(xray.path, min_side_px=preprocessing.decode_min_side_px)
    ok, encoded = cv2.imencode(".png", stretch_back(decoded.pixels, xray))
    assert ok  # a uint8 array always encodes
    return encoded.tobytes()


def _cases(model: ModelUnderTest, entry: ModelEntry, images: Sequence[bytes]) -> list[GoldenEntry]:
    expected, again = (_probabilities(model, images, threads=threads) for threads in (1, 2))
    tolerance = golden_tolerance(expected, again)
    return [
        GoldenEntry(file=f"golden/{i}.png", model=entry.file, probability=probability, tolerance=tolerance)
        for i, probability in enumerate(expected)
    ]


def _probabilities(model: ModelUnderTest, images: Sequence[bytes], *, threads: int) -> list[float]:
    assert model.head is not None
    assert model.threshold is not None
    calibration = Calibration(model.temperature, model.bias, model.threshold)
    interpreter = open_interpreter(model.content, threads=threads)
    scorer = Scorer(interpreter, model.head, calibration, model.preprocessing)
    return [scorer.score(image).probability for image in images]
