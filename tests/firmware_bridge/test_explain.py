from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from firmware_bridge.errors import ModelError
from firmware_bridge.explain import grad_cam_plus_plus, overlay
from firmware_bridge.interpreter import open_interpreter

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
