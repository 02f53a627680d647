"""The classifier: backbone, global average pooling, one linear layer. Its feature maps explain it in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from toolkit.backbones.efficientnet import efficientnet_features
from toolkit.backbones.kinds import require_backbone
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
        drop_connect: stochastic depth, float training only.
        l2: penalty on the head's kernel, 0 or more.
        bn_momentum: of the moving statistics.
    """

    backbone: str = "efficientnet-b0"
    size_px: int = 224
    input_scale: InputScale = INPUT_SCALE
    dropout: float = 0.2
    drop_connect: float = 0.1
    l2: float = 0.0
    bn_momentum: float = 0.9


def build_classifier(arch: Architecture, *, trainable_drop: bool = True) -> Any:
    """The training graph: normalised grey (N, S, S, 1) float32 to probability (N, 1) float32 in [0, 1].

    Args:
        arch: what to build.
        trainable_drop: False leaves stochastic depth out, for graphs that are pruned and quantized.

    Raises:
        ConfigError: the backbone is unknown or the size is no multiple of 32.
    """
    kind = require_backbone(arch.backbone, size_px=arch.size_px)
    inputs = keras.Input((arch.size_px, arch.size_px, 1), name="grey")
    features = efficientnet_features(
        inputs,
        kind,
        bn_momentum=arch.bn_momentum,
        drop_connect=arch.drop_connect if trainable_drop else 0.0,
    )
    x = keras.layers.GlobalAveragePooling2D(name="pool")(features)
    x = keras.layers.Dropout(arch.dropout, name="head_dropout")(x)
    regularizer = keras.regularizers.L2(arch.l2) if arch.l2 else None
    x = keras.layers.Dense(1, kernel_regularizer=regularizer, name=HEAD_LAYER)(x)
    probability = keras.layers.Activation("sigmoid", name=PROBABILITY_LAYER)(x)
    return keras.Model(inputs, probability, name=arch.backbone.replace("-", "_"))
