from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from firmware_bridge.box import Box
from firmware_bridge.errors import ModelError
from firmware_bridge.explain import annotated_png, grad_cam_plus_plus, numbers_of, on_whole, overlay
from firmware_bridge.interpreter import open_interpreter
from firmware_bridge.lungs import Lungs
from firmware_bridge.preprocess import Prepared

DATA = Path(__file__).parent.parent / "data"
EXPECTED = np.load(DATA / "tiny.expected.npz")
HEAD = np.load(DATA / "tiny.head.npy")  # (C + 1,) float32, the bias last
needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="needs TensorFlow: pip install 'cxr-edge[train]'"
)


def test_the_closed_form_is_what_tensorflows_gradients_gave() -> None:
    output = open_interpreter(DATA / "tiny.float.tflite").run(EXPECTED["picture"])
    cam = grad_cam_plus_plus(output.real_features(), HEAD[:-1])
    assert cam.dtype == np.float32
    assert np.abs(cam - EXPECTED["cam"]).max() < 1e-3


def test_int8_explains_nearly_the_same() -> None:
    output = open_interpreter(DATA / "tiny.int8.tflite").run(EXPECTED["picture"])
    assert np.abs(grad_cam_plus_plus(output.real_features(), HEAD[:-1]) - EXPECTED["cam"]).max() < 0.05


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_tiny_models", DATA / "make_tiny_models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs_tensorflow
@pytest.mark.parametrize("seed", range(5))
def test_the_closed_form_equals_gradients_on_any_features(maker: ModuleType, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Swish gives slightly negative features; weights have both signs; 7 x 7 x 320 as a real backbone has.
    features = np.maximum(rng.normal(0, 2, (7, 7, 320)), -0.278).astype(np.float32)
    weights = rng.normal(0, 0.3, 320).astype(np.float32)
    theirs = maker.gradient_cam(features, weights, bias=float(rng.normal()))
    assert np.abs(grad_cam_plus_plus(features, weights) - theirs).max() < 1e-3


@needs_tensorflow
def test_the_checked_in_expectations_are_what_the_script_makes(maker: ModuleType) -> None:
    theirs = maker.gradient_cam(EXPECTED["features"], HEAD[:-1], bias=float(HEAD[-1]))
    assert np.abs(theirs - EXPECTED["cam"]).max() < 1e-5


def test_nothing_for_the_positive_label_gives_an_empty_map() -> None:
    features = np.ones((4, 4, 3), np.float32)
    assert grad_cam_plus_plus(features, np.array([-1, -2, 0], np.float32)).max() == 0
    assert grad_cam_plus_plus(np.zeros_like(features), np.ones(3, np.float32)).max() == 0


def test_one_bright_place_is_found() -> None:
    features = np.zeros((7, 7, 5), np.float32)
    features[2, 5, 3] = 9
    cam = grad_cam_plus_plus(features, np.ones(5, np.float32))
    assert cam[2, 5] == 1
    assert cam.sum() == 1


@pytest.mark.parametrize("shapes", [((7, 7, 5), (4,)), ((7, 7), (7,)), ((1, 7, 7, 5), (5,))], ids=str)
def test_shapes_that_do_not_belong_together_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ModelError):
        grad_cam_plus_plus(np.zeros(shapes[0], np.float32), np.zeros(shapes[1], np.float32))


def test_the_overlay_colours_only_where_the_map_is() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120)).astype(np.uint8)
    cam = np.zeros((7, 7), np.float32)
    assert np.array_equal(overlay(pixels, cam), np.repeat(pixels[..., None], 3, axis=2))
    cam[0, 0] = 1
    coloured = overlay(pixels, cam)
    assert coloured.shape == (90, 120, 3)
    assert coloured.dtype == np.uint8
    assert np.array_equal(coloured[60:, 60:], np.repeat(pixels[60:, 60:, None], 3, axis=2))
    red, _, blue = coloured[:4, :4].reshape(-1, 3).mean(axis=0)
    assert red > blue  # red-green-blue: the greatest value is red


def test_a_map_goes_back_through_the_crop_to_its_place_in_the_whole_x_ray() -> None:
    cam = np.zeros((4, 4), np.float32)
    cam[1, 2] = 1.0
    field = Box(0.2, 0.4, 0.6, 1.0)
    whole = on_whole(cam, field, width_px=400, height_px=200)
    # The centre of column 2 of 4 lies at 0.2 + 0.4 * 2.5 / 4, of row 1 at 0.4 + 0.6 * 1.5 / 4.
    row, column = np.unravel_index(int(whole.argmax()), whole.shape)
    assert (column / 400, row / 200) == pytest.approx((0.45, 0.625), abs=0.01)
    assert (whole[:, :79] == 0).all()
    assert (whole[:79] == 0).all()
    told = numbers_of(cam, Prepared(np.zeros((32, 32), np.uint8), field))
    assert told == {"method": "grad-cam++", "peak": [0.45, 0.625], "lung_share": None}


def test_the_share_of_the_map_inside_the_lungs() -> None:
    mask = np.zeros((128, 128), np.uint8)
    mask[:, :64] = 255  # the left half of the X-ray
    lungs = Lungs(mask, Box(0.0, 0.0, 0.5, 1.0), None, "", np.ones(7, np.float32) / 7)
    prepared = Prepared(np.zeros((64, 64), np.uint8), Box(0.25, 0.0, 0.75, 1.0), lungs)
    cam = np.ones((8, 8), np.float32)
    assert numbers_of(cam, prepared)["lung_share"] == pytest.approx(0.5, abs=0.02)
    cam[:, 4:] = 0
    assert numbers_of(cam, prepared)["lung_share"] == pytest.approx(1.0, abs=0.04)
    assert numbers_of(np.zeros((8, 8), np.float32), prepared) == {
        "method": "grad-cam++",
        "peak": None,
        "lung_share": None,
    }


def test_the_overlay_file_carries_the_notice_and_leaves_the_rest_of_the_x_ray_grey() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (900, 1200)).astype(np.uint8)
    png = annotated_png(grey, np.ones((4, 4), np.float32), Box(0.5, 0.0, 1.0, 1.0))
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape[1] == 512
    assert picture.shape[0] > 384
    assert (picture[384:] > 128).any()  # letters
    left, right = picture[:384, :250].astype(int), picture[:384, 262:].astype(int)
    assert (left.max(axis=2) == left.min(axis=2)).all()
    assert (right.max(axis=2) != right.min(axis=2)).mean() > 0.9
