"""Our flat graphs: ImageNet's weights map onto them exactly, and both backbones are what their names say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from firmware_bridge.errors import ConfigError, ModelError
from toolkit.input_scale import INPUT_SCALE, InputScale
from toolkit.model import FEATURES_LAYER, Architecture, build_classifier
from toolkit.tf import keras
from toolkit.weights import fold_reference, load_initial_weights

SIZE_PX = 64


@pytest.fixture(scope="module")
def reference() -> Any:
    """keras.applications' own network with random weights and, as if trained, random statistics."""
    keras.utils.set_random_seed(7)
    network = keras.applications.EfficientNetB0(weights=None, include_top=False, input_shape=(SIZE_PX, SIZE_PX, 3))
    rng = np.random.default_rng(7)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            n = len(layer.get_weights()[0])
            layer.set_weights(
                [rng.uniform(0.8, 1.2, n), rng.normal(0, 0.1, n), rng.normal(0, 0.1, n), rng.uniform(0.5, 1.5, n)]
            )
    return network


@pytest.fixture(scope="module")
def ours() -> Any:
    return build_classifier(Architecture(size_px=SIZE_PX))


@pytest.mark.parametrize(("mean", "zero_grey"), [(0.0, 0), (114 / 255, 114)])
def test_equal_features_on_grey_input(reference: Any, ours: Any, mean: float, zero_grey: int) -> None:
    variance = np.array([0.229**2, 0.224**2, 0.225**2], np.float32)
    normalization = next(x for x in reference.layers if x.name.startswith("normalization"))
    normalization.mean = np.full((1, 1, 1, 3), mean, np.float32)
    normalization.variance = variance.reshape(1, 1, 1, 3)
    scale = InputScale(zero_grey=zero_grey)
    fold_reference(reference, ours, input_scale=scale)
    grey = np.random.default_rng(1).integers(0, 256, (3, SIZE_PX, SIZE_PX, 1)).astype(np.float32)
    theirs = reference(np.repeat(grey, 3, axis=-1), training=False).numpy()
    mine = keras.Model(ours.input, ours.get_layer(FEATURES_LAYER).output)(scale.normalise(grey), training=False)
    assert theirs.std() > 0.05
    np.testing.assert_allclose(mine.numpy(), theirs, atol=1e-4)


def test_densenet_gives_equal_features_alone_and_in_the_hybrid(monkeypatch: pytest.MonkeyPatch) -> None:
    # Zero padding stands for the mean: with one mean for all channels it is the same grey level in both.
    monkeypatch.setattr("toolkit.weights._TORCH_MEAN", (114 / 255,) * 3)
    keras.utils.set_random_seed(7)
    theirs = keras.applications.DenseNet121(weights=None, include_top=False, input_shape=(SIZE_PX, SIZE_PX, 3))
    rng = np.random.default_rng(7)
    for layer in theirs.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            n = len(layer.get_weights()[0])
            layer.set_weights([rng.uniform(0.8, 1.2, n), rng.normal(0, 0.1, n), np.zeros(n), rng.uniform(0.5, 1.5, n)])
    grey = rng.integers(0, 256, (2, SIZE_PX, SIZE_PX, 1)).astype(np.float32)
    deviation = np.array([0.229, 0.224, 0.225], np.float32)
    expected = theirs((np.repeat(grey, 3, axis=-1) - 114) / (255 * deviation), training=False).numpy()
    assert expected.std() > 0.05
    for backbone, top in (("densenet121", FEATURES_LAYER), ("hybrid", f"{FEATURES_LAYER}_densenet121")):
        mine = build_classifier(Architecture(backbone=backbone, size_px=SIZE_PX))
        fold_reference(theirs, mine, input_scale=INPUT_SCALE)
        features = keras.Model(mine.input, mine.get_layer(top).output)
        found = features(INPUT_SCALE.normalise(grey), training=False).numpy()
        np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


def test_lite0_has_neither_gates_nor_swish() -> None:
    lite = build_classifier(Architecture(backbone="efficientnet-lite0", size_px=SIZE_PX))
    assert not [x.name for x in lite.layers if "se_" in x.name or isinstance(x, keras.layers.Multiply)]
    activations = [x for x in lite.layers if isinstance(x, keras.layers.ReLU)]
    assert {float(x.max_value) for x in activations} == {6.0}
    assert lite.get_layer(FEATURES_LAYER).output_shape == (None, 2, 2, 1280)
    # 4.65 million as published, of which the ImageNet head has 1.28.
    assert 3.2e6 < lite.count_params() < 3.6e6


def test_another_graphs_weights_are_refused(reference: Any) -> None:
    lite = build_classifier(Architecture(backbone="efficientnet-lite0", size_px=SIZE_PX))
    with pytest.raises(ModelError, match="does not map"):
        fold_reference(reference, lite, input_scale=INPUT_SCALE)


def test_weights_of_an_earlier_run_and_damaged_ones(ours: Any, tmp_path: Path) -> None:
    path = tmp_path / "final.weights.h5"
    ours.save_weights(path)
    other = build_classifier(Architecture(size_px=SIZE_PX))
    load_initial_weights(other, str(path), backbone="efficientnet-b0", input_scale=INPUT_SCALE)
    for one, two in zip(ours.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ModelError, match="do not fit"):
        load_initial_weights(other, str(path), backbone="efficientnet-b0", input_scale=INPUT_SCALE)


@pytest.mark.parametrize(
    ("weights", "backbone", "message"),
    [
        ("no such file.weights.h5", "efficientnet-b0", "is not there"),
        ("imagenet", "resnet", "no ImageNet weights for"),
    ],
)
def test_weights_that_cannot_be_had(ours: Any, weights: str, backbone: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_initial_weights(ours, weights, backbone=backbone, input_scale=INPUT_SCALE)


def test_imagenet_without_a_network_says_where_the_file_goes(tmp_path: Path) -> None:
    program = (
        "from toolkit.weights import _imagenet_reference\n"
        "from firmware_bridge.errors import ConfigError\n"
        "try:\n    _imagenet_reference('efficientnet-b0')\nexcept ConfigError as error:\n    print(error)\n"
    )
    nowhere = "http://127.0.0.1:9"
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    env |= {"HOME": str(tmp_path), "KERAS_HOME": str(tmp_path / "keras"), "HTTPS_PROXY": nowhere, "HTTP_PROXY": nowhere}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "ImageNet's weights are not here" in done.stdout
    assert "efficientnetb0_notop.h5" in done.stdout
    assert "--weights none" in done.stdout
