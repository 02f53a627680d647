from __future__ import annotations

import json
from typing import Any

import cv2
import numpy as np
import pytest

from firmware_bridge.errors import BundleError
from firmware_bridge.preprocess import VERSION, Preprocessing


def test_the_default_is_squash_then_clahe() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (500, 700)).astype(np.uint8)
    small = cv2.resize(grey, (224, 224), interpolation=cv2.INTER_AREA)
    expected = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(small)
    out = Preprocessing.default().apply(grey)
    assert np.array_equal(out, expected)
    assert out.dtype == np.uint8
    assert out.flags.c_contiguous


@pytest.mark.parametrize("shape", [(1, 1), (33, 900), (224, 224), (100, 80), (3000, 2)])
@pytest.mark.parametrize("name", ["resize", "letterbox"])
def test_any_shape_comes_out_square(name: str, shape: tuple[int, int]) -> None:
    steps = Preprocessing.from_manifest({"version": 1, "steps": [{"name": name, "size_px": 96}]})
    assert steps.apply(np.full(shape, 77, np.uint8)).shape == (96, 96)
    assert (steps.size_px, steps.decode_min_side_px) == (96, 96)


def test_letterbox_keeps_the_aspect_and_fills_with_black() -> None:
    steps = Preprocessing.from_manifest({"version": 1, "steps": [{"name": "letterbox", "size_px": 100}]})
    out = steps.apply(np.full((200, 400), 200, np.uint8))
    assert (out[25:75] == 200).all()
    assert (out[:25] == 0).all()
    assert (out[75:] == 0).all()


def test_the_manifest_form_survives_json() -> None:
    steps = Preprocessing.default(192)
    again = Preprocessing.from_manifest(json.loads(json.dumps(steps.to_manifest())))
    assert again == steps
    assert hash(again) == hash(steps)
    assert steps.to_manifest()["steps"][0] == {"name": "resize", "size_px": 192}


def test_an_x_ray_does_not_change_under_the_steps() -> None:
    grey = np.random.default_rng(1).integers(0, 256, (224, 224)).astype(np.uint8)
    before = grey.copy()
    Preprocessing.default().apply(grey)
    assert np.array_equal(grey, before)


@pytest.mark.parametrize(
    ("data", "came"),
    [
        (None, "NoneType"),
        ([], "list"),
        ({}, "None"),
        ({"version": True, "steps": []}, "True"),
        ({"version": VERSION + 1, "steps": [{"name": "resize", "size_px": 224}]}, "version 2"),
        ({"version": 1, "steps": []}, "[]"),
        ({"version": 1, "steps": ["resize"]}, "None"),
        ({"version": 1, "steps": [{"name": "lung_crop"}]}, "lung_crop"),
        ({"version": 1, "steps": [{"name": ["resize"]}]}, "resize"),
        ({"version": 1, "steps": [{"name": "clahe", "clip_limit": 2.0, "tiles": 8}]}, "clahe"),
        ({"version": 1, "steps": [{"name": "resize"}]}, "no options"),
        ({"version": 1, "steps": [{"name": "resize", "size_px": 224, "method": "nearest"}]}, "method"),
        ({"version": 1, "steps": [{"name": "resize", "size_px": "224"}]}, "'224'"),
        ({"version": 1, "steps": [{"name": "resize", "size_px": 0}]}, "0"),
        ({"version": 1, "steps": [{"name": "resize", "size_px": 10**9}]}, "1000000000"),
        ({"version": 1, "steps": [{"name": "resize", "size_px": 22.5}]}, "22.5"),
        ({"version": 1, "steps": [{"name": "resize", "size_px": float("nan")}]}, "nan"),
    ],
)
def test_what_cannot_be_run_is_a_bundle_error(data: Any, came: str) -> None:
    with pytest.raises(BundleError) as caught:
        Preprocessing.from_manifest(data)
    assert came in caught.value.came


def test_a_newer_version_says_to_update() -> None:
    with pytest.raises(BundleError, match="update cxr-edge"):
        Preprocessing.from_manifest({"version": 99, "steps": []})
