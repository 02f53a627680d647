"""The models that an evaluation scores: from a bundle, a training run, or a bare `.tflite` file."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from firmware_bridge.bundle import open_bundle
from firmware_bridge.decode import Decoded
from firmware_bridge.errors import ConfigError, ModelError
from firmware_bridge.interpreter import Interpreter, open_interpreter
from firmware_bridge.lungs import LungFinder
from firmware_bridge.manifest import TFLITE
from firmware_bridge.preprocess import Preparer, Preprocessing
from firmware_bridge.score import Calibration, Head, Scorer
from toolkit.config import read_config
from toolkit.data.index import SEEN_SPLITS, Index
from toolkit.lungs.asset import FILE as LUNGS_FILE
from toolkit.lungs.asset import read_lungs

# The one before pruning and quantization first: it is what the others are compared with.
FLOAT_PRECISIONS = ("float", "fp16")
PRECISIONS = ("int8", *FLOAT_PRECISIONS)
# In this order: the file that is deployed by default comes first.
RUN_FILES = ("model.int8.tflite", "model.fp16.tflite", "model.float.tflite", "model.ptq.int8.tflite")
POSITIVE, NEGATIVE = "pneumonia", "normal"
# Keeps the logit of a saturated int8 probability finite: half of one of its 256 steps.
_LEAST_PROBABILITY = 1 / 512


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """A loaded model.

    Attributes:
        interpreter: what runs it.
        logit: from a decoded X-ray to the score before calibration.
    """

    interpreter: Interpreter
    logit: Callable[[Decoded], float]


@dataclass(frozen=True, slots=True, eq=False)
class ModelUnderTest:
    """One model file with all that turns its output into a decision.

    Attributes:
        name: unique in an evaluation.
        file: where it comes from, for the report.
        precision: "int8", "fp16", "ptq.int8", or "" where the file name does not tell.
        content: the bytes of the `.tflite` file.
        preprocessing: from decoded X-ray to the file's input.
        head: None where there is none; the file's own probability is used then, in int8 only 256 steps fine.
        temperature: probability = sigmoid(logit / temperature + bias).
        bias: see `temperature`.
        threshold: None where none is known; what needs one is left out of the report.
        wished_sensitivity: what the threshold was chosen for.
        labels: (negative, positive), where the source says so.
        lungs: the bytes of the lung network, where the preprocessing cuts to the lungs.
        seen: the X-rays that it was trained and chosen by, where a run tells them.
    """

    name: str
    file: str
    precision: str
    content: bytes
    preprocessing: Preprocessing
    head: Head | None
    temperature: float = 1.0
    bias: float = 0.0
    threshold: float | None = None
    wished_sensitivity: float | None = None
    labels: tuple[str, str] | None = None
    lungs: bytes | None = None
    seen: frozenset[Path] = frozenset()

    def open(self) -> Opened:
        """Load it, with one thread: evaluation runs X-rays in parallel, not operators.

        Raises:
            ModelError: the runtime cannot load it, or file, head and preprocessing do not fit together.
        """
        if self.head is None:
            interpreter = open_interpreter(self.content, threads=1)
            preparer = Preparer(self.preprocessing, LungFinder(self.lungs) if self.lungs else None)
            return Opened(interpreter, lambda decoded: _own_logit(interpreter, preparer, decoded))
        scorer = self.scorer()
        return Opened(scorer.interpreter, lambda decoded: scorer.score_decoded(decoded).logit)

    def scorer(self) -> Scorer:
        """The device's scorer, with one thread.

        Raises:
            ModelError: as `open`, or the model has no head.
        """
        if self.head is None:
            raise ModelError(
                f"{self.file} has no head",
                expected="its last layer in floating point beside it (head.*.npy)",
                came="none",
                do="copy it from the run that made the model",
            )
        # The decision is made on all scores at once, so the scorer's own one does not matter.
        calibration = Calibration(self.temperature, self.bias, 1.0 if self.threshold is None else self.threshold)
        finder = LungFinder(self.lungs) if self.lungs else None
        interpreter = open_interpreter(self.content, threads=1)
        return Scorer(interpreter, self.head, calibration, self.preprocessing, finder=finder)

    def to_json(self) -> dict[str, Any]:
        """What the report says about the model, and about what really runs it.

        Raises:
            ModelError: as `open`.
        """
        opened = self.open().interpreter
        return {
            "name": self.name,
            "file": self.file,
            "precision": self.precision,
            "sha256": hashlib.sha256(self.content).hexdigest(),
            "bytes": len(self.content),
            "runtime": opened.runtime,
            "delegate": opened.delegate,
            "preprocessing": self.preprocessing.to_manifest(),
            "logit_from": "feature maps" if self.head else "probability output",
            "temperature": self.temperature,
            "bias": self.bias,
            "threshold": self.threshold,
            "wished_sensitivity": self.wished_sensitivity,
        }


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
            )
            for entry in manifest.models
            if entry.kind == TFLITE  # another form of the same network: the figures are the same
        ]


def from_run(folder: Path) -> list[ModelUnderTest]:
    """The deployed models of a training run and, beside them, its post-training int8 baseline.

    Raises:
        IndexFormatError: the run's index cannot be read.
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
    seen = frozenset(row.path for row in rows if row.split in SEEN_SPLITS)
    return [replace(from_file(path), seen=seen) for path in found]


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
        temperature=float(calibration.get("temperature", 1.0)),
        bias=float(calibration.get("bias", 0.0)),
        threshold=calibration.get("threshold"),
        wished_sensitivity=calibration.get("wished_sensitivity"),
        labels=(NEGATIVE, settings.positive) if settings else None,
        lungs=read_lungs(path.with_name(LUNGS_FILE)) if preprocessing.needs_lungs else None,
    )


