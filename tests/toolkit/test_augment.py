"""Augmentation: decided by the seed, grey bytes in and out, and the heart stays on its side."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from firmware_bridge.preprocess import Preprocessing
from toolkit.augment import Augmenter
from toolkit.data.index import Index
from toolkit.data.load import load

Grey = npt.NDArray[np.uint8]
STRENGTHS = ("none", "light", "strong")


@pytest.fixture(scope="module")
def xray(samples: Path) -> Grey:
    steps = Preprocessing.from_manifest({"version": 1, "steps": [{"name": "resize", "size_px": 96}]})
    return load(Index.read(samples / "index.csv").rows[:1], steps).pixels[0]


@pytest.mark.parametrize("strength", STRENGTHS)
def test_grey_bytes_stay_grey_bytes(xray: Grey, strength: str) -> None:
    augment = Augmenter(strength)
    before = xray.copy()
    for seed in range(60):
        out = augment(xray, seed=seed)
        assert (out.dtype, out.shape) == (np.uint8, xray.shape)
    np.testing.assert_array_equal(xray, before)


@pytest.mark.parametrize("strength", STRENGTHS[1:])
def test_the_seed_decides_in_any_thread_and_order(xray: Grey, strength: str) -> None:
    augment = Augmenter(strength)
    seeds = list(range(40))
    expected = [augment(xray, seed=seed) for seed in seeds]
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda seed: augment(xray, seed=seed), reversed(seeds)))
    for one, other in zip(expected, reversed(again), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len({one.tobytes() for one in expected}) > 30


@pytest.mark.parametrize("strength", STRENGTHS)
def test_never_a_horizontal_flip(strength: str) -> None:
    # A bright left half: whatever else happens (holes too), the left stays the brighter side.
    pixels = np.full((96, 96), 40, np.uint8)
    pixels[:, :48] = 200
    augment = Augmenter(strength)
    for seed in range(300):
        out = augment(pixels, seed=seed).astype(np.float64)
        assert out[:, :48].mean() > out[:, 48:].mean(), seed
