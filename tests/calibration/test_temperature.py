"""Temperature scaling finds the convex minimum, keeps the ranking and stays finite."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.metrics import auroc, ece, negative_log_likelihood
from calibration.temperature import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    calibrated,
    fit_temperature,
    fit_temperature_and_bias,
    sigmoid,
)
from firmware_bridge.errors import InputError

optimize = pytest.importorskip("scipy.optimize", reason="scipy (extra 'dev') is not installed")


def _overconfident(n: int = 4000, *, factor: float = 3.0, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    honest = rng.normal(scale=2.0, size=n)
    return honest * factor, (rng.random(n) < sigmoid(honest + shift)).astype(np.int64)


def test_finds_the_factor_and_mends_the_calibration() -> None:
    logits, labels = _overconfident()
    temperature = fit_temperature(logits, labels)
    assert temperature == pytest.approx(3.0, rel=0.1)
    before, after = sigmoid(logits), calibrated(logits, temperature=temperature)
    assert ece(labels, after) < 0.3 * ece(labels, before)
    assert auroc(labels, after) == pytest.approx(auroc(labels, before), abs=1e-12)


def test_equal_to_scipy() -> None:
    logits, labels = _overconfident()
    best = optimize.minimize_scalar(
        lambda log_t: negative_log_likelihood(labels, logits / np.exp(log_t)), bounds=(-3, 3), method="bounded"
    )
    assert fit_temperature(logits, labels) == pytest.approx(
        np.exp(best.x), rel=5e-3
    )  # softened targets differ a little


def test_with_bias_equal_to_scipy() -> None:
    logits, labels = _overconfident(shift=1.0)
    best = optimize.minimize(lambda x: negative_log_likelihood(labels, logits * x[0] + x[1]), x0=[1.0, 0.0])
    temperature, bias = fit_temperature_and_bias(logits, labels)
    assert temperature == pytest.approx(1 / best.x[0], rel=5e-3)
    assert bias == pytest.approx(best.x[1], abs=5e-3)
    assert calibrated(logits, temperature=temperature, bias=bias).mean() == pytest.approx(labels.mean(), abs=1e-3)


def test_perfect_separation_stays_finite() -> None:
    labels = np.array([0] * 20 + [1] * 20)
    logits = np.where(labels == 1, 4.0, -4.0)
    temperature = fit_temperature(logits, labels)
    probabilities = calibrated(logits, temperature=temperature)
    # Platt's targets for 20 of each: 21/22 and 1/22.
    assert probabilities.max() == pytest.approx(21 / 22, abs=1e-6)


def test_logits_that_point_the_wrong_way_end_at_the_top() -> None:
    labels = np.array([0, 1] * 50)
    assert fit_temperature(np.where(labels == 1, -2.0, 2.0), labels) == pytest.approx(MAX_TEMPERATURE)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-50, 50), min_size=2, max_size=40), st.integers(0, 2**32 - 1))
def test_always_within_its_range(logits: list[float], seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 2, len(logits))
    labels[0], labels[-1] = 0, 1
    assert MIN_TEMPERATURE * 0.999 <= fit_temperature(logits, labels) <= MAX_TEMPERATURE * 1.001
    temperature, bias = fit_temperature_and_bias(logits, labels)
    assert MIN_TEMPERATURE * 0.999 <= temperature <= MAX_TEMPERATURE * 1.001
    assert np.isfinite(bias)


def test_sigmoid_does_not_overflow() -> None:
    np.testing.assert_array_equal(sigmoid(np.array([-1e4, 0.0, 1e4])), [0.0, 0.5, 1.0])


def test_one_class_is_an_error() -> None:
    with pytest.raises(InputError, match="only one class"):
        fit_temperature([1.0, 2.0], [1, 1])


@pytest.mark.parametrize("logit", [0.0, 3.0, -0.7])
def test_a_model_that_says_the_same_of_all_gets_the_temperature_that_promises_least(logit: float) -> None:
    labels = [0, 1, 1, 1] * 10
    temperature, bias = fit_temperature_and_bias([logit] * 40, labels)
    assert temperature == pytest.approx(MAX_TEMPERATURE)
    assert calibrated([logit], temperature=temperature, bias=bias)[0] == pytest.approx(0.75, abs=0.02)
    assert fit_temperature([0.0] * 40, labels) == pytest.approx(MAX_TEMPERATURE)
