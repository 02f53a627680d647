from __future__ import annotations

import json
import pickle
from typing import Any

import cv2
import numpy as np
import pytest

from firmware_bridge.box import Box
from firmware_bridge.errors import BundleError, UnsuitableImage
from firmware_bridge.lungs import Lungs
from firmware_bridge.preprocess import VERSION, Preparer, Preprocessing


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


LUNGS_FIRST = {"version": 1, "steps": [{"name": "lungs", "margin": 0.1}, {"name": "resize", "size_px": 64}]}


def _lungs_at(box: Box | None) -> Lungs:
    return Lungs(np.zeros((128, 128), np.uint8), box, None, "" if box else "0 bodies", np.ones(7, np.float32) / 7)


def test_the_lungs_step_cuts_the_box_with_its_margin_and_stays_inside() -> None:
    steps = Preprocessing.from_manifest(LUNGS_FIRST)
    grey = np.random.default_rng(2).integers(0, 256, (200, 400)).astype(np.uint8)
    out = steps.run(grey, lungs=_lungs_at(Box(0.25, 0.5, 0.75, 1.0)))
    # 0.1 of 0.5 wider to the left and right, higher above, and nothing below the picture's end.
    assert out.field.to_json() == pytest.approx([0.2, 0.45, 0.8, 1.0])
    expected = cv2.resize(grey[90:200, 80:320], (64, 64), interpolation=cv2.INTER_AREA)
    assert np.array_equal(out.pixels, expected)
    assert steps.needs_lungs
    assert steps.decode_min_side_px == 128


def test_no_lungs_is_a_refusal_and_never_another_crop() -> None:
    with pytest.raises(UnsuitableImage, match="no lungs") as caught:
        Preprocessing.from_manifest(LUNGS_FIRST).run(np.zeros((99, 99), np.uint8), lungs=_lungs_at(None))
    assert caught.value.reason == "no_lungs"
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own bytes
    assert (again.reason, str(again)) == ("no_lungs", str(caught.value))


def test_steps_that_need_lungs_need_a_lung_network() -> None:
    with pytest.raises(BundleError, match="lung network"):
        Preparer(Preprocessing.from_manifest(LUNGS_FIRST))


def test_the_field_of_a_letterbox_reaches_over_the_borders() -> None:
    steps = Preprocessing.from_manifest({"version": 1, "steps": [{"name": "letterbox", "size_px": 100}]})
    assert steps.run(np.zeros((200, 400), np.uint8)).field.to_json() == pytest.approx([0.0, -0.5, 1.0, 1.5])


def test_a_newer_version_says_to_update() -> None:
    with pytest.raises(BundleError, match="update cxr-edge"):
        Preprocessing.from_manifest({"version": 99, "steps": []})
