"""The classifier: backbone, global average pooling, one linear layer. Its feature maps explain it in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from toolkit.backbones.attention import ATTENDED_LAYER, cbam, message, self_attention
from toolkit.backbones.densenet import densenet_features
from toolkit.backbones.efficientnet import efficientnet_features
from toolkit.backbones.kinds import Backbone, DenseNet, Hybrid, require_backbone
from toolkit.input_scale import INPUT_SCALE, InputScale
from toolkit.tf import keras

FEATURES_LAYER = "top_activation"
HEAD_LAYER = "logit"
PROBABILITY_LAYER = "probability"


@dataclass(frozen=True, slots=True)
class Architecture:
    """Everything needed to build the graph again around saved weights.

    Attributes:
        backbone: a key of `BACKBONES`.
        size_px: side of the square input, a multiple of 32.
        input_scale: see `InputScale`.
        dropout: before the head, training only, 0 to below 1.
        spatial_dropout: of whole feature maps before pooling, float training only, 0 to below 1 (Tompson 2015).
        drop_connect: stochastic depth, float training only.
        l2: penalty on every kernel, float training only, 0 or more.
        bn_momentum: of the moving statistics.
        attention: over the feature map: "none", "cbam" or "self".
        message_token: float training has a second output, of a learned token, that follows a teacher.
    """

    backbone: str = "efficientnet-b0"
    size_px: int = 224
    input_scale: InputScale = INPUT_SCALE
    dropout: float = 0.2
    spatial_dropout: float = 0.0
    drop_connect: float = 0.1
    l2: float = 0.0
    bn_momentum: float = 0.9
    attention: str = "none"
    message_token: bool = False


def build_classifier(arch: Architecture, *, trainable_drop: bool = True) -> Any:
    """The training graph: normalised grey (N, S, S, 1) float32 to probability (N, 1) float32 in [0, 1].

    With a message token the output is (N, 2): the probability, and the one that the token's own head gives.

    Args:
        arch: what to build.
        trainable_drop: False leaves out what is for floating-point training alone (stochastic depth, spatial dropout,
            the token, penalties), for graphs that are pruned and quantized.

    Raises:
        ConfigError: the backbone is unknown or the size is no multiple of 32.
    """
    kind = require_backbone(arch.backbone, size_px=arch.size_px)
    inputs = keras.Input((arch.size_px, arch.size_px, 1), name="grey")
    features = backbone_features(
        inputs, kind, bn_momentum=arch.bn_momentum, drop_connect=arch.drop_connect if trainable_drop else 0.0
    )
    if arch.attention != "none":
        features = {"cbam": cbam, "self": self_attention}[arch.attention](features)
    x = features
    if trainable_drop and arch.spatial_dropout:
        x = keras.layers.SpatialDropout2D(arch.spatial_dropout, name="spatial_dropout")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = keras.layers.Dropout(arch.dropout, name="head_dropout")(x)
    x = keras.layers.Dense(1, name=HEAD_LAYER)(x)
    output = keras.layers.Activation("sigmoid", name=PROBABILITY_LAYER)(x)
    if trainable_drop and arch.message_token:
        told = keras.layers.Dense(1, activation="sigmoid", name="message_probability")(message(features))
        output = keras.layers.Concatenate(name="both_probabilities")([output, told])
    model = keras.Model(inputs, output, name=arch.backbone.replace("-", "_"))
    if trainable_drop and arch.l2:
        _penalise(model, arch.l2)
    return model


def backbone_features(
    inputs: Any, kind: Backbone, *, bn_momentum: float, drop_connect: float = 0.0, top: str = FEATURES_LAYER
) -> Any:
    """The feature maps (N, S/32, S/32, C) float32 of `kind` for normalised grey images; output of the layer `top`."""
    if isinstance(kind, Hybrid):
        parts = [
            backbone_features(
                inputs, part, bn_momentum=bn_momentum, drop_connect=drop_connect, top=f"{top}_{part.name}"
            )
            for part in kind.parts
        ]
        return keras.layers.Concatenate(name=top)(parts)
    if isinstance(kind, DenseNet):
        return densenet_features(inputs, kind, bn_momentum=bn_momentum, top=top)
    return efficientnet_features(inputs, kind, bn_momentum=bn_momentum, drop_connect=drop_connect, top=top)


def features_layer(names: Any) -> str:
    """The layer that the head pools, among the layers called `names`: attended features where there is attention."""
    return ATTENDED_LAYER if ATTENDED_LAYER in names else FEATURES_LAYER


def _penalise(model: Any, l2: float) -> None:
    """Add an L2 penalty on every kernel to the loss; biases and batch norm's scales are left alone."""
    penalty = keras.regularizers.L2(l2)
    kernels = [v for v in model.trainable_weights if v.name.split("/")[-1] in ("kernel:0", "depthwise_kernel:0")]
    for kernel in kernels:
        model.add_loss(lambda kernel=kernel: penalty(kernel))


def copy_weights(source: Any, target: Any) -> None:
    """Give every layer of `target` the weights of the layer of the same name in `source`, which may have more."""
    for layer in target.layers:
        layer.set_weights(source.get_layer(layer.name).get_weights())
