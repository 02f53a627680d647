"""Metrics against scikit-learn's values, and the properties that hold for any data."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from calibration.metrics import (
    auprc,
    auroc,
    brier,
    confusion_at,
    ece,
    ece_by_chance,
    negative_log_likelihood,
    predictive_values,
    reliability,
    roc_curve,
)
from firmware_bridge.errors import InputError

sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn (extra 'dev') is not installed")


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Labels with both classes, and probabilities in steps of 1/16, so that ties are common and exact."""
    n = draw(st.integers(2, 60))
    labels = draw(arrays(np.int64, n, elements=st.integers(0, 1)))
    labels[0], labels[-1] = 0, 1
    sixteenths = draw(arrays(np.int64, n, elements=st.integers(0, 16)))
    return labels, sixteenths / 16


@settings(deadline=None)  # a busy machine is no failure
@given(scored())
def test_equal_to_scikit_learn(case: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = case
    assert auroc(labels, scores) == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores), abs=1e-12)
    assert auprc(labels, scores) == pytest.approx(sklearn_metrics.average_precision_score(labels, scores), abs=1e-12)
    assert brier(labels, scores) == pytest.approx(sklearn_metrics.brier_score_loss(labels, scores), abs=1e-12)
    fpr, tpr, _ = sklearn_metrics.roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(roc_curve(labels, scores), (fpr, tpr))


@settings(deadline=None)  # a busy machine is no failure
@given(scored(), st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(case: tuple[np.ndarray, np.ndarray], random: object) -> None:
    labels, scores = case
    order = np.random.default_rng(random.randrange(2**32)).permutation(labels.size)  # type: ignore[attr-defined]
    for metric in (auroc, auprc, brier, ece):
        assert metric(labels[order], scores[order]) == pytest.approx(metric(labels, scores), abs=1e-12)


@settings(deadline=None)  # a busy machine is no failure
@given(scored())
def test_auroc_of_the_mirror_is_one_minus_it(case: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = case
    assert auroc(labels, -scores) == pytest.approx(1 - auroc(labels, scores), abs=1e-12)
    assert auroc(1 - labels, scores) == pytest.approx(1 - auroc(labels, scores), abs=1e-12)


@settings(deadline=None)  # a busy machine is no failure
@given(scored())
def test_auroc_survives_any_growing_transform(case: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = case
    assert auroc(labels, np.exp(5 * scores) - 3) == pytest.approx(auroc(labels, scores), abs=1e-12)


@settings(deadline=None)  # a busy machine is no failure
@given(scored(), st.integers(1, 20), st.booleans())
def test_reliability_keeps_every_row_and_the_means(
    case: tuple[np.ndarray, np.ndarray], bins: int, equal_mass: bool
) -> None:
    labels, scores = case
    found = reliability(labels, scores, bins=bins, equal_mass=equal_mass)
    assert found.counts.sum() == labels.size
    assert found.counts.size <= bins
    assert np.all(found.counts > 0)
    assert np.dot(found.counts, found.predicted) == pytest.approx(scores.sum())
    assert np.dot(found.counts, found.observed) == pytest.approx(labels.sum())
    assert 0 <= ece(labels, scores, bins=bins, equal_mass=equal_mass) <= 1


def test_equal_mass_bins_hold_equally_many() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.beta(0.2, 0.2, size=1500)
    found = reliability(rng.random(1500) < probabilities, probabilities, bins=15)
    assert found.counts.tolist() == [100] * 15


def test_ece_by_hand() -> None:
    labels, probabilities = [0, 0, 1, 1], [0.1, 0.3, 0.6, 1.0]
    # Two bins of two: |0.2 - 0| and |0.8 - 1|.
    assert ece(labels, probabilities, bins=2) == pytest.approx(0.2)
    assert ece(labels, probabilities, bins=2, equal_mass=False) == pytest.approx(0.2)
    assert ece(labels, probabilities, bins=1) == 0.0


def test_luck_alone_by_hand() -> None:
    # One bin of four: |k / 4 - 0.5| over binomial k.
    assert ece_by_chance([0.5] * 4, bins=1, draws=4000) == pytest.approx(0.1875, abs=0.01)
    assert ece_by_chance([0.0, 1.0, 1.0], bins=3) == 0.0  # nothing is left to luck


def test_exact_probabilities_show_what_luck_alone_shows() -> None:
    rng = np.random.default_rng(3)
    probabilities = rng.beta(0.5, 0.5, size=400)
    shown = [ece(rng.random(400) < probabilities, probabilities) for _ in range(200)]
    assert ece_by_chance(probabilities) == pytest.approx(np.mean(shown), abs=0.005)


def test_tied_probabilities_share_a_bin() -> None:
    assert reliability([0, 1, 0, 1, 0, 1], [0.5] * 6, bins=3).counts.tolist() == [6]


def test_confusion_and_predictive_values_by_hand() -> None:
    found = confusion_at([1, 1, 1, 1, 0, 0, 0, 0, 0], [0.9, 0.8, 0.5, 0.1, 0.5, 0.4, 0.3, 0.2, 0.0], threshold=0.5)
    assert (found.true_positives, found.false_negatives, found.true_negatives, found.false_positives) == (3, 1, 4, 1)
    assert found.sensitivity == 0.75
    assert found.specificity == 0.8
    # Of 1,000 patients 100 are sick: 75 found, 25 missed; of 900 well 180 are called sick.
    assert found.ppv(0.1) == pytest.approx(75 / 255)
    assert found.npv(0.1) == pytest.approx(720 / 745)


def test_predictive_values_where_nobody_is_called() -> None:
    ppv, npv = predictive_values(0.0, 1.0, prevalence=0.1)
    assert math.isnan(ppv)
    assert npv == pytest.approx(0.9)


def test_negative_log_likelihood_is_stable() -> None:
    assert negative_log_likelihood([1, 0], [0.0, 0.0]) == pytest.approx(math.log(2))
    assert negative_log_likelihood([1, 0], [1000.0, -1000.0]) == 0.0
    assert negative_log_likelihood([0], [1000.0]) == 1000.0


@pytest.mark.parametrize("metric", [auroc, auprc, roc_curve])
@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_an_error(metric: object, label: int) -> None:
    with pytest.raises(InputError, match="only one class"):
        metric([label] * 3, [0.1, 0.2, 0.3])  # type: ignore[operator]


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([], [], "do not belong together"),
        ([0, 1], [0.5], "do not belong together"),
        ([[0, 1]], [[0.1, 0.2]], "do not belong together"),
        ([0, 2], [0.5, 0.5], "neither 0 nor 1"),
        ([0, 1], [0.5, math.nan], "not a number"),
        ([0, 1], [0.5, 1.5], "outside its range"),
    ],
)
def test_wrong_input_says_what_came(labels: list[int], scores: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        brier(labels, scores)
    assert caught.value.expected
    assert caught.value.do


def test_a_prevalence_outside_its_range_is_an_error() -> None:
    with pytest.raises(InputError, match="prevalence"):
        predictive_values(0.9, 0.9, prevalence=10)


def test_no_bin_is_an_error() -> None:
    with pytest.raises(InputError, match="no bins"):
        ece([0, 1], [0.1, 0.9], bins=0)
