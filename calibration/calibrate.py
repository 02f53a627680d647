"""From raw logits of a deployed file to what the device needs: temperature, threshold, and how honest they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from calibration.metrics import auroc, brier, ece
from calibration.temperature import calibrated, fit_temperature, fit_temperature_and_bias
from calibration.threshold import ThresholdChoice, threshold_for_sensitivity

# Fewer X-rays in a bin than this and the bin's own noise is what ECE measures.
MIN_PER_BIN = 10
MAX_BINS = 15


@dataclass(frozen=True, slots=True)
class CalibrationFit:
    """What was fitted on the validation split, and the honesty of the probabilities before and after.

    The figures after come from the X-rays that were fitted to. One or two parameters overfit little, but only
    `cxr-edge evaluate` on other patients tells what holds.

    Attributes:
        temperature: probability = sigmoid(logit / temperature + bias).
        bias: 0 unless asked for.
        choice: the threshold, on calibrated probabilities.
        auroc: of the logits; calibration does not change it.
        ece_before: expected calibration error of sigmoid(logit).
        ece_after: of the calibrated probabilities.
        brier_before: Brier score of sigmoid(logit).
        brier_after: of the calibrated probabilities.
        images: how many X-rays.
        patients: how many patients.
    """

    temperature: float
    bias: float
    choice: ThresholdChoice
    auroc: float
    ece_before: float
    ece_after: float
    brier_before: float
    brier_after: float
    images: int
    patients: int

    def to_json(self) -> dict[str, object]:
        """As a JSON object, one per model in `calibration.json`."""
        return {
            "temperature": self.temperature,
            "bias": self.bias,
            **self.choice.to_json(),
            "auroc": self.auroc,
            "ece": {"before": self.ece_before, "after": self.ece_after},
            "brier": {"before": self.brier_before, "after": self.brier_after},
            "images": self.images,
            "patients": self.patients,
        }


def calibrate(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    patients: npt.ArrayLike,
    sensitivity: float = 0.95,
    with_bias: bool = False,
    conservative: bool = False,
    resamples: int = 1000,
    seed: int = 0,
) -> CalibrationFit:
    """Fit temperature and threshold on validation outputs of the file that is deployed.

    Args:
        logits: (N,) float, of the int8 file for the int8 file: quantization moves them.
        labels: (N,) of {0, 1}.
        patients: (N,) patient ids.
        sensitivity: wished, see `threshold_for_sensitivity`.
        with_bias: fit a bias as well, see `fit_temperature_and_bias`.
        conservative: take the lower end of the threshold's interval.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        InputError: one class only, an impossible wish, or the arrays do not belong together.
    """
    temperature, bias = (
        fit_temperature_and_bias(logits, labels) if with_bias else (fit_temperature(logits, labels), 0.0)
    )
    raw = calibrated(logits, temperature=1.0)
    probabilities = calibrated(logits, temperature=temperature, bias=bias)
    choice = threshold_for_sensitivity(
        labels,
        probabilities,
        patients=patients,
        sensitivity=sensitivity,
        conservative=conservative,
        resamples=resamples,
        seed=seed,
    )
    bins = bins_for(probabilities.size)
    return CalibrationFit(
        temperature=temperature,
        bias=bias,
        choice=choice,
        auroc=auroc(labels, logits),
        ece_before=ece(labels, raw, bins=bins),
        ece_after=ece(labels, probabilities, bins=bins),
        brier_before=brier(labels, raw),
        brier_after=brier(labels, probabilities),
        images=probabilities.size,
        patients=int(np.unique(np.asarray(patients)).size),
    )


def bins_for(images: int) -> int:
    """Bins for reliability and ECE of `images` X-rays: 15, fewer where a bin would hold fewer than ten."""
    return max(1, min(MAX_BINS, images // MIN_PER_BIN))
