"""ImageNet's weights in our one-channel Lite0: they still know a daisy; a damaged or hostile file is refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from firmware_bridge.errors import ModelError
from toolkit.imagenet_lite0 import put_lite0, weights_file
from toolkit.input_scale import INPUT_SCALE
from toolkit.model import Architecture, build_classifier
from toolkit.tf import keras
from toolkit.torch_file import read_torch_arrays
from toolkit.weights import load_initial_weights

DAISY, BELL_COTE, PALACE = 985, 442, 698  # of ImageNet's 1,000 classes


def grey_square(name: str) -> Any:
    """(1, 224, 224, 1) float32 grey levels: the middle of one of scikit-learn's two photographs."""
    picture = cv2.cvtColor(load_sample_image(name), cv2.COLOR_RGB2GRAY)
    side = min(picture.shape)
    top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
    square = picture[top : top + side, left : left + side]
    return cv2.resize(square, (224, 224), interpolation=cv2.INTER_AREA).astype(np.float32)[None, ..., None]


@pytest.fixture(scope="module")
def arrays() -> Any:
    return read_torch_arrays(weights_file())


@pytest.mark.parametrize(("name", "classes"), [("flower.jpg", {DAISY}), ("china.jpg", {BELL_COTE, PALACE})])
def test_photographs_are_recognized_in_grey(arrays: Any, name: str, classes: set[int]) -> None:
    model = build_classifier(Architecture(backbone="efficientnet-lite0"))
    load_initial_weights(model, "imagenet", backbone="efficientnet-lite0", input_scale=INPUT_SCALE)
    pooled = keras.Model(model.input, model.get_layer("pool").output)
    features = pooled(INPUT_SCALE.normalise(grey_square(name)), training=False).numpy()  # (1, 1280) float32
    scores = features @ arrays["_fc.weight"].T + arrays["_fc.bias"]  # (1, 1000)
    assert int(scores.argmax()) in classes


def test_every_layer_but_the_head_is_replaced(arrays: Any) -> None:
    model = build_classifier(Architecture(backbone="efficientnet-lite0", size_px=32))
    before = {layer.name: layer.get_weights() for layer in model.layers if layer.get_weights()}
    put_lite0(arrays, model, input_scale=INPUT_SCALE)
    kept = [
        name
        for name, values in before.items()
        if all(np.array_equal(a, b) for a, b in zip(values, model.get_layer(name).get_weights(), strict=True))
    ]
    assert kept == ["logit"]


def test_arrays_of_another_network_are_refused(arrays: Any) -> None:
    model = build_classifier(Architecture(backbone="efficientnet-lite0", size_px=32))
    with pytest.raises(ModelError, match="do not fit the graph"):
        put_lite0({**arrays, "_conv_head.weight": arrays["_conv_stem.weight"]}, model, input_scale=INPUT_SCALE)
    missing = {name: value for name, value in arrays.items() if name != "_blocks.7._bn2.bias"}
    with pytest.raises(ModelError, match=r"_blocks\.7\._bn2\.bias"):
        put_lite0(missing, model, input_scale=INPUT_SCALE)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.pth"
    path.write_bytes(weights_file().read_bytes()[:1_000_000])
    with pytest.raises(ModelError, match="cannot be read"):
        read_torch_arrays(path)


def test_a_file_that_would_run_something_is_refused(tmp_path: Path) -> None:
    touched = tmp_path / "touched"

    class Hostile:
        def __reduce__(self) -> Any:
            return (Path.touch, (touched,))

    path = tmp_path / "hostile.pth"
    header = [0x1950A86A20F9469CFC6C, 1001, {}]
    path.write_bytes(b"".join(pickle.dumps(part) for part in [*header, Hostile()]))
    with pytest.raises(ModelError, match="is not expected"):
        read_torch_arrays(path)
    assert not touched.exists()
