"""The representative set is stratified, seeded, and spreads over patients."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.representative import representative_rows
from firmware_bridge.errors import InputError


def test_classes_get_equal_room() -> None:
    labels = np.array(["pneumonia"] * 900 + ["normal"] * 100)
    rows = representative_rows(labels, n=100, seed=0)
    assert np.unique(labels[rows], return_counts=True)[1].tolist() == [50, 50]


def test_a_small_stratum_is_taken_whole() -> None:
    labels = np.array([1] * 500 + [0] * 500)
    sources = np.array(["a"] * 497 + ["b"] * 3 + ["a"] * 500)
    rows = representative_rows(labels, strata=sources, n=90, seed=0)
    assert np.sum(sources[rows] == "b") == 3


def test_patients_once_before_twice() -> None:
    labels = np.array([0, 1] * 100)
    patients = np.arange(200) // 10 * 2 + labels  # 40 patients, five X-rays of one label each
    rows = representative_rows(labels, patients=patients, n=40, seed=3)
    assert np.unique(patients[rows]).size == 40


def test_seeded() -> None:
    labels = np.array([0, 1] * 100)
    assert representative_rows(labels, n=20, seed=1).tolist() == representative_rows(labels, n=20, seed=1).tolist()
    assert representative_rows(labels, n=20, seed=1).tolist() != representative_rows(labels, n=20, seed=2).tolist()


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(st.sampled_from(["normal", "pneumonia", ""]), min_size=1, max_size=50), st.integers(1, 60))
def test_distinct_rows_in_range(labels: list[str], n: int) -> None:
    rows = representative_rows(labels, n=n)
    assert rows.size == min(n, len(labels))
    assert np.unique(rows).size == rows.size
    assert rows.min() >= 0
    assert rows.max() < len(labels)


@pytest.mark.parametrize(("labels", "n"), [([], 10), (["a"], 0)])
def test_nothing_to_choose_from(labels: list[str], n: int) -> None:
    with pytest.raises(InputError, match="representative"):
        representative_rows(labels, n=n)
