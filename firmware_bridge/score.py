"""One X-ray to a calibrated probability and a decision: decode, preprocess, infer, head, temperature, threshold."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from firmware_bridge.decode import DEFAULT_LIMITS, Decoded, Limits, decode
from firmware_bridge.errors import BundleError, ModelError
from firmware_bridge.explain import grad_cam_plus_plus
from firmware_bridge.preprocess import Preparer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from firmware_bridge.interpreter import Interpreter, ModelOutput
    from firmware_bridge.lungs import LungFinder
    from firmware_bridge.preprocess import Prepared, Preprocessing
    from firmware_bridge.suitability import Judge

__all__ = ["Calibration", "Head", "Score", "Scorer"]


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """The last layer, in floating point: an int8 sigmoid has steps of 1/256, too coarse near 0 and 1.

    Attributes:
        weights: (C,) float32.
        bias: added to the weighted mean features.
    """

    weights: NDArray[np.float32]
    bias: float

    @classmethod
    def from_bytes(cls, content: bytes) -> Head:
        """Read `head.npy`: (C + 1,) float32, the bias last.

        Raises:
            BundleError: another shape or type, or a value that is not finite.
        """
        try:
            values = np.load(io.BytesIO(content), allow_pickle=False)
        # A damaged header makes NumPy raise nearly anything, a hostile one ask for terabytes.
        except Exception as error:
            raise _head_error(f"{len(content)} bytes that NumPy cannot read") from error
        if not isinstance(values, np.ndarray) or values.ndim != 1 or values.size < 2 or values.dtype != np.float32:
            raise _head_error(f"{getattr(values, 'shape', type(values))} {getattr(values, 'dtype', '')}")
        if not np.isfinite(values).all():
            raise _head_error("values that are not finite")
        return cls(values[:-1], float(values[-1]))

    def to_bytes(self) -> bytes:
        """`head.npy` as `from_bytes` reads it."""
        buffer = io.BytesIO()
        np.save(buffer, np.append(self.weights, np.float32(self.bias)).astype(np.float32))
        return buffer.getvalue()

    def logit(self, mean_features: NDArray[np.float32]) -> float:
        """The score before calibration.

        Args:
            mean_features: (C,) float32.

        Raises:
            ModelError: another number of features than weights.
        """
        if mean_features.shape != self.weights.shape:
            raise ModelError(
                "the head does not fit the model",
                expected=f"{self.weights.size} feature maps",
                came=f"{mean_features.shape}",
                do="build the bundle again: model and head are from different trainings",
            )
        return float(np.dot(self.weights.astype(np.float64), mean_features.astype(np.float64)) + self.bias)


def _head_error(came: str) -> BundleError:
    return BundleError(
        "the head cannot be read",
        expected="a .npy file of float32 values (C + 1,), the bias last",
        came=came,
        do="build the bundle again",
    )


@dataclass(frozen=True, slots=True)
class Calibration:
    """From logit to a probability that means what it says, and to a decision.

    Attributes:
        temperature: above 0; divides the logit (Guo et al. 2017, section 4.2).
        bias: added after the division.
        threshold: probability, 0 to 1, at or above which an X-ray is positive.
    """

    temperature: float
    bias: float
    threshold: float

    def __post_init__(self) -> None:
        sound = (
            math.isfinite(self.temperature)
            and self.temperature > 0
            and math.isfinite(self.bias)
            and 0.0 <= self.threshold <= 1.0
        )
        if not sound:
            raise BundleError(
                "impossible calibration",
                expected="a temperature above 0, a finite bias, a threshold from 0 to 1",
                came=f"{self.temperature}, {self.bias}, {self.threshold}",
                do="calibrate the model again (`cxr-edge train-qat`), then build the bundle again",
            )

    def probability(self, logit: float) -> float:
        """sigmoid(logit / temperature + bias), without overflow."""
        value = logit / self.temperature + self.bias
        if value >= 0:
            return 1.0 / (1.0 + math.exp(-value))
        raised = math.exp(value)
        return raised / (1.0 + raised)

    def is_positive(self, probability: float) -> bool:
        """The decision."""
        return probability >= self.threshold


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """What the model says of one X-ray, and what it takes to explain it.

    Attributes:
        probability: calibrated, 0 to 1.
        logit: before calibration.
        decision: True for positive.
        timings_ms: "decode", "lungs" (where the bundle has a lung network), "preprocess" and "infer" (with the head).
        decoded: original size, format, and what a DICOM file says of view, age and sex.
        prepared: (S, S) uint8, what the model saw, which part of the X-ray that is, and the lungs in it.
        output: the model's raw outputs.
        suitability: what the judge says of an X-ray that may be scored; None without one.
    """

    probability: float
    logit: float
    decision: bool
    timings_ms: dict[str, float]
    decoded: Decoded
    prepared: Prepared
    output: ModelOutput
    suitability: Mapping[str, Any] | None = None

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """(S, S) uint8, what the model saw."""
        return self.prepared.pixels


class Scorer:
    """Everything between a file and a score; loads nothing and keeps nothing between X-rays.

    Args:
        interpreter: the loaded model.
        head: its last layer in floating point.
        calibration: of this very model file.
        preprocessing: that the model was trained with.
        finder: finds lungs, where the bundle has a lung network.
        judge: says what must not be scored, where the bundle has statistics; needs `finder`.
        limits: of the decoder.

    Raises:
        BundleError: the preprocessing cuts to the lungs, and there is no `finder`.
        ModelError: preprocessing and model disagree on the size.
    """

    def __init__(
        self,
        interpreter: Interpreter,
        head: Head,
        calibration: Calibration,
        preprocessing: Preprocessing,
        *,
        finder: LungFinder | None = None,
        judge: Judge | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        if preprocessing.size_px != interpreter.size_px:
            raise ModelError(
                "the preprocessing does not fit the model",
                expected=f"{interpreter.size_px} pixels a side",
                came=f"{preprocessing.size_px}",
                do="build the bundle again",
            )
        self.interpreter, self.head, self.calibration = interpreter, head, calibration
        self.preprocessing, self.limits = preprocessing, limits
        self.preparer = Preparer(preprocessing, finder)
        self.judge = judge

    def score(self, source: Path | bytes) -> Score:
        """Score one X-ray.

        Raises:
            ImageError: the X-ray cannot be used.
            ModelError: the model failed.
        """
        start_s = time.perf_counter()
        decoded = decode(source, min_side_px=self.preprocessing.decode_min_side_px, limits=self.limits)
        decode_ms = (time.perf_counter() - start_s) * 1e3
        return self.score_decoded(decoded, decode_ms=decode_ms)

    def score_decoded(self, decoded: Decoded, *, decode_ms: float = 0.0) -> Score:
        """Score an X-ray that is decoded already.

        Raises:
            UnsuitableImage: it is nothing that the model should score.
            ModelError: a model failed.
        """
        start_s = time.perf_counter()
        lungs = self.preparer.look(decoded.pixels)
        numbers = self.judge.picture(decoded.pixels, lungs) if self.judge and lungs else None
        looked_s = time.perf_counter()
        prepared = self.preparer.prepare(decoded.pixels, lungs=lungs)
        preprocessed_s = time.perf_counter()
        output = self.interpreter.run(prepared.pixels)
        mean_features = output.mean_features()
        logit = self.head.logit(mean_features)
        suitability = self.judge.features(mean_features, numbers) if self.judge and numbers else None
        done_s = time.perf_counter()
        probability = self.calibration.probability(logit)
        return Score(
            probability=probability,
            logit=logit,
            decision=self.calibration.is_positive(probability),
            timings_ms={
                "decode": decode_ms,
                **({"lungs": (looked_s - start_s) * 1e3} if lungs else {}),
                "preprocess": (preprocessed_s - looked_s) * 1e3,
                "infer": (done_s - preprocessed_s) * 1e3,
            },
            decoded=decoded,
            prepared=prepared,
            output=output,
            suitability=suitability,
        )

    def explain(self, score: Score) -> NDArray[np.float32]:
        """Grad-CAM++ of a score of this scorer: (h, w) float32, 0 to 1, over the field of view of `score.pixels`."""
        return grad_cam_plus_plus(score.output.real_features(), self.head.weights)
