"""ONNX Runtime behind the interpreter's interface gives what the TFLite file gives, and refuses other files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from firmware_bridge.errors import ConfigError, ModelError
from firmware_bridge.interpreter import open_interpreter

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed here")

from firmware_bridge.onnx_runtime import open_onnx

DATA = Path(__file__).parent.parent / "data"
EXPECTED = np.load(DATA / "tiny.expected.npz")


@pytest.mark.parametrize("as_written", [False, True])
def test_the_float_model_gives_what_tensorflow_gave(as_written: bool) -> None:
    interpreter = open_onnx((DATA / "tiny.float.onnx").read_bytes(), threads=1, as_written=as_written)
    output = interpreter.run(EXPECTED["picture"])
    assert (interpreter.runtime, interpreter.size_px, interpreter.threads) == ("onnxruntime", 32, 1)
    assert output.probability == pytest.approx(float(EXPECTED["probability"]), abs=1e-5)
    assert np.abs(output.real_features() - EXPECTED["features"]).max() < 1e-4
    assert output.mean_features().dtype == np.float32


@pytest.mark.parametrize("as_written", [False, True])
def test_the_integer_model_is_the_tflite_file_on_the_same_steps(as_written: bool) -> None:
    onnx = open_onnx((DATA / "tiny.int8.onnx").read_bytes(), as_written=as_written)
    tflite = open_interpreter(DATA / "tiny.int8.tflite")
    rng = np.random.default_rng(5)
    pictures = [EXPECTED["picture"], np.zeros((32, 32), np.uint8), np.full((32, 32), 255, np.uint8)]
    pictures += [rng.integers(0, 256, (32, 32)).astype(np.uint8) for _ in range(20)]
    for picture in pictures:
        ours, theirs = onnx.run(picture), tflite.run(picture)
        steps = (ours.real_features() - theirs.real_features()) / theirs.scale
        assert np.abs(steps).max() < 1.01  # a value between two steps may go to either
        assert np.abs(steps - np.round(steps)).max() < 1e-3  # but it stands on one
        assert abs(ours.probability - theirs.probability) < 0.01


def test_the_border_is_padded_with_what_stands_for_zero() -> None:
    """A shifted picture has the same maps in the middle; at the border only the padding decides."""
    onnx = open_onnx((DATA / "tiny.int8.onnx").read_bytes(), as_written=True)
    tflite = open_interpreter(DATA / "tiny.int8.tflite")
    white = np.full((32, 32), 255, np.uint8)
    ours, theirs = onnx.run(white).real_features(), tflite.run(white)
    border = np.ones(ours.shape[:2], bool)
    border[1:-1, 1:-1] = False
    assert np.abs(ours[border] - theirs.real_features()[border]).max() < 1.01 * theirs.scale
    assert np.abs(ours[border] - ours[4, 4]).max() > 5 * theirs.scale


def test_outputs_stay_after_the_next_inference() -> None:
    interpreter = open_onnx((DATA / "tiny.float.onnx").read_bytes())
    first = interpreter.run(EXPECTED["picture"])
    kept = first.features.copy()
    interpreter.run(255 - EXPECTED["picture"])
    assert np.array_equal(first.features, kept)


@pytest.mark.parametrize("content", [b"", b"ONNX", (DATA / "tiny.int8.tflite").read_bytes()])
def test_what_is_no_onnx_file_is_refused(content: bytes) -> None:
    with pytest.raises(ModelError, match="cannot be loaded"):
        open_onnx(content)


def test_a_sound_file_of_another_form_is_refused() -> None:
    onnx = pytest.importorskip("onnx")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 32, 32]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(ModelError, match="not of the form"):
        open_onnx(model.SerializeToString())


def test_impossible_threads_and_pictures_are_refused() -> None:
    content = (DATA / "tiny.float.onnx").read_bytes()
    with pytest.raises(ConfigError, match="threads"):
        open_onnx(content, threads=0)
    with pytest.raises(ModelError, match="does not fit"):
        open_onnx(content).run(np.zeros((31, 32), np.uint8))
