"""Intervals by resampling patients, not X-rays: several X-rays of one patient are not independent witnesses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from calibration.checks import Bools, Floats, Ints, checked
from firmware_bridge.errors import InputError

Statistic = Callable[[Bools, Floats], float]

# A resample in which the statistic does not exist (it drew one class only) is left out; where more than this share
# of them is left out, the remaining ones no longer stand for the whole, and there is no interval.
MAX_UNDEFINED_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and the interval that holds 95% (or as asked) of its resampled values.

    Attributes:
        value: the statistic on all rows.
        low: lower end; NaN where too few resamples define the statistic, or where there is one patient only.
        high: upper end, as `low`.
    """

    value: float
    low: float
    high: float

    @property
    def collapsed(self) -> bool:
        """Every resample gave one value: the data is too small or too easy to show any spread. Not certainty."""
        return self.low == self.high

    def to_json(self) -> dict[str, float | None]:
        """As a JSON object; NaN, which JSON does not have, becomes null."""
        return {name: finite_or_none(getattr(self, name)) for name in ("value", "low", "high")}


def finite_or_none(value: float) -> float | None:
    """`value`, or None for NaN and infinities."""
    return float(value) if math.isfinite(value) else None


def patient_bootstrap(
    statistic: Statistic,
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    patients: npt.ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """`statistic(labels, scores)` and its percentile interval over resampled patients (Efron 1979).

    Args:
        statistic: takes (M,) bool labels and (M,) float64 scores, gives one float.
        labels: (N,) of {0, 1}.
        scores: (N,) finite.
        patients: (N,) patient ids; rows of one patient are drawn together.
        resamples: how many, 1 or more.
        seed: of the draw.
        confidence: share of resampled values inside the interval, above 0 and below 1.

    Raises:
        InputError: the arrays do not belong together, or the statistic does not exist on all rows.
    """
    return patient_bootstrap_all(
        {"statistic": statistic},
        labels,
        scores,
        patients,
        resamples=resamples,
        seed=seed,
        confidence=confidence,
    )["statistic"]


def patient_bootstrap_all(
    statistics: Mapping[str, Statistic],
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    patients: npt.ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """`patient_bootstrap` for several statistics over the same draws, so that they can be read side by side.

    Raises:
        InputError: as `patient_bootstrap`.
    """
    truth, values = checked(labels, scores)
    # Rows sorted by score stay sorted in every resample, and sorting sorted numbers is what the statistics do most.
    order = np.argsort(values, kind="stable")
    truth, values, ids = truth[order], values[order], np.asarray(patients)[order]
    wholes = {name: statistic(truth, values) for name, statistic in statistics.items()}
    drawn = np.full((resamples, len(statistics)), math.nan)
    # One patient is drawn again and again: that every resample is alike says nothing.
    draws = resampled_rows(ids, resamples=resamples, seed=seed) if np.unique(ids).size > 1 else ()
    for k, rows in enumerate(draws):
        truth_k, values_k = truth[rows], values[rows]
        drawn[k] = [_or_nan(statistic, truth_k, values_k) for statistic in statistics.values()]
    return {
        name: percentile_interval(wholes[name], drawn[:, column], confidence=confidence)
        for column, name in enumerate(statistics)
    }


def paired_bootstrap(
    statistic: Statistic,
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    baseline_scores: npt.ArrayLike,
    patients: npt.ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """The difference `statistic(scores) - statistic(baseline_scores)` on the same X-rays, with its interval.

    Both are computed on the same draw of patients, so what they share cancels: the interval is far narrower than the
    two single ones suggest.

    Raises:
        InputError: as `patient_bootstrap`.
    """
    truth, values = checked(labels, scores)
    _, baseline = checked(labels, baseline_scores)
    whole = statistic(truth, values) - statistic(truth, baseline)
    drawn = np.array(
        [
            _or_nan(statistic, truth[rows], values[rows]) - _or_nan(statistic, truth[rows], baseline[rows])
            for rows in resampled_rows(patients, resamples=resamples, seed=seed)
        ]
    )
    if np.unique(np.asarray(patients)).size < 2:
        drawn[:] = math.nan
    return percentile_interval(whole, drawn, confidence=confidence)


def difference_of_sets(inside: Interval, outside: Interval) -> Interval:
    """`inside - outside` for two sets of different patients, with an interval.

    The sets are independent, so the distances to each end add in squares (Newcombe, Statistics in Medicine 1998,
    method 10; Zou & Donner 2008, "MOVER", for any statistic).
    """
    value = inside.value - outside.value
    below = math.hypot(inside.value - inside.low, outside.high - outside.value)
    above = math.hypot(inside.high - inside.value, outside.value - outside.low)
    return Interval(value, value - below, value + above)


def resampled_rows(patients: npt.ArrayLike, *, resamples: int, seed: int) -> Iterator[Ints]:
    """For each resample the rows (M,) int64, ascending, of as many patients as there are, drawn with replacement.

    Raises:
        InputError: no patients, or no resample asked for.
    """
    ids = np.asarray(patients)
    if ids.ndim != 1 or ids.size == 0 or resamples < 1:
        raise InputError(
            "nothing to resample",
            expected="a patient id for each X-ray and at least one resample",
            came=f"ids of shape {ids.shape}, {resamples} resamples",
            do="give every row of the index a patient_id",
        )
    _, patient_of_row = np.unique(ids, return_inverse=True)
    n_patients = int(patient_of_row.max()) + 1
    rng = np.random.default_rng(seed)
    rows = np.arange(ids.size, dtype=np.int64)
    for _ in range(resamples):
        times_drawn = np.bincount(rng.integers(n_patients, size=n_patients), minlength=n_patients)
        yield np.repeat(rows, times_drawn[patient_of_row])


def percentile_interval(value: float, drawn: Floats, *, confidence: float = 0.95) -> Interval:
    """`value` with the central `confidence` share of `drawn` (R,); NaN ends where too many of `drawn` are NaN.

    Raises:
        InputError: the confidence is not between 0 and 1.
    """
    if not 0.0 < confidence < 1.0:
        raise InputError(
            "the confidence is outside its range",
            expected="above 0 and below 1",
            came=str(confidence),
            do="pass 0.95 for a 95% interval",
        )
    defined = drawn[np.isfinite(drawn)]
    if defined.size < (1.0 - MAX_UNDEFINED_SHARE) * drawn.size:
        return Interval(value, math.nan, math.nan)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(defined, [tail, 1.0 - tail])
    return Interval(value, float(low), float(high))


def exact_when_collapsed(interval: Interval, *, patients: int, confidence: float = 0.95) -> Interval:
    """For a share that is 0 or 1 on all of `patients` patients: the exact binomial end instead of no width at all.

    Resampling 20 right answers gives 20 right answers for ever, yet the truth may well be 0.85. The closed form of
    Clopper & Pearson (Biometrika 1934) at the border: `(tail) ** (1 / n)`.
    """
    if not interval.collapsed or interval.value not in (0.0, 1.0) or patients < 1:
        return interval
    end = ((1.0 - confidence) / 2.0) ** (1.0 / patients)
    return Interval(1.0, end, 1.0) if interval.value == 1.0 else Interval(0.0, 0.0, 1.0 - end)


def _or_nan(statistic: Statistic, labels: Bools, scores: Floats) -> float:
    try:
        return statistic(labels, scores)
    except InputError:  # this draw holds one class only; percentile_interval counts such draws
        return math.nan
