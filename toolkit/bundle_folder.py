"""A bundle from the folder of a finished training run, without training again and without TensorFlow."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from calibration.golden import golden_rows, golden_tolerance
from firmware_bridge.decode import decode
from firmware_bridge.errors import BundleError, ImageError
from firmware_bridge.interpreter import open_interpreter
from firmware_bridge.lungs import VERSION as LUNGS_VERSION
from firmware_bridge.lungs import LungFinder
from firmware_bridge.manifest import PRECISIONS, CalibrationEntry, GoldenEntry, LungsEntry, ModelEntry
from firmware_bridge.preprocess import Preprocessing
from firmware_bridge.score import Calibration, Scorer
from firmware_bridge.suitability import FILE as SUITABILITY
from firmware_bridge.suitability import VERSION as SUITABILITY_VERSION
from firmware_bridge.suitability import Statistics
from toolkit.bundle import build_bundle
from toolkit.data.index import Index, Xray
from toolkit.data.load import stretch_back
from toolkit.left_out import read_left_out
from toolkit.lungs.asset import FILE as LUNGS_FILE
from toolkit.model_card import add_card, same_calibration
from toolkit.model_files import from_run
from toolkit.origins import LEARNED_BEFORE
from toolkit.under_test import NEGATIVE, POSITIVE, ModelUnderTest

# So many X-rays of the validation split are scored to choose the golden ones from.
_CANDIDATES = 64
_LUNGS = f"models/{LUNGS_FILE}"
_TOOLS = (
    "cxr-edge",
    "tensorflow",
    "tf_keras",
    "tensorflow-model-optimization",
    "ai-edge-litert",
    "albumentations",
    "numpy",
)


def bundle_from_run(
    run: Path, out: Path | None = None, *, name: str = "", golden: int = 6, onnx: bool = False, about: str = ""
) -> Path:
    """Build a bundle from what the folder of a run holds: models, calibration, index, export table and evaluation.

    Args:
        run: folder of a finished run.
        out: the file to write; by default `NAME.cxr` in the run's folder.
        name: of the bundle; by default the folder's.
        golden: how many validation X-rays go in as golden cases; 0: none.
        onnx: the ONNX form of each model goes in too.
        about: for the model card: Markdown by people, on intended use, data, licences and known limits.

    Raises:
        BundleError: the run has no calibrated int8 or FP16 model, or a file of it cannot be read.
        IndexFormatError: its index cannot be read (with golden cases wished for).
        MissingExtraError: tf2onnx, onnx or onnxruntime is not installed (with ONNX wished for).
        ModelError: no model at all, or one that cannot be converted.
        ResourceError: the bundle cannot be written.
    """
    models = _deployable(run)
    told, exported = _read(run / "calibration.json").get("models", {}), _exported(run / "export.json")
    entries = [_entry(model, told, exported) for model in models]
    files: dict[str, bytes | Path] = {}
    lungs = models[0].lungs
    if lungs:
        files[_LUNGS] = lungs
    if (run / SUITABILITY).is_file():
        files[SUITABILITY] = statistics = (run / SUITABILITY).read_bytes()
        Statistics.from_bytes(statistics)  # no device would take damaged ones
    for model, entry in zip(models, entries, strict=True):
        files[entry.file] = model.content
        assert model.head is not None  # `_entry` saw to it
        files[entry.head] = model.head.to_bytes()
    index = Index.read(run / "index.csv") if golden or (run / "index.csv").is_file() else None
    images = _golden_images(index.select(split="validation"), models[0], golden) if index and golden else []
    files.update({f"golden/{i}.png": image for i, image in enumerate(images)})
    name = name or run.resolve().name
    evaluation = _read(run / "evaluation.json")
    written = build_bundle(
        out or run / f"{name}.cxr",
        name=name,
        labels=_labels(models[0], index),
        preprocessing=models[0].preprocessing.to_manifest(),
        models=entries,
        files=files,
        golden=[case for model, entry in zip(models, entries, strict=True) for case in _cases(model, entry, images)],
        metrics=_metrics(evaluation, models[0].name),
        data={**_data(index, run), **_before(models[0])},
        sparsity=_sparsity(exported.get(Path(models[0].file).name)),
        tools=_tools(),
        lungs=LungsEntry(_LUNGS, LUNGS_VERSION) if lungs else None,
        suitability=_suitability(run, entries[0].file) if SUITABILITY in files else None,
    )
    add_card(written, evaluation=_of_these_files(evaluation, models), about=about)
    if onnx:
        from toolkit.bundle_onnx import add_onnx

        add_onnx(written)
    return written


def _of_these_files(evaluation: dict[str, Any], models: Sequence[ModelUnderTest]) -> dict[str, Any]:
    """The evaluation; empty where it is of files that were since exported or calibrated anew."""
    now = {hashlib.sha256(model.content).hexdigest(): model for model in models}
    told = evaluation.get("models")
    known = [one for one in told if isinstance(one, dict)] if isinstance(told, list) else []
    fresh = (one for one in known if one.get("sha256") in now and same_calibration(one, now[one["sha256"]]))
    return evaluation if any(fresh) else {}


_TOLD = {"file", "zero_share_pruned", "zero_share_total"}


def _exported(file: Path) -> dict[str, dict[str, Any]]:
    """The rows of `export.json` by the file that they are about."""
    rows = _read(file).get("models", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.keys() >= _TOLD for row in rows):
        raise _unreadable(file, "models without " + ", ".join(sorted(_TOLD)))
    return {row["file"]: row for row in rows}


def _suitability(run: Path, model: str) -> dict[str, Any]:
    """Which file judges X-rays before `model` does, and how it did on held-out ones."""
    return {"file": SUITABILITY, "version": SUITABILITY_VERSION, "model": model, **_read(run / "suitability.json")}


def _deployable(run: Path) -> list[ModelUnderTest]:
    """The run's models that a bundle takes, the device's default first."""
    models = [model for model in from_run(run) if model.precision in PRECISIONS]
    if not models:
        raise BundleError(
            f"{run} has nothing to deploy",
            expected="models/model.int8.tflite or models/model.fp16.tflite",
            came="neither",
            do="finish the run with `cxr-edge train-qat`",
        )
    return sorted(models, key=lambda model: PRECISIONS.index(model.precision))


def _read(file: Path) -> dict[str, Any]:
    """A JSON object of the run; empty where that stage has not been."""
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(file, str(error)) from error
    if not isinstance(content, dict):
        raise _unreadable(file, f"a {type(content).__name__}")
    return content


def _unreadable(file: Path, came: str) -> BundleError:
    return BundleError(
        f"{file} cannot be read",
        expected="a JSON object as the run writes it",
        came=came,
        do="remove it and give the run's `cxr-edge train-qat` command again",
    )


def _labels(model: ModelUnderTest, index: Index | None) -> tuple[str, str]:
    """(negative, positive): the index knows how its negative class is spelt."""
    negative, positive = model.labels or (NEGATIVE, POSITIVE)
    others = [label for label in index.labels() if label != positive] if index else []
    return (others[0] if others else negative), positive


def _metrics(evaluation: dict[str, Any], model: str) -> dict[str, Any]:
    """Figures of the default model on the first set inside and the first outside, as `evaluation.json` has them."""
    figures: dict[str, Any] = {"inside": {}, "outside": {}}
    for one in evaluation.get("sets", []):
        if not figures[one["role"]] and model in one["results"]:
            figures[one["role"]] = one["results"][model]["metrics"]
    return figures


def _sparsity(row: dict[str, Any] | None) -> dict[str, float]:
    """Shares of zeros in the default model's file, from its row in `export.json`."""
    return {"pruned_kernels": row["zero_share_pruned"], "all_kernels": row["zero_share_total"]} if row else {}


