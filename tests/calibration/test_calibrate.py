"""Fit on validation outputs: probabilities become honest, the threshold reaches the wish, all of it is JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest

from calibration.calibrate import bins_for, calibrate
from calibration.temperature import sigmoid


@pytest.mark.parametrize("with_bias", [False, True])
def test_more_honest_afterwards(with_bias: bool) -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(scale=2, size=800)
    labels = rng.random(800) < sigmoid(honest)
    fit = calibrate(4 * honest, labels, patients=np.arange(800) // 2, with_bias=with_bias, resamples=50)
    assert fit.temperature == pytest.approx(4, rel=0.2)
    assert fit.ece_after < fit.ece_before
    assert fit.brier_after < fit.brier_before
    assert fit.choice.sensitivity.value >= 0.95
    assert (fit.images, fit.patients) == (800, 400)
    assert (fit.bias != 0) == with_bias
    told = json.loads(json.dumps(fit.to_json(), allow_nan=False))
    assert told["threshold"] == fit.choice.threshold
    assert told["ece"]["after"] == fit.ece_after


def test_small_sets_get_fewer_bins() -> None:
    assert [bins_for(n) for n in (1, 12, 64, 150, 6000)] == [1, 1, 6, 15, 15]


def test_a_validation_split_too_small_for_an_interval_is_still_json() -> None:
    fit = calibrate([2.0, -1.0, -2.0, -3.0], [1, 0, 0, 0], patients=list("abcd"), resamples=100)
    told = json.loads(json.dumps(fit.to_json(), allow_nan=False))
    assert told["threshold_interval"] is None
