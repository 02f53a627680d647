"""EfficientNet-B0 (Tan & Le 2019, table 1) and EfficientNet-Lite0, one grey channel, flat.

"Flat" means: no preprocessing layers, every activation a layer of its own, squeeze-and-excitation on a 1×1 map that
keeps its dimensions. tensorflow-model-optimization then quantizes every layer, and TensorFlow Lite's XNNPACK delegate
takes the converted graph in one partition. Layers are named as in `keras.applications`, so that weights map by name.
"""

from __future__ import annotations

from typing import Any

from toolkit.backbones.kinds import EfficientNet
from toolkit.tf import keras

_SE_SHARE = 0.25
# He initialisation over the fan out, as the authors' code has it.
_CONV_INIT = {"scale": 2.0, "mode": "fan_out", "distribution": "truncated_normal"}


def efficientnet_features(
    inputs: Any, kind: EfficientNet, *, bn_momentum: float, drop_connect: float = 0.0, top: str = "top_activation"
) -> Any:
    """The feature maps of `kind` for normalised grey images.

    Args:
        inputs: Keras tensor (N, S, S, 1) float32, zero where the network's padding is zero; S divisible by 32.
        kind: which EfficientNet.
        bn_momentum: of batch normalisation's moving statistics; about 0.9 for a few thousand images.
        drop_connect: rate of stochastic depth at the last block, rising linearly from 0 (Huang 2016). Zero for a
            graph that is to be quantized.
        top: name of the last layer.

    Returns:
        Keras tensor (N, S/32, S/32, kind.feature_channels) float32, output of the layer `top`.
    """
    build = _Builder(kind, bn_momentum)
    x = build.conv_bn(inputs, kind.stem_channels, 3, strides=2, conv="stem_conv", bn="stem_bn")
    x = build.act(x, "stem_activation")
    blocks = sum(repeats for _, repeats, *_ in kind.blocks)
    done = 0
    for stage, (kernel, repeats, channels, expansion, stride) in enumerate(kind.blocks, start=1):
        for repeat in range(repeats):
            x = build.block(
                x,
                f"block{stage}{chr(ord('a') + repeat)}_",
                kernel=kernel,
                channels=channels,
                expansion=expansion,
                stride=stride if repeat == 0 else 1,
                drop=drop_connect * done / blocks,
            )
            done += 1
    x = build.conv_bn(x, kind.feature_channels, 1, strides=1, conv="top_conv", bn="top_bn")
    return build.act(x, top)


class _Builder:
    """The layers that all blocks share, with the choices of one network bound."""

    def __init__(self, kind: EfficientNet, bn_momentum: float) -> None:
        self.kind = kind
        self.bn_momentum = bn_momentum

    def act(self, x: Any, name: str) -> Any:
        if self.kind.activation == "relu6":
            return keras.layers.ReLU(6.0, name=name)(x)
        return keras.layers.Activation("swish", name=name)(x)

    def bn(self, x: Any, name: str) -> Any:
        return keras.layers.BatchNormalization(momentum=self.bn_momentum, name=name)(x)

    def conv_bn(self, x: Any, channels: int, kernel: int, *, strides: int, conv: str, bn: str) -> Any:
        # "same" pads as keras.applications' ZeroPadding2D(correct_pad) does, for even and for odd sizes, without PAD.
        x = keras.layers.Conv2D(
            channels,
            kernel,
            strides=strides,
            padding="same",
            use_bias=False,
            kernel_initializer=keras.initializers.VarianceScaling(**_CONV_INIT),
            name=conv,
        )(x)
        return self.bn(x, bn)

    def squeeze_excite(self, x: Any, name: str, *, block_channels: int) -> Any:
        reduced = max(1, int(block_channels * _SE_SHARE))
        se = keras.layers.GlobalAveragePooling2D(keepdims=True, name=name + "se_squeeze")(x)
        init = keras.initializers.VarianceScaling(**_CONV_INIT)
        se = keras.layers.Conv2D(reduced, 1, kernel_initializer=init, name=name + "se_reduce")(se)
        se = keras.layers.Activation("swish", name=name + "se_reduce_activation")(se)
        init = keras.initializers.VarianceScaling(**_CONV_INIT)
        se = keras.layers.Conv2D(x.shape[-1], 1, kernel_initializer=init, name=name + "se_expand")(se)
        se = keras.layers.Activation("sigmoid", name=name + "se_expand_activation")(se)
        return keras.layers.Multiply(name=name + "se_excite")([x, se])

    def block(self, x: Any, name: str, *, kernel: int, channels: int, expansion: int, stride: int, drop: float) -> Any:
        """One inverted residual (Sandler 2018) with optional squeeze-and-excitation (Hu 2018)."""
        shortcut = x
        channels_in = int(x.shape[-1])
        if expansion != 1:
            x = self.conv_bn(
                x,
                channels_in * expansion,
                1,
                strides=1,
                conv=name + "expand_conv",
                bn=name + "expand_bn",
            )
            x = self.act(x, name + "expand_activation")
        x = keras.layers.DepthwiseConv2D(
            kernel,
            strides=stride,
            padding="same",
            use_bias=False,
            depthwise_initializer=keras.initializers.VarianceScaling(**_CONV_INIT),
            name=name + "dwconv",
        )(x)
        x = self.act(self.bn(x, name + "bn"), name + "activation")
        if self.kind.squeeze_excite:
            x = self.squeeze_excite(x, name, block_channels=channels_in)
        x = self.conv_bn(x, channels, 1, strides=1, conv=name + "project_conv", bn=name + "project_bn")
        if stride == 1 and channels_in == channels:
            if drop > 0:
                x = keras.layers.Dropout(drop, noise_shape=(None, 1, 1, 1), name=name + "drop")(x)
            x = keras.layers.Add(name=name + "add")([x, shortcut])
        return x
