"""Patients are resampled whole; intervals are repeatable, cover, and are honest where they cannot be known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from calibration.bootstrap import (
    Interval,
    difference_of_sets,
    exact_when_collapsed,
    paired_bootstrap,
    patient_bootstrap,
    patient_bootstrap_all,
    percentile_interval,
    resampled_rows,
)
from calibration.metrics import auroc, brier
from firmware_bridge.errors import InputError


def _mean(_labels: np.ndarray, scores: np.ndarray) -> float:
    return float(scores.mean())


def test_rows_of_a_patient_are_drawn_together() -> None:
    patients = np.array(["a", "b", "a", "c", "a"])
    for rows in resampled_rows(patients, resamples=50, seed=1):
        times = np.bincount(rows, minlength=5)
        assert times[0] == times[2] == times[4]
        assert times[0] + times[1] + times[3] == 3
        assert np.all(np.diff(rows) >= 0)


def test_same_seed_same_interval() -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 100), rng.random(100)
    first, again, other = (
        patient_bootstrap(auroc, labels, scores, np.arange(100) // 2, resamples=100, seed=seed) for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other
    assert first.low < first.value < first.high


def test_together_as_alone() -> None:
    rng = np.random.default_rng(0)
    labels, scores, patients = rng.integers(0, 2, 80), rng.random(80), np.arange(80) // 3
    both = patient_bootstrap_all({"auroc": auroc, "brier": brier}, labels, scores, patients, resamples=50, seed=9)
    assert both["brier"] == patient_bootstrap(brier, labels, scores, patients, resamples=50, seed=9)


def test_interval_of_a_mean_is_the_textbook_one() -> None:
    scores = np.random.default_rng(0).normal(size=400)
    found = patient_bootstrap(_mean, np.zeros(400), scores, np.arange(400), resamples=2000, seed=0)
    half = 1.96 * scores.std() / 20
    assert found.low == pytest.approx(found.value - half, abs=0.01)
    assert found.high == pytest.approx(found.value + half, abs=0.01)


def test_copies_of_a_patient_do_not_narrow_the_interval() -> None:
    rng = np.random.default_rng(0)
    scores, patients = rng.normal(size=50), np.arange(50)
    alone = patient_bootstrap(_mean, np.zeros(50), scores, patients, seed=1)
    tenfold = patient_bootstrap(_mean, np.zeros(500), np.repeat(scores, 10), np.repeat(patients, 10), seed=1)
    as_if_apart = patient_bootstrap(_mean, np.zeros(500), np.repeat(scores, 10), np.arange(500), seed=1)
    assert tenfold.high - tenfold.low == pytest.approx(alone.high - alone.low, rel=0.1)
    assert as_if_apart.high - as_if_apart.low < 0.5 * (alone.high - alone.low)


def test_a_resample_of_one_class_is_left_out_and_too_many_leave_no_interval() -> None:
    labels, scores = np.array([0] * 50 + [1] * 8), np.arange(58.0)
    found = patient_bootstrap(auroc, labels, scores, np.arange(58), seed=0)
    assert math.isfinite(found.low)
    lonely = patient_bootstrap(auroc, [0, 0, 0, 1], [0.1, 0.2, 0.3, 0.4], list("abcd"), seed=0)
    assert lonely.value == 1.0
    assert math.isnan(lonely.low)
    assert lonely.to_json() == {"value": 1.0, "low": None, "high": None}


def test_one_class_on_all_rows_is_an_error() -> None:
    with pytest.raises(InputError, match="only one class"):
        patient_bootstrap(auroc, [1, 1], [0.1, 0.2], ["a", "b"])


def test_paired_difference_is_narrower_than_two_single_ones() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 500)
    full = labels + rng.normal(size=500)
    rounded = np.round(full * 4) / 4
    found = paired_bootstrap(auroc, labels, rounded, full, np.arange(500), resamples=300, seed=0)
    single = patient_bootstrap(auroc, labels, full, np.arange(500), resamples=300, seed=0)
    assert found.low <= found.value <= found.high
    assert found.high - found.low < 0.3 * (single.high - single.low)


def test_difference_of_sets() -> None:
    found = difference_of_sets(Interval(0.9, 0.87, 0.92), Interval(0.6, 0.52, 0.66))
    assert found.value == pytest.approx(0.3)
    assert found.low == pytest.approx(0.3 - math.hypot(0.03, 0.06))
    assert found.high == pytest.approx(0.3 + math.hypot(0.02, 0.08))


def test_a_perfect_share_keeps_an_honest_lower_end() -> None:
    scipy_stats = pytest.importorskip("scipy.stats", reason="scipy (extra 'dev') is not installed")
    exact = scipy_stats.binomtest(20, 20).proportion_ci(0.95, method="exact")
    assert exact_when_collapsed(Interval(1.0, 1.0, 1.0), patients=20).low == pytest.approx(exact.low)
    assert exact_when_collapsed(Interval(0.0, 0.0, 0.0), patients=20).high == pytest.approx(1 - exact.low)
    spread = Interval(1.0, 0.9, 1.0)
    assert exact_when_collapsed(spread, patients=20) is spread


@pytest.mark.parametrize("patients", [[], [["a"]]])
def test_nothing_to_resample(patients: list[str] | list[list[str]]) -> None:
    with pytest.raises(InputError, match="nothing to resample"):
        next(resampled_rows(patients, resamples=1, seed=0))


def test_confidence_outside_its_range() -> None:
    with pytest.raises(InputError, match="confidence"):
        percentile_interval(0.5, np.array([0.5]), confidence=95)


def test_one_patient_has_no_interval() -> None:
    labels, scores, patients = [0, 1, 0, 1], [0.1, 0.9, 0.2, 0.8], ["a"] * 4
    single = patient_bootstrap(auroc, labels, scores, patients, resamples=20)
    paired = paired_bootstrap(auroc, labels, scores, scores, patients, resamples=20)
    for interval in (single, paired):
        assert math.isnan(interval.low)
        assert math.isnan(interval.high)