def _data(index: Index | None, run: Path) -> dict[str, Any]:
    if index is None:
        return {}
    left_out = sum(row["split"] == "train" for row in read_left_out(run))
    facts = {"index_sha256": index.fingerprint(), "images": len(index), "train": len(index.select(split="train"))}
    return {**facts, "train_left_out": left_out} if left_out else facts


def _before(model: ModelUnderTest) -> dict[str, Any]:
    return {LEARNED_BEFORE: list(model.learned_before)} if model.learned_before else {}


def _tools() -> dict[str, str]:
    """Versions of what made the bundle; a tool that is not installed here is left out."""
    versions = {"python": platform.python_version(), "machine": platform.machine()}
    for name in _TOOLS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _entry(model: ModelUnderTest, told: dict[str, Any], exported: dict[str, Any]) -> ModelEntry:
    if model.head is None or model.threshold is None:
        raise BundleError(
            f"{model.file} is not ready for a device",
            expected="its head (head.*.npy) and its calibration (calibration.json) beside it",
            came="no head" if model.head is None else "no threshold",
            do="finish the run with `cxr-edge train-qat`",
        )
    name = Path(model.file).name
    fitted = told.get(name, {})
    interval = fitted.get("threshold_interval")
    return ModelEntry(
        file=f"models/{name}",
        precision=model.precision,
        head=f"models/head.{model.precision}.npy",
        calibration=CalibrationEntry(
            temperature=model.temperature,
            bias=model.bias,
            threshold=model.threshold,
            wished_sensitivity=model.wished_sensitivity,
            threshold_interval=(float(interval[0]), float(interval[1])) if isinstance(interval, list) else None,
        ),
        metrics={"auroc_validation": exported.get(name, {}).get("auroc_validation"), "validation": fitted},
    )


