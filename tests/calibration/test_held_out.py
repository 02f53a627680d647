"""Calibration measured on patients that it was not fitted to, and what the bias does where the prior moved."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.calibrate import calibrate
from calibration.held_out import held_out_probabilities, patient_folds
from calibration.metrics import ece
from calibration.temperature import calibrated
from firmware_bridge.errors import InputError


def _site(n: int = 4000, *, share: float = 0.1, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of a model trained as if both classes came equally often, on a site where `share` is positive."""
    draw = np.random.default_rng(seed)
    positive = draw.random(n) < share
    return draw.normal(np.where(positive, 1.0, -1.0), 1.0) * 2, positive, np.arange(n) // 2


def test_the_bias_mends_a_shifted_prior_that_temperature_alone_cannot() -> None:
    logits, positive, patients = _site()
    alone = calibrate(logits, positive, patients=patients, with_bias=False, resamples=10)
    both = calibrate(logits, positive, patients=patients, with_bias=True, resamples=10)
    # The true logit is 2·x + log(0.1 / 0.9), with x = logits / 2.
    assert both.bias == pytest.approx(np.log(0.1 / 0.9), abs=0.25)
    assert both.temperature == pytest.approx(1.0, abs=0.1)
    assert alone.ece_after > 0.05
    assert both.ece_after < 0.02
    assert both.auroc == alone.auroc


def test_held_out_probabilities_are_as_good_as_the_fit_on_much_data() -> None:
    logits, positive, patients = _site()
    out = held_out_probabilities(logits, positive, patients=patients)
    assert ece(positive, out, bins=15) < 0.02
    assert out.mean() == pytest.approx(positive.mean(), abs=0.01)


def test_no_patient_teaches_its_own_probability() -> None:
    logits, positive, patients = _site(60, share=0.5)
    fold = patient_folds(positive, patients, folds=5, seed=3)
    assert all(len(set(fold[patients == patient])) == 1 for patient in patients)
    out = held_out_probabilities(logits, positive, patients=patients, seed=3)
    rest = fold != 0
    fitted = calibrate(logits[rest], positive[rest], patients=patients[rest], with_bias=True, resamples=10)
    expected = calibrated(logits[~rest], temperature=fitted.temperature, bias=fitted.bias)
    np.testing.assert_allclose(out[~rest], expected)


def test_both_classes_are_in_every_fold() -> None:
    positive = np.arange(50) < 7
    fold = patient_folds(positive, np.arange(50), folds=5, seed=0)
    assert all(positive[fold == number].any() for number in range(5))
    few = patient_folds(np.arange(50) < 3, np.arange(50), folds=5, seed=0)
    assert set(few) == {0, 1, 2}


def test_one_sick_patient_is_too_few() -> None:
    with pytest.raises(InputError, match="too few patients"):
        held_out_probabilities([0.1, 0.2, 0.3], [1, 0, 0], patients=["a", "b", "c"])
