"""Training batches: the same for the same seed, whoever augments them; none left out, none twice."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from firmware_bridge.preprocess import Preprocessing
from toolkit.augment import Augmenter
from toolkit.data.load import geometric_and_tonal
from toolkit.input_scale import INPUT_SCALE
from toolkit.stream import Batch, BatchStream, TrainingSet, class_weights


def _stream(*, workers: int, seed: int = 1, n: int = 22, augment: str = "strong", batch_size: int = 4) -> BatchStream:
    rng = np.random.default_rng(0)
    data = TrainingSet(
        pixels=rng.integers(0, 256, (n, 32, 32), np.uint8),
        labels=(np.arange(n) % 3 == 0).astype(np.int64),
        tonal=geometric_and_tonal(Preprocessing.default(32))[1],
        input_scale=INPUT_SCALE,
    )
    return BatchStream(
        data, batch_size=batch_size, augmenter=Augmenter(augment), seed=seed, workers=workers, weigh=True
    )


def _same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        np.array_equal(a.x, b.x) and np.array_equal(a.y, b.y) and np.array_equal(a.weights, b.weights)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_batches_do_not_depend_on_the_number_of_workers(workers: int) -> None:
    assert _same(list(_stream(workers=0).epoch(3)), list(_stream(workers=workers).epoch(3)))


def test_seed_and_epoch_decide() -> None:
    first = list(_stream(workers=2).epoch(0))
    assert _same(first, list(_stream(workers=2).epoch(0)))
    assert not _same(first, list(_stream(workers=2).epoch(1)))
    assert not _same(first, list(_stream(workers=2, seed=2).epoch(0)))


def test_an_epoch_shows_full_batches_and_no_xray_twice() -> None:
    stream = _stream(workers=2, augment="none")
    batches = list(stream.epoch(0))
    assert len(batches) == stream.steps == 22 // 4
    shown = np.concatenate([batch.x for batch in batches])  # (20, 32, 32, 1) float32
    assert (shown.shape, shown.dtype) == ((20, 32, 32, 1), np.float32)
    assert len(np.unique(shown.reshape(20, -1), axis=0)) == 20
    low, high = INPUT_SCALE.range
    assert low <= shown.min() < shown.max() <= high


def test_fewer_xrays_than_a_batch_are_one_batch() -> None:
    stream = _stream(workers=0, n=6, batch_size=32)
    assert [len(batch.x) for batch in stream.epoch(0)] == [6]


def test_both_classes_weigh_the_same() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    weights = class_weights(labels)
    assert weights[labels == 0].sum() == pytest.approx(weights[labels == 1].sum(), rel=1e-5)
    assert weights.mean() == pytest.approx(1.0, rel=1e-5)


def test_a_stream_that_is_left_early_leaves_no_thread_waiting() -> None:
    before = threading.active_count()
    batches = _stream(workers=2).epoch(0)
    next(batches)
    assert threading.active_count() > before
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def _two_sources(balance: float, *, workers: int = 0) -> BatchStream:
    """40 X-rays of one source, mostly sick; 8 of another, mostly well. The grey level of an X-ray is its row."""
    labels = np.array([1] * 30 + [0] * 10 + [1] * 2 + [0] * 6, np.int64)
    data = TrainingSet(
        pixels=np.arange(48, dtype=np.uint8)[:, None, None].repeat(32, axis=1).repeat(32, axis=2),
        labels=labels,
        tonal=None,
        input_scale=INPUT_SCALE,
        sources=np.array(["many"] * 40 + ["few"] * 8),
    )
    return BatchStream(
        data, batch_size=8, augmenter=Augmenter("none"), seed=1, workers=workers, weigh=True, balance=balance
    )


@pytest.mark.parametrize(("balance", "share"), [(0.0, 8 / 48), (0.5, 0.309), (1.0, 0.5)])
def test_a_small_source_is_drawn_as_often_as_asked_for(balance: float, share: float) -> None:
    stream = _two_sources(balance)
    drawn = [batch.x[:, 0, 0, 0] for epoch in range(40) for batch in stream.epoch(epoch)]
    assert np.mean(np.concatenate(drawn) > INPUT_SCALE.normalise(39.5)) == pytest.approx(share, abs=0.03)


def test_classes_weigh_the_same_within_each_source_so_that_the_source_does_not_tell_the_label() -> None:
    labels, sources = np.array([1, 1, 1, 0, 0, 0, 0, 1]), np.array(["a"] * 4 + ["b"] * 4)
    weights = class_weights(labels, sources)
    for source in "ab":
        inside = sources == source
        assert weights[inside & (labels == 1)].sum() == pytest.approx(weights[inside & (labels == 0)].sum())
        assert weights[inside].mean() == pytest.approx(1.0)


def test_a_source_of_one_class_weighs_as_it_comes() -> None:
    np.testing.assert_allclose(class_weights(np.array([1, 1, 0, 1]), np.array(["a", "a", "b", "b"])), [1, 1, 1, 1])


def test_drawn_batches_do_not_depend_on_the_number_of_workers() -> None:
    assert _same(list(_two_sources(1.0).epoch(2)), list(_two_sources(1.0, workers=2).epoch(2)))
