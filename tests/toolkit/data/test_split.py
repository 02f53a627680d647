from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_bridge.errors import ConfigError, IndexFormatError
from toolkit.data.index import Index, Xray
from toolkit.data.split import patient_split


def made(patients: int, *, each: int = 3, split: str = "") -> Index:
    rows = [
        Xray(Path(f"/x/{p}-{i}.png"), ("normal", "pneumonia")[p % 2], str(p), split=split)
        for p in range(patients)
        for i in range(1 + p % each)
    ]
    return Index(tuple(rows))


def splits_of_patients(index: Index) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in index:
        found.setdefault(row.patient_id, set()).add(row.split)
    return found


@settings(max_examples=40, deadline=None)
@given(
    patients=st.integers(12, 120),
    each=st.integers(1, 9),
    seed=st.integers(0, 99),
    share=st.sampled_from([0.1, 0.2, 0.3]),
)
def test_nobody_is_on_two_sides_and_the_shares_hold(patients: int, each: int, seed: int, share: float) -> None:
    index = made(patients, each=each)
    divided = patient_split(index, validation=share, test=share, seed=seed)
    assert all(len(splits) == 1 for splits in splits_of_patients(divided).values())
    assert [row.path for row in divided] == [row.path for row in index]
    for label in index.labels():
        n = sum(row.label == label for row in index)
        got = sum(row.label == label for row in divided.select(split="test"))
        assert abs(got - max(1, share * n)) <= each


def test_the_order_of_rows_does_not_matter_but_the_seed_does() -> None:
    index = made(60)
    shuffled = list(index)
    random.Random(1).shuffle(shuffled)
    first = {row.path: row.split for row in patient_split(index, seed=3)}
    assert {row.path: row.split for row in patient_split(index.with_rows(shuffled), seed=3)} == first
    assert {row.path: row.split for row in patient_split(index, seed=4)} != first


def test_patients_who_share_a_picture_stay_together() -> None:
    index = made(60, each=1)
    pairs = [(Path(f"/x/{a}-0.png"), Path(f"/x/{a + 1}-0.png")) for a in range(0, 58, 2)]
    divided = {
        row.path: row.split for row in patient_split(index, validation=0.2, test=0.2, seed=0, keep_together=pairs)
    }
    assert all(divided[a] == divided[b] for a, b in pairs)


def test_a_kept_test_set_stays_and_its_patients_other_rows_leave(caplog: pytest.LogCaptureFixture) -> None:
    test = Index(made(8, each=1, split="test").rows)
    rest = Index(made(40, each=2, split="train").rows)
    index = Index((*test.rows, *(row for row in rest if row.path not in {t.path for t in test})))
    divided = patient_split(index, validation=0.2, seed=0, keep_test=True)
    assert {row.path for row in divided.select(split="test")} == {row.path for row in test}
    assert all(len(splits) == 1 for splits in splits_of_patients(divided).values())
    assert len(divided) == len(index) - 4
    assert "4 X-rays are left out" in caplog.text


def test_what_cannot_be_split_is_told() -> None:
    with pytest.raises(ConfigError, match="below 1"):
        patient_split(made(20), validation=0.5, test=0.5, seed=0)
    with pytest.raises(IndexFormatError, match="one class only"):
        patient_split(Index(tuple(row for row in made(20) if row.label == "normal")), seed=0)
    with pytest.raises(IndexFormatError, match=r"(?s)too few patients.*at least 3"):
        patient_split(made(4), seed=0)
    with pytest.raises(IndexFormatError, match="no test set to keep"):
        patient_split(made(20), seed=0, keep_test=True)
