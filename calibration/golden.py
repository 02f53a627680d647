"""Golden cases: X-rays with a known answer that a device must give again before it may use a model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from calibration.checks import Ints, check_probabilities
from firmware_bridge.errors import InputError

# One step of an int8 feature map moves a probability by far less than this; a wrong polarity, resize or zero point
# moves it by far more. Processors differ in the last step of a rounding, so an exact match cannot be asked for.
MIN_TOLERANCE = 0.02
SAFETY = 4.0


def golden_rows(probabilities: npt.ArrayLike, *, threshold: float, n: int = 6, margin: float = MIN_TOLERANCE) -> Ints:
    """Rows that, together, would show a fault anywhere on the scale: evenly spread, and both decisions among them.

    Rows closer to the threshold than `margin` are passed over while others are left: there the allowed difference
    could turn the decision, and a healthy device would be refused.

    Args:
        probabilities: (N,) of the deployed file, in [0, 1].
        threshold: the operating threshold.
        n: how many rows; all of them where there are fewer.
        margin: distance kept from the threshold, in probability.

    Returns:
        (min(n, N),) int64, distinct, by ascending probability.

    Raises:
        InputError: no rows, none wished for, or probabilities outside [0, 1].
    """
    values = np.asarray(probabilities, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or n < 1:
        raise InputError(
            "there is nothing to choose golden cases from",
            expected="at least one scored X-ray and at least one case wished for",
            came=f"scores of shape {values.shape}, {n} cases",
            do="score the validation split first",
        )
    check_probabilities(values)
    order = np.argsort(values, kind="stable")
    clear = order[np.abs(values[order] - threshold) >= margin]
    if clear.size < min(n, values.size):
        clear = order
    negative, positive = clear[values[clear] < threshold], clear[values[clear] >= threshold]
    want_positive = min(positive.size, max(n - negative.size, n // 2))
    rows = np.concatenate([_spread(negative, n - want_positive), _spread(positive, want_positive)])
    return rows.astype(np.int64)


def golden_tolerance(expected: npt.ArrayLike, again: npt.ArrayLike) -> float:
    """The difference in probability that a device may show: four times the largest seen here, at least 0.02.

    Args:
        expected: (N,) probabilities that the bundle will carry.
        again: (N,) or (R, N) the same X-rays on other runtimes, thread counts or machines.

    Raises:
        InputError: nothing to compare.
    """
    difference = np.abs(np.asarray(again, dtype=np.float64) - np.asarray(expected, dtype=np.float64))
    if difference.size == 0 or not bool(np.all(np.isfinite(difference))):
        raise InputError(
            "golden cases cannot be compared",
            expected="finite probabilities, the same X-rays in both",
            came=f"{difference.size} differences",
            do="score the golden cases twice",
        )
    return max(MIN_TOLERANCE, SAFETY * float(difference.max()))


def _spread(rows: npt.NDArray[np.signedinteger], n: int) -> npt.NDArray[np.signedinteger]:
    """`n` of `rows` (K,) at even distances, both ends included; all where there are fewer."""
    if n >= rows.size:
        return rows
    if n == 0:
        return rows[:0]
    return rows[np.unique(np.linspace(0, rows.size - 1, n).round().astype(np.int64))]
