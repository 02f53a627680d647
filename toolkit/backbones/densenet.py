"""DenseNet (Huang 2017, table 1), one grey channel, flat, with layers named as in `keras.applications`.

Each layer sees what all before it gave. In integers every stacking rescales what it stacks, layer after layer, so this
network serves as a teacher and as one half of the hybrid rather than as the small one on a device.
"""

from __future__ import annotations

from typing import Any

from toolkit.backbones.kinds import DenseNet
from toolkit.tf import keras

# keras.applications has this where Keras' own default is 1e-3.
_EPSILON = 1.001e-5


def densenet_features(inputs: Any, kind: DenseNet, *, bn_momentum: float, top: str = "top_activation") -> Any:
    """The feature maps of `kind` for normalised grey images.

    Args:
        inputs: Keras tensor (N, S, S, 1) float32, zero where the network's padding is zero; S divisible by 32.
        kind: which DenseNet.
        bn_momentum: of batch normalisation's moving statistics.
        top: name of the last layer.

    Returns:
        Keras tensor (N, S/32, S/32, C) float32, output of the layer `top`.
    """
    layers = keras.layers

    def norm_relu(x: Any, bn: str, relu: str) -> Any:
        x = layers.BatchNormalization(momentum=bn_momentum, epsilon=_EPSILON, name=bn)(x)
        return layers.Activation("relu", name=relu)(x)

    def conv(x: Any, channels: int, kernel: int, name: str) -> Any:
        return layers.Conv2D(channels, kernel, padding="same", use_bias=False, name=name)(x)

    x = layers.ZeroPadding2D(3, name="stem_pad")(inputs)
    x = layers.Conv2D(kind.stem_channels, 7, strides=2, use_bias=False, name="conv1/conv")(x)
    x = norm_relu(x, "conv1/bn", "conv1/relu")
    x = layers.ZeroPadding2D(1, name="pool1_pad")(x)
    x = layers.MaxPooling2D(3, strides=2, name="pool1")(x)
    for stage, repeats in enumerate(kind.blocks, start=2):
        for block in range(1, repeats + 1):
            name = f"conv{stage}_block{block}"
            y = norm_relu(x, f"{name}_0_bn", f"{name}_0_relu")
            y = norm_relu(conv(y, 4 * kind.growth, 1, f"{name}_1_conv"), f"{name}_1_bn", f"{name}_1_relu")
            y = conv(y, kind.growth, 3, f"{name}_2_conv")
            x = layers.Concatenate(name=f"{name}_concat")([x, y])
        if stage - 1 < len(kind.blocks):
            x = norm_relu(x, f"pool{stage}_bn", f"pool{stage}_relu")
            x = conv(x, int(x.shape[-1]) // 2, 1, f"pool{stage}_conv")
            x = layers.AveragePooling2D(2, strides=2, name=f"pool{stage}_pool")(x)
    return norm_relu(x, "bn", top)
