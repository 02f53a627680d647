"""File attributes by hand, and their AUROC either way round."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.data.shortcuts import ATTRIBUTES, attribute_aurocs, file_attributes


def test_attributes_by_hand() -> None:
    pixels = np.full((50, 100), 10, np.uint8)
    pixels[2:-2, 2:-2] = 200  # 4% of 50 is a ring of 2
    found = dict(zip(ATTRIBUTES, file_attributes(pixels, width_px=2000, height_px=1000), strict=True))
    assert found["width"] == 2000
    assert found["height"] == 1000
    assert found["aspect"] == 2
    assert found["border"] == 10
    assert found["mean_grey"] == pytest.approx(pixels.mean())


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 2), (3, 3)])
def test_tiny_pictures_have_attributes(shape: tuple[int, int]) -> None:
    found = file_attributes(np.full(shape, 7, np.uint8))
    assert np.all(np.isfinite(found))
    assert found[3] == found[4] == 7


def test_either_direction_counts() -> None:
    labels = np.array([0, 1] * 30)
    noise = np.random.default_rng(0).random(60)
    found = attribute_aurocs(
        labels, {"up": labels + noise * 2, "down": -(labels + noise * 2)}, np.arange(60), resamples=100
    )
    assert found["up"].value == pytest.approx(found["down"].value)
    assert found["up"].value > 0.6
    assert found["up"].low < found["up"].value < found["up"].high


def test_without_an_interval() -> None:
    found = attribute_aurocs([0, 1], {"width": [2, 1]}, ["a", "b"], resamples=0)
    assert found["width"].value == found["width"].low == 1.0
