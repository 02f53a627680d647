"""Attention over the last feature map, in layers that quantize: CBAM, self-attention, and a learned message token.

What comes out of the first two is a feature map again, so that pooling, head and the closed form of Grad-CAM++ stay as
they are.
"""

from __future__ import annotations

from typing import Any

from toolkit.tf import keras

ATTENDED_LAYER = "attended"
_REDUCTION = 16
_SPATIAL_KERNEL = 7


def cbam(x: Any) -> Any:
    """The convolutional block attention module (Woo 2018, sections 3.1 and 3.2): which channels, then where.

    A reduction over channels has no quantized layer: their mean is a 1×1 convolution that starts as one, their maximum
    a pooling of the reshaped map. Means over places are global poolings, which XNNPACK takes in integers, unlike
    average pooling in windows.

    Args:
        x: Keras tensor (N, h, w, C) float32.

    Returns:
        Keras tensor of the same shape, output of the layer "attended".
    """
    layers = keras.layers
    height, width, channels = (int(n) for n in x.shape[1:])
    squeeze = layers.Conv2D(max(1, channels // _REDUCTION), 1, name="cbam_squeeze")
    relu, expand = layers.ReLU(name="cbam_relu"), layers.Conv2D(channels, 1, name="cbam_expand")
    # One small network for both poolings, run once over their two rows: shared layers cannot be quantized.
    both = layers.Concatenate(axis=1, name="cbam_pools")(
        [
            layers.GlobalAveragePooling2D(keepdims=True, name="cbam_mean")(x),
            layers.MaxPooling2D((height, width), name="cbam_max")(x),
        ]
    )  # (N, 2, 1, C)
    weights = expand(relu(squeeze(both)))
    # The sum of the two rows; a mean of them differs by a factor that `cbam_expand` learns.
    weights = layers.GlobalAveragePooling2D(keepdims=True, name="cbam_sum")(weights)  # (N, 1, 1, C)
    weights = layers.Activation("sigmoid", name="cbam_channels")(weights)
    x = layers.Multiply(name="cbam_reweighted")([x, weights])
    mean_init = keras.initializers.Constant(1.0 / channels)
    mean = layers.Conv2D(1, 1, use_bias=False, kernel_initializer=mean_init, name="cbam_mean_map")(x)
    rows = layers.Reshape((height * width, channels, 1), name="cbam_rows")(x)
    most = layers.MaxPooling2D((1, channels), name="cbam_max_rows")(rows)  # (N, h·w, 1, 1)
    most = layers.Reshape((height, width, 1), name="cbam_max_map")(most)
    where = layers.Concatenate(name="cbam_maps")([mean, most])  # (N, h, w, 2)
    where = layers.Conv2D(1, _SPATIAL_KERNEL, padding="same", use_bias=False, name="cbam_where")(where)
    where = layers.Activation("sigmoid", name="cbam_places")(where)
    return layers.Multiply(name=ATTENDED_LAYER)([x, where])


def self_attention(x: Any, *, depth: int = 64) -> Any:
    """Every place of the map looks at every other (Vaswani 2017, eq. 1, one head), added to what was there.

    Args:
        x: Keras tensor (N, h, w, C) float32.
        depth: of queries, keys and values.

    Returns:
        Keras tensor of the same shape, output of the layer "attended".
    """
    layers = keras.layers
    height, width, channels = (int(n) for n in x.shape[1:])

    def rows(name: str) -> Any:
        return layers.Reshape((height * width, depth), name=f"self_{name}_rows")(
            layers.Conv2D(depth, 1, name=f"self_{name}")(x)
        )

    # Without the paper's 1/sqrt(depth): the queries' kernel learns that factor, which saves an operation.
    scores = layers.Dot(axes=(2, 2), name="self_scores")([rows("queries"), rows("keys")])  # (N, h·w, h·w)
    shares = layers.Softmax(name="self_shares")(scores)
    seen = layers.Dot(axes=(2, 1), name="self_seen")([shares, rows("values")])  # (N, h·w, depth)
    seen = layers.Reshape((height, width, depth), name="self_map")(seen)
    # Zero at first: the network starts as it would be without attention.
    seen = layers.Conv2D(channels, 1, kernel_initializer="zeros", name="self_out")(seen)
    return layers.Add(name=ATTENDED_LAYER)([x, seen])


def message(x: Any) -> Any:
    """What a learned token gathers from the feature map (the distillation token of DeiT, Touvron 2021, section 4).

    The token's scores over the map are one linear layer, since its query is the same for every X-ray.

    Args:
        x: Keras tensor (N, h, w, C) float32.

    Returns:
        Keras tensor (N, C) float32.
    """
    layers = keras.layers
    height, width, _ = (int(n) for n in x.shape[1:])
    scores = layers.Conv2D(1, 1, use_bias=False, name="message_scores")(x)
    shares = layers.Softmax(name="message_shares")(layers.Reshape((height * width,), name="message_rows")(scores))
    shares = layers.Reshape((height, width, 1), name="message_map")(shares)
    gathered = layers.Multiply(name="message_gathered")([x, shares])
    # A sum over the places: their mean times how many there are, which the head behind it learns.
    return layers.GlobalAveragePooling2D(name="message")(gathered)
