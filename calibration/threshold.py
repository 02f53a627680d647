"""The operating threshold: how high may it be so that the wished share of the sick is still found?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.bootstrap import (
    Interval,
    exact_when_collapsed,
    patient_bootstrap_all,
    percentile_interval,
    resampled_rows,
)
from calibration.checks import Bools, Floats, both_classes, check_probabilities
from calibration.metrics import confusion_at
from firmware_bridge.errors import InputError


@dataclass(frozen=True, slots=True)
class ThresholdChoice:
    """A threshold and what it reached on the data it was chosen on.

    Attributes:
        threshold: probability at or above which an X-ray is called positive.
        interval: the threshold's own patient-bootstrap interval (value, low, high).
        sensitivity: reached, with its interval.
        specificity: reached, with its interval.
        wished_sensitivity: what was asked for.
        conservative: whether `threshold` is the interval's lower end.
    """

    threshold: float
    interval: Interval
    sensitivity: Interval
    specificity: Interval
    wished_sensitivity: float
    conservative: bool

    def to_json(self) -> dict[str, object]:
        """As a JSON object; an interval that cannot be known is null."""
        known = math.isfinite(self.interval.low) and math.isfinite(self.interval.high)
        return {
            "threshold": self.threshold,
            "threshold_interval": [self.interval.low, self.interval.high] if known else None,
            "wished_sensitivity": self.wished_sensitivity,
            "sensitivity": self.sensitivity.to_json(),
            "specificity": self.specificity.to_json(),
            "conservative": self.conservative,
        }


def threshold_for_sensitivity(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    *,
    patients: npt.ArrayLike,
    sensitivity: float = 0.95,
    conservative: bool = False,
    resamples: int = 1000,
    seed: int = 0,
) -> ThresholdChoice:
    """The highest threshold at which at least `sensitivity` of the positives are found.

    Rounded to the patient's side twice: the wished share is rounded up to whole X-rays, and the threshold lies midway
    between the last positive it must find and the next lower probability, so that the last bit of another processor's
    rounding does not lose that patient. (Any threshold in that gap gives the same figures on this data.)

    On new patients a threshold chosen like this misses the wish about every second time, because it was fitted to these
    patients. `conservative=True` takes the lower end of its interval instead: the wish is then met about 39 times in
    40, paid for with false alarms.

    Args:
        labels: (N,) of {0, 1}, data not trained on.
        probabilities: (N,) calibrated, in [0, 1].
        patients: (N,) patient ids, resampled together.
        sensitivity: wished, above 0 and at most 1.
        conservative: see above.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        InputError: one class only, an impossible wish, too few positive patients for a conservative threshold, or the
            arrays do not belong together.
    """
    positive, values = both_classes(labels, probabilities)
    check_probabilities(values)
    if not 0.0 < sensitivity <= 1.0:
        raise InputError(
            "the wished sensitivity is impossible",
            expected="above 0 and at most 1",
            came=str(sensitivity),
            do="pass 0.95 to find 95 of 100 sick patients",
        )
    ids = np.asarray(patients)
    point = highest_threshold(positive, values, sensitivity=sensitivity)
    drawn = np.array(
        [
            highest_threshold(positive[rows], values[rows], sensitivity=sensitivity)
            for rows in resampled_rows(ids, resamples=resamples, seed=seed)
        ]
    )
    interval = percentile_interval(point, drawn)
    if conservative and not math.isfinite(interval.low):
        raise InputError(
            "there are too few positive patients for a conservative threshold",
            expected="enough that nearly every resample of the patients holds a positive one",
            came=f"{np.unique(ids[positive]).size} of {np.unique(ids).size} patients",
            do="label more positive X-rays, or take the threshold as it is, without --conservative",
        )
    chosen = interval.low if conservative else point
    finds = _found_at(chosen, positive, values, ids=ids, resamples=resamples, seed=seed)
    return ThresholdChoice(
        threshold=chosen,
        interval=interval,
        sensitivity=finds["sensitivity"],
        specificity=finds["specificity"],
        wished_sensitivity=sensitivity,
        conservative=conservative,
    )


def _found_at(
    threshold: float, positive: Bools, values: Floats, *, ids: npt.NDArray[Any], resamples: int, seed: int
) -> dict[str, Interval]:
    """Sensitivity and specificity at a threshold, with intervals over patients."""
    reached = patient_bootstrap_all(
        {
            "sensitivity": lambda truth, p: confusion_at(truth, p, threshold=threshold).sensitivity,
            "specificity": lambda truth, p: confusion_at(truth, p, threshold=threshold).specificity,
        },
        positive,
        values,
        ids,
        resamples=resamples,
        seed=seed,
    )
    sides = {"sensitivity": positive, "specificity": ~positive}
    return {
        name: exact_when_collapsed(reached[name], patients=int(np.unique(ids[side]).size))
        for name, side in sides.items()
    }


def highest_threshold(positive: Bools, probabilities: Floats, *, sensitivity: float) -> float:
    """The highest threshold that finds at least `sensitivity` of the positives; NaN without positives.

    Args:
        positive: (N,) bool.
        probabilities: (N,) float64 in [0, 1].
        sensitivity: above 0 and at most 1.
    """
    of_positives = np.sort(probabilities[positive])[::-1]
    if of_positives.size == 0:
        return math.nan
    # 0.95 * 20 is 19.000000000000004 in other orders of arithmetic; the wish is for 19 of them, not 20.
    must_find = max(1, math.ceil(sensitivity * of_positives.size - 1e-9))
    last = of_positives[must_find - 1]
    lower = probabilities[probabilities < last]
    return float((last + (lower.max() if lower.size else 0.0)) / 2.0)