def _golden_images(rows: Index, model: ModelUnderTest, n: int) -> list[bytes]:
    """PNG files of validation X-rays: pixels only, so that no name or date of a patient travels in the bundle."""
    chosen = list(rows)[:: max(1, len(rows) // _CANDIDATES)]
    scorer = _scorer(model, threads=1)
    images: list[bytes] = []
    probabilities: list[float] = []
    for row in chosen:
        with contextlib.suppress(ImageError):  # an X-ray that the run left out as well
            image = _png(row, model.preprocessing)
            probabilities.append(scorer.score(image).probability)
            images.append(image)
    wanted = golden_rows(np.array(probabilities), threshold=scorer.calibration.threshold, n=n)
    return [images[int(row)] for row in wanted]


def _png(xray: Xray, preprocessing: Preprocessing) -> bytes:
    decoded = decode(xray.path, min_side_px=preprocessing.decode_min_side_px)
    ok, encoded = cv2.imencode(".png", stretch_back(decoded.pixels, xray))
    assert ok  # a uint8 array always encodes
    return encoded.tobytes()


def _cases(model: ModelUnderTest, entry: ModelEntry, images: Sequence[bytes]) -> list[GoldenEntry]:
    if not images:
        return []
    expected, again = (_probabilities(model, images, threads=threads) for threads in (1, 2))
    tolerance = golden_tolerance(expected, again)
    return [
        GoldenEntry(file=f"golden/{i}.png", model=entry.file, probability=probability, tolerance=tolerance)
        for i, probability in enumerate(expected)
    ]


def _probabilities(model: ModelUnderTest, images: Sequence[bytes], *, threads: int) -> list[float]:
    scorer = _scorer(model, threads=threads)
    return [scorer.score(image).probability for image in images]


def _scorer(model: ModelUnderTest, *, threads: int) -> Scorer:
    assert model.head is not None  # `_entry` saw to it
    assert model.threshold is not None
    return Scorer(
        open_interpreter(model.content, threads=threads),
        model.head,
        Calibration(model.temperature, model.bias, model.threshold),
        model.preprocessing,
        finder=LungFinder(model.lungs) if model.lungs else None,
    )
