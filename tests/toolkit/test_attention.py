"""Attention, tokens, penalties and freezing: what each does to the graph."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from firmware_bridge.errors import ConfigError
from toolkit.backbones.kinds import BACKBONES, DenseNet, EfficientNet, Hybrid
from toolkit.config import TrainConfig
from toolkit.export import two_outputs
from toolkit.freeze import freeze_below
from toolkit.model import HEAD_LAYER, Architecture, build_classifier, copy_weights
from toolkit.tf import keras

SIZE_PX = 64
STAGES = ((3, 1, 8, 1, 1), (3, 1, 8, 1, 2), (3, 1, 8, 1, 2), (3, 1, 8, 1, 2), (3, 1, 8, 1, 2))
TINY = EfficientNet("tiny", "swish", False, blocks=STAGES, stem_channels=8, feature_channels=32)
DENSE = DenseNet("tiny-dense", blocks=(1, 1, 1, 1), growth=4, stem_channels=8)
ARCH = Architecture(backbone="tiny", size_px=SIZE_PX, dropout=0.0, drop_connect=0.0)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (TINY, DENSE, Hybrid("tiny-hybrid", (TINY, DENSE))):
        monkeypatch.setitem(BACKBONES, kind.name, kind)
    keras.utils.set_random_seed(1)


def _x(n: int = 3) -> Any:
    return np.random.default_rng(0).normal(size=(n, SIZE_PX, SIZE_PX, 1)).astype(np.float32)


def _features(model: Any) -> Any:
    return two_outputs(model)(_x(), training=False)[1].numpy()


@pytest.mark.parametrize("attention", ["none", "cbam", "self"])
def test_what_is_pooled_is_what_the_file_gives_as_features(attention: str) -> None:
    model = build_classifier(replace(ARCH, attention=attention))
    kernel, bias = model.get_layer(HEAD_LAYER).get_weights()
    logit = _features(model).mean(axis=(1, 2)) @ kernel + bias
    np.testing.assert_allclose(1 / (1 + np.exp(-logit)), model(_x(), training=False).numpy(), atol=1e-5)


def test_self_attention_starts_as_if_it_were_not_there() -> None:
    plain, attended = build_classifier(ARCH), build_classifier(replace(ARCH, attention="self"))
    for layer in plain.layers:
        attended.get_layer(layer.name).set_weights(layer.get_weights())
    np.testing.assert_allclose(_features(attended), _features(plain), atol=1e-6)


def test_self_attention_lets_every_place_see_every_other() -> None:
    model = build_classifier(replace(ARCH, attention="self"))
    model.get_layer("self_out").set_weights([np.ones_like(w) for w in model.get_layer("self_out").get_weights()])
    shares = keras.Model(model.input, model.get_layer("self_shares").output)(_x(), training=False).numpy()
    assert shares.shape == (3, 4, 4)
    np.testing.assert_allclose(shares.sum(axis=2), 1, atol=1e-5)


def test_cbam_follows_the_papers_equations() -> None:
    model = build_classifier(replace(ARCH, attention="cbam"))
    x = keras.Model(model.input, model.get_layer("top_activation").output)(_x(), training=False).numpy()
    (w0, b0), (w1, b1) = (model.get_layer(f"cbam_{name}").get_weights() for name in ("squeeze", "expand"))

    def perceptron(v: Any) -> Any:
        return np.maximum(v @ w0[0, 0] + b0, 0) @ w1[0, 0] + b1

    def sigmoid(v: Any) -> Any:
        return 1 / (1 + np.exp(-v))

    # The sum of the two, up to the factor two that the layer behind the small network learns.
    channels = sigmoid((perceptron(x.mean(axis=(1, 2))) + perceptron(x.max(axis=(1, 2)))) / 2)
    reweighted = x * channels[:, None, None, :]
    found = keras.Model(model.input, model.get_layer("cbam_reweighted").output)(_x(), training=False).numpy()
    np.testing.assert_allclose(found, reweighted, atol=1e-5)
    maps = np.stack([reweighted.mean(axis=3), reweighted.max(axis=3)], axis=3)
    found = keras.Model(model.input, model.get_layer("cbam_maps").output)(_x(), training=False).numpy()
    np.testing.assert_allclose(found, maps, atol=1e-5)


def test_the_token_gathers_with_shares_that_sum_to_one_and_is_gone_from_what_is_deployed() -> None:
    model = build_classifier(replace(ARCH, message_token=True))
    assert model(_x(), training=False).shape == (3, 2)
    shares = keras.Model(model.input, model.get_layer("message_shares").output)(_x(), training=False).numpy()
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    probability, _ = two_outputs(model)(_x(), training=False)
    np.testing.assert_allclose(probability[:, 0], model(_x(), training=False)[:, 0], atol=1e-6)
    deployed = build_classifier(replace(ARCH, message_token=True), trainable_drop=False)
    copy_weights(model, deployed)
    assert not [layer.name for layer in deployed.layers if "message" in layer.name]
    np.testing.assert_allclose(deployed(_x(), training=False), probability, atol=1e-6)


def test_the_hybrid_stacks_both_feature_maps() -> None:
    hybrid = build_classifier(replace(ARCH, backbone="tiny-hybrid"))
    parts = [hybrid.get_layer(f"top_activation_{name}").output_shape[-1] for name in ("tiny", "tiny-dense")]
    assert hybrid.get_layer("top_activation").output_shape == (None, 2, 2, sum(parts))


def test_spatial_dropout_drops_whole_maps_in_training_alone() -> None:
    model = build_classifier(replace(ARCH, spatial_dropout=0.5))
    layer = model.get_layer("spatial_dropout")
    out = layer(np.ones((1, 4, 4, 400), np.float32), training=True).numpy()[0]
    dropped = (out == 0).all(axis=(0, 1))
    assert 0.35 < dropped.mean() < 0.65
    assert (out[:, :, ~dropped] == 2).all()
    graph = build_classifier(replace(ARCH, spatial_dropout=0.5), trainable_drop=False)
    assert "spatial_dropout" not in [layer.name for layer in graph.layers]


def test_the_penalty_is_that_of_every_kernel() -> None:
    model = build_classifier(replace(ARCH, l2=1e-2))
    kernels = [v for v in model.trainable_weights if "kernel" in v.name]
    assert len(kernels) > 10
    expected = 1e-2 * sum(float(np.sum(np.square(v.numpy()))) for v in kernels)
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-4)
    assert not build_classifier(replace(ARCH, l2=1e-2), trainable_drop=False).losses


def test_freezing_leaves_the_top_to_train() -> None:
    model = build_classifier(ARCH)
    everything = len(model.trainable_weights)
    freeze_below(model, "logit")
    assert [v.name for v in model.trainable_weights] == ["logit/kernel:0", "logit/bias:0"]
    freeze_below(model, "block5")
    names = {v.name.split("/")[0] for v in model.trainable_weights}
    assert "block5a_dwconv" in names
    assert not any(name.startswith(("stem", "block4")) for name in names)
    freeze_below(model, "grey")
    assert len(model.trainable_weights) == everything
    with pytest.raises(ConfigError, match="no layer is called"):
        freeze_below(model, "block9")


def test_groups_are_read_from_text() -> None:
    assert TrainConfig(unfreeze="logit=1, block7=2").unfreeze_groups() == (("logit", 1), ("block7", 2))
    assert TrainConfig().unfreeze_groups() == ()
    for text in ("logit", "logit=0", "=2", "logit=1.5"):
        with pytest.raises(ConfigError, match="unfreeze"):
            TrainConfig(unfreeze=text)
