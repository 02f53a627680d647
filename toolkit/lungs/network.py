"""The U-Net (Ronneberger 2015) that finds lungs, small enough to cost a third of the classifier.

Half resolution from the first layer on: lungs are large and smooth, and full-resolution layers would cost more than
all others together. The decoder thins its channels before it enlarges them, and adds the skipped features instead of
stacking them: a third less time, measured. Whoever uses the mask enlarges it to the input's size.
"""

from __future__ import annotations

from typing import Any

from firmware_bridge.lungs import KINDS, MASK_PX
from toolkit.tf import keras

CHANNELS = (16, 24, 40, 64, 96)  # at 1/2, 1/4, 1/8, 1/16 and 1/32 of the input's side
MASK_LAYER = "mask"
KIND_LAYER = "kind"


def build_lung_network(*, bn_momentum: float = 0.9) -> Any:
    """Normalised grey (N, 128, 128, 1) float32 to [mask (N, 64, 64, 1) in [0, 1], kind logits (N, 7)].

    The second output tells what the picture is (`KINDS`), from the deepest features: it costs nothing beside the mask
    and gives a refusal its reason.
    """
    inputs = keras.Input((MASK_PX, MASK_PX, 1), name="grey")
    x = inputs
    skips = []
    for level, channels in enumerate(CHANNELS[:4]):
        x = _block(x, channels, stride=2, size=5 if level == 0 else 3, momentum=bn_momentum, name=f"down{level}a")
        if level > 0:  # at half resolution a second layer costs as much as all the deep ones
            x = _block(x, channels, stride=1, size=3, momentum=bn_momentum, name=f"down{level}b")
        skips.append(x)
    x = _block(x, CHANNELS[4], stride=2, size=3, momentum=bn_momentum, name="deepest_a")
    x = _block(x, CHANNELS[4], stride=1, size=3, momentum=bn_momentum, name="deepest_b")
    x = _block(x, CHANNELS[4], stride=1, size=3, momentum=bn_momentum, name="deepest_c")
    pooled = keras.layers.GlobalAveragePooling2D(keepdims=True, name="pool")(x)
    kind = keras.layers.Conv2D(len(KINDS), 1, name="kind_logits")(pooled)
    kind = keras.layers.Reshape((len(KINDS),), name=KIND_LAYER)(kind)
    for level in (3, 2, 1, 0):
        x = _block(x, CHANNELS[level], stride=1, size=1, momentum=bn_momentum, name=f"thin{level}")
        x = keras.layers.UpSampling2D(2, interpolation="bilinear", name=f"up{level}")(x)
        x = keras.layers.Add(name=f"join{level}")([x, skips[level]])
        x = _block(x, CHANNELS[level], stride=1, size=3, momentum=bn_momentum, name=f"up{level}a")
    x = keras.layers.Conv2D(1, 1, name="mask_logits")(x)
    mask = keras.layers.Activation("sigmoid", name=MASK_LAYER)(x)
    return keras.Model(inputs, [mask, kind], name="lungs")


def _block(x: Any, channels: int, *, stride: int, size: int, momentum: float, name: str) -> Any:
    x = keras.layers.Conv2D(channels, size, strides=stride, padding="same", use_bias=False, name=name)(x)
    x = keras.layers.BatchNormalization(momentum=momentum, name=f"{name}_bn")(x)
    # Bounded activations quantize well after training: no rare large value stretches the range of all others.
    return keras.layers.ReLU(6.0, name=f"{name}_relu")(x)