def with_unique_names(models: Sequence[ModelUnderTest]) -> list[ModelUnderTest]:
    """The same models; where two share a name, all of that name are told apart by number.

    Raises:
        ConfigError: no model at all.
    """
    if not models:
        raise ConfigError(
            "no model to evaluate", expected="at least one --bundle, --run or --model", came="none", do="name one"
        )
    names = [model.name for model in models]
    return [
        replace(model, name=f"{model.name}-{names[: i + 1].count(model.name)}")
        if names.count(model.name) > 1
        else model
        for i, model in enumerate(models)
    ]


def with_threshold(models: Sequence[ModelUnderTest], threshold: float | None) -> list[ModelUnderTest]:
    """The same models; those that bring no threshold of their own get `threshold`."""
    return [model if model.threshold is not None else replace(model, threshold=threshold) for model in models]


def labels_of(
    models: Sequence[ModelUnderTest], *, negative: str | None = None, positive: str | None = None
) -> tuple[str, str]:
    """(negative, positive): as given, else as the first model says that knows, else normal and pneumonia.

    Raises:
        ConfigError: both are the same.
    """
    own = next((model.labels for model in models if model.labels), (NEGATIVE, POSITIVE))
    labels = (negative or own[0], positive or own[1])
    if labels[0] == labels[1]:
        raise ConfigError(
            "both classes have the same label",
            expected="two different labels",
            came=labels[0],
            do="change --positive or --negative",
        )
    return labels


def baseline_of(models: Sequence[ModelUnderTest]) -> str | None:
    """The name of the float model that the others are compared with; None without one."""
    floats = (model for precision in FLOAT_PRECISIONS for model in models if model.precision == precision)
    return next((model.name for model in floats), None)


def _own_logit(interpreter: Interpreter, preparer: Preparer, decoded: Decoded) -> float:
    """The logit behind the file's own probability."""
    probability = interpreter.run(preparer.prepare(decoded.pixels).pixels).probability
    probability = min(max(probability, _LEAST_PROBABILITY), 1 - _LEAST_PROBABILITY)
    return math.log(probability / (1 - probability))


def _calibration_of(path: Path, precision: str) -> Mapping[str, Any]:
    file = _beside(path, "calibration.json")
    if file is None:
        return {}
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{file} cannot be read",
            expected="the calibration of a run, as JSON",
            came=str(error),
            do="remove it and give the run's cxr-edge train-qat command again",
        ) from error
    models = told.get("models", told) if isinstance(told, dict) else {}
    for key in (path.name, f"models/{path.name}", precision):
        entry = models.get(key) if isinstance(models, dict) else None
        if isinstance(entry, dict):
            return entry
    return {}


def _beside(path: Path, name: str) -> Path | None:
    return next((place / name for place in (path.parent, path.parent.parent) if (place / name).is_file()), None)
