"""Pruning and quantization of a model that somebody else trained, with layers that tfmot refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from firmware_bridge.errors import ConfigError
from toolkit.foreign import PruneByMagnitude, QuantizeWeights, rounded
from toolkit.tf import keras


def _foreign() -> Any:
    """Rescaling and Multiply, as in keras.applications' EfficientNets."""
    keras.utils.set_random_seed(1)
    grey = keras.Input((16, 16, 1))
    x = keras.layers.Rescaling(1 / 255)(grey)
    x = keras.layers.Conv2D(8, 3, activation="relu", name="convolution")(x)
    gate = keras.layers.Conv2D(8, 1, activation="sigmoid", name="gate")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Multiply()([x, gate]))
    model = keras.Model(grey, keras.layers.Dense(1, activation="sigmoid", name="dense")(x))
    model.compile(keras.optimizers.Adam(1e-2), "binary_crossentropy")
    return model


def _fit(model: Any, *callbacks: Any) -> None:
    x = np.random.default_rng(0).uniform(0, 255, (32, 16, 16, 1)).astype(np.float32)
    model.fit(x, np.arange(32) % 2, batch_size=4, epochs=3, verbose=0, callbacks=list(callbacks))


def _kernels(model: Any) -> dict[str, Any]:
    return {name: model.get_layer(name).get_weights()[0] for name in ("convolution", "gate", "dense")}


@pytest.fixture(scope="module")
def pruned() -> Any:
    model = _foreign()
    _fit(model, PruneByMagnitude(sparsity=0.5, steps=24, every=4))
    return model


def test_each_kernel_reaches_its_share_and_the_rest_has_trained(pruned: Any) -> None:
    before = _kernels(_foreign())
    for name, kernel in _kernels(pruned).items():
        assert np.mean(kernel == 0) == pytest.approx(0.5, abs=0.51 / kernel.size)
        assert np.mean(kernel != before[name]) > 0.8  # zeros and trained weights; dead channels stand still


def test_quantization_leaves_rounded_weights_and_keeps_the_zeros(pruned: Any) -> None:
    zeros = {name: kernel == 0 for name, kernel in _kernels(pruned).items()}
    before = _kernels(pruned)
    _fit(pruned, QuantizeWeights())
    for name, kernel in _kernels(pruned).items():
        assert (kernel[zeros[name]] == 0).all()
        assert not np.array_equal(kernel, before[name])
        np.testing.assert_allclose(rounded(kernel), kernel, atol=1e-6)
        assert len(np.unique(kernel[..., 0])) <= 255


def test_rounding_is_symmetric_by_channel() -> None:
    kernel = np.array([[1.0, 0.01], [-0.5, 0.005], [0.0, 0.0]], np.float32)
    out = rounded(kernel)
    np.testing.assert_allclose(out[0], kernel[0], rtol=1e-6)
    np.testing.assert_allclose(out, kernel, atol=1 / 254)
    assert (rounded(-kernel) == -out).all()


@pytest.mark.parametrize(
    "options",
    [{"sparsity": 1.0}, {"sparsity": -0.1}, {"sparsity": float("nan")}, {"steps": 0}, {"every": 0}],
)
def test_pruning_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="cannot be pruned like that"):
        PruneByMagnitude(**{"sparsity": 0.3, "steps": 10, **options})
