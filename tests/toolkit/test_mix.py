"""Mixup and CutMix: what they do to a batch, its labels and its weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from toolkit.mix import Mixing, cutmix, mixup
from toolkit.stream import class_weights

DRAW = np.random.default_rng


def _batch(n: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X-rays of one value each, 0 to n-1, so that a mixture tells what went into it; the last half is positive."""
    x = np.broadcast_to(np.arange(n, dtype=np.float32)[:, None, None, None], (n, 16, 16, 1)).copy()
    y = (np.arange(n) >= n // 2).astype(np.float32)[:, None]
    return x, y, np.where(y[:, 0] == 1, 0.5, 1.5).astype(np.float32)


def test_mixup_mixes_pictures_weights_and_weighted_labels_by_the_same_share() -> None:
    x, y, weights = _batch()
    for seed in range(20):
        mixed, labels, scales = mixup(x, y, weights, alpha=0.4, draw=DRAW(seed))
        partner = DRAW(seed).permutation(len(x))
        for row, other in enumerate(partner):
            assert np.ptp(mixed[row]) == 0
            if other == row:
                continue
            share = (mixed[row, 0, 0, 0] - x[other, 0, 0, 0]) / (row - other)
            assert -1e-6 <= share <= 1 + 1e-6
            assert scales[row] == pytest.approx(share * weights[row] + (1 - share) * weights[other], abs=1e-5)
            both = share * weights[row] * y[row, 0] + (1 - share) * weights[other] * y[other, 0]
            assert scales[row] * labels[row, 0] == pytest.approx(both, abs=1e-5)


def test_cutmix_pastes_a_box_and_counts_its_area() -> None:
    x, y, weights = _batch()
    boxes = 0
    for seed in range(20):
        mixed, labels, _ = cutmix(x, y, np.ones_like(weights), alpha=1.0, draw=DRAW(seed))
        partner = DRAW(seed).permutation(len(x))
        for row, other in enumerate(partner):
            pasted = mixed[row, :, :, 0] == other
            if other == row or not pasted.any():
                continue
            boxes += 1
            assert set(np.unique(mixed[row])) <= {float(row), float(other)}
            rows, columns = np.flatnonzero(pasted.any(1)), np.flatnonzero(pasted.any(0))
            assert pasted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
            own = 1 - pasted.mean()
            assert labels[row, 0] == pytest.approx(own * y[row, 0] + (1 - own) * y[other, 0], abs=1e-5)
    assert boxes > 40


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_classes_that_weigh_the_same_still_do_when_mixed(mix: Any) -> None:
    x = np.zeros((400, 4, 4, 1), np.float32)
    y = (np.arange(400) % 4 > 0).astype(np.float32)[:, None]  # three of four are positive
    weights = class_weights(y[:, 0].astype(np.int64))
    sick = well = 0.0
    for seed in range(20):
        _, labels, scales = mix(x, y, weights, alpha=1.0, draw=DRAW(seed))
        sick += float(np.sum(scales * labels[:, 0]))
        well += float(np.sum(scales * (1 - labels[:, 0])))
    assert sick / well == pytest.approx(1.0, abs=0.02)


def test_the_chances_are_shares_of_batches_and_the_seed_decides() -> None:
    x, y, weights = _batch()
    mixing = Mixing(mixup=0.3, cutmix=0.2)
    kinds = {"mixup": 0, "cutmix": 0, "plain": 0}
    for seed in range(400):
        mixed, _, _ = mixing.apply(x, y, weights, seed=(1, seed))
        again, _, _ = mixing.apply(x, y, weights, seed=(1, seed))
        np.testing.assert_array_equal(mixed, again)
        if np.array_equal(mixed, x):
            kinds["plain"] += 1
        else:
            kinds["mixup" if not np.isin(mixed, x).all() else "cutmix"] += 1
    assert 90 <= kinds["mixup"] <= 150
    assert 50 <= kinds["cutmix"] <= 110
    assert mixed.dtype == np.float32


def test_without_a_share_the_batch_is_the_very_same() -> None:
    x, y, weights = _batch()
    assert all(
        one is other for one, other in zip(Mixing().apply(x, y, weights, seed=(1,)), (x, y, weights), strict=True)
    )
