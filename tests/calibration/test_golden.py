"""Golden cases cover the scale, keep off the threshold, and their tolerance follows what was seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.golden import MIN_TOLERANCE, golden_rows, golden_tolerance
from firmware_bridge.errors import InputError


def test_spread_over_the_scale_and_off_the_threshold() -> None:
    probabilities = np.random.default_rng(0).random(500)
    rows = golden_rows(probabilities, threshold=0.3, n=6)
    chosen = probabilities[rows]
    assert np.all(np.diff(chosen) > 0)
    assert chosen.min() == probabilities.min()
    assert chosen.max() == probabilities.max()
    assert np.sum(chosen >= 0.3) == 3
    assert np.all(np.abs(chosen - 0.3) >= 0.02)


def test_one_side_only() -> None:
    assert golden_rows(np.linspace(0.6, 0.9, 10), threshold=0.5, n=4).size == 4
    assert golden_rows([0.5, 0.5, 0.5], threshold=0.5, n=2).size == 2


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(0, 1), st.integers(1, 12))
def test_distinct_and_as_many_as_there_are(probabilities: list[float], threshold: float, n: int) -> None:
    rows = golden_rows(probabilities, threshold=threshold, n=n)
    assert rows.size == min(n, len(probabilities))
    assert np.unique(rows).size == rows.size


def test_tolerance() -> None:
    assert golden_tolerance([0.5, 0.6], [0.5, 0.6]) == MIN_TOLERANCE
    assert golden_tolerance([0.5, 0.6], [[0.51, 0.6], [0.5, 0.58]]) == pytest.approx(0.08)


def test_nothing_to_choose_from() -> None:
    with pytest.raises(InputError, match="golden"):
        golden_rows([], threshold=0.5)
    with pytest.raises(InputError, match="golden"):
        golden_tolerance([], [])
