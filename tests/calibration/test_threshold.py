"""The threshold reaches the wished sensitivity, is the highest that does, and knows how uncertain it is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.metrics import confusion_at
from calibration.temperature import sigmoid
from calibration.threshold import highest_threshold, threshold_for_sensitivity
from firmware_bridge.errors import InputError


def _draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.integers(0, 2, n)
    return labels, sigmoid(2.5 * (labels - 0.5) + rng.normal(size=n))


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.sampled_from([0.5, 0.8, 0.9, 0.95, 1.0]))
def test_reaches_the_wish_and_no_higher_threshold_does(seed: int, n: int, wish: float) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    labels[0], labels[-1] = 0, 1
    probabilities = rng.integers(0, 17, n) / 16
    threshold = highest_threshold(labels == 1, probabilities, sensitivity=wish)
    assert confusion_at(labels, probabilities, threshold=threshold).sensitivity >= wish - 1e-9
    higher = probabilities[probabilities >= threshold].min() + 1e-9
    assert (
        confusion_at(labels, probabilities, threshold=higher).sensitivity < wish - 1e-9 or higher > probabilities.max()
    )


def test_nineteen_of_twenty() -> None:
    probabilities = np.array([0.01, *np.linspace(0.5, 0.9, 19), 0.2])
    labels = np.array([1] * 20 + [0])
    # The lowest positive may be missed; midway between the next positive (0.5) and what lies below it (0.2).
    assert highest_threshold(labels == 1, probabilities, sensitivity=0.95) == pytest.approx(0.35)


def test_choice_with_intervals() -> None:
    labels, probabilities = _draw(np.random.default_rng(0), 600)
    patients = np.arange(600) // 2
    choice = threshold_for_sensitivity(labels, probabilities, patients=patients, resamples=300)
    assert choice.interval.low <= choice.threshold <= choice.interval.high
    assert choice.sensitivity.value >= 0.95
    assert choice.sensitivity.low < 0.95
    assert choice.specificity.low < choice.specificity.value < choice.specificity.high
    assert choice.to_json()["threshold_interval"] == [choice.interval.low, choice.interval.high]
    assert choice == threshold_for_sensitivity(labels, probabilities, patients=patients, resamples=300)


def test_conservative_meets_the_wish_on_new_patients_far_more_often() -> None:
    rng = np.random.default_rng(0)
    met = {False: 0, True: 0}
    for _ in range(40):
        labels, probabilities = _draw(rng, 300)
        new_labels, new_probabilities = _draw(rng, 20_000)
        for conservative in met:
            choice = threshold_for_sensitivity(
                labels, probabilities, patients=np.arange(300), conservative=conservative, resamples=100
            )
            met[conservative] += (
                confusion_at(new_labels, new_probabilities, threshold=choice.threshold).sensitivity >= 0.95
            )
    assert met[True] >= 36
    assert met[False] <= 30


def test_wish_for_all() -> None:
    labels, probabilities = _draw(np.random.default_rng(0), 100)
    choice = threshold_for_sensitivity(labels, probabilities, patients=np.arange(100), sensitivity=1.0, resamples=50)
    assert choice.sensitivity.value == 1.0
    assert choice.threshold <= probabilities[labels == 1].min()


@pytest.mark.parametrize("wish", [0.0, 1.1, -0.5])
def test_an_impossible_wish(wish: float) -> None:
    with pytest.raises(InputError, match="impossible"):
        threshold_for_sensitivity([0, 1], [0.1, 0.9], patients=["a", "b"], sensitivity=wish)


def test_one_class() -> None:
    with pytest.raises(InputError, match="only one class"):
        threshold_for_sensitivity([1, 1], [0.1, 0.9], patients=["a", "b"])


def test_without_an_interval_no_threshold_calls_itself_conservative() -> None:
    labels, probabilities = [1, 1, *[0] * 30], [0.9, 0.4, *[0.1] * 30]
    with pytest.raises(InputError, match="too few positive patients for a conservative threshold"):
        threshold_for_sensitivity(labels, probabilities, patients=range(32), conservative=True)
