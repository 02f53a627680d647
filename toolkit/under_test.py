"""A model that an evaluation scores: its file, and all that turns the file's output into a decision."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from firmware_bridge.decode import Decoded
from firmware_bridge.errors import ConfigError, ModelError
from firmware_bridge.interpreter import Interpreter, open_interpreter
from firmware_bridge.lungs import LungFinder
from firmware_bridge.preprocess import Preparer, Preprocessing
from firmware_bridge.score import Calibration, Head, Scorer

# The one before pruning and quantization first: it is what the others are compared with.
FLOAT_PRECISIONS = ("float", "fp16")
PRECISIONS = ("int8", *FLOAT_PRECISIONS)
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
        seen: the X-rays that it, its initial weights and its teachers were trained and chosen by, where runs tell them.
        fitted_to: fingerprint of the index that `recalibrate` fitted it to; "" where it did not.
        learned_before: initial weights and teachers whose X-rays nobody here can tell.
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
    learned_before: tuple[str, ...] = ()
    fitted_to: str = ""

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
            "learned_before": list(self.learned_before),
            "fitted_to": self.fitted_to,
        }


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
