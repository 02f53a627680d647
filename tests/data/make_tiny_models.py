"""Make the tiny models of the device tests: python tests/data/make_tiny_models.py (needs [train] and [onnx]).

A small convolutional net of the same shape as the real ones (grey bytes in; probability and feature maps out), with
seeded random weights, plus what TensorFlow itself says of it: probability and Grad-CAM++ by gradients.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from toolkit.onnx_export import to_onnx
from toolkit.tf import keras, tf

HERE = Path(__file__).parent
SIZE_PX = 32
SEED = 7


def build() -> Any:
    """(1, 32, 32, 1) float32 grey levels 0 to 255 to [(1, 1) probability, (1, 8, 8, 12) feature maps]."""
    keras.utils.set_random_seed(SEED)
    grey = keras.Input((SIZE_PX, SIZE_PX, 1), batch_size=1)
    x = keras.layers.Lambda(lambda levels: (levels - 114.0) / 57.6)(grey)
    x = keras.layers.Conv2D(8, 3, 2, padding="same", activation="relu")(x)
    features = keras.layers.Conv2D(12, 3, 2, padding="same", activation="relu", name="features")(x)
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    logit = keras.layers.Dense(1, name="logit", bias_initializer=keras.initializers.Constant(-0.3))(pooled)
    return keras.Model(grey, [keras.layers.Activation("sigmoid")(logit), features])


def pictures(count: int = 32) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(N, 32, 32) uint8: smooth random blobs."""
    rng = np.random.default_rng(SEED)
    coarse = rng.uniform(0, 255, (count, 5, 5, 1)).astype(np.float32)
    return (
        np.asarray(tf.image.resize(coarse, (SIZE_PX, SIZE_PX), method="bicubic"))[..., 0].clip(0, 255).astype("uint8")
    )


def gradient_cam(
    features: np.ndarray[Any, Any], weights: np.ndarray[Any, Any], *, bias: float
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Grad-CAM++ as published (Chattopadhay et al. 2018, equations 10 and 19, Y = exp(S)), by automatic derivatives.

    Args:
        features: (h, w, C) real values of the feature maps.
        weights: (C,) of the linear layer behind global average pooling.
        bias: of that layer.

    Returns:
        (h, w) float32, greatest value 1.
    """
    maps = tf.constant(features[None], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(maps)
        score = tf.tensordot(tf.reduce_mean(maps, axis=(1, 2))[0], tf.constant(weights, tf.float64), 1) + bias
    gradient = tape.gradient(score, maps)[0].numpy()  # (h, w, C) dS/dA
    y = float(np.exp(score.numpy()))
    first, second, third = y * gradient, y * gradient**2, y * gradient**3
    below = 2 * second + maps[0].numpy().sum(axis=(0, 1)) * third
    alpha = second / np.where(below != 0, below, 1.0)
    channel_weights = (alpha * np.maximum(first, 0)).sum(axis=(0, 1))  # (C,)
    cam = np.maximum((maps[0].numpy() * channel_weights).sum(axis=-1), 0)
    return np.asarray(cam / cam.max(), np.float32)


def main() -> None:
    """Write the two models, the head and the expected values beside this script."""
    model = build()
    given = pictures()
    function = tf.function(lambda grey: model(grey)).get_concrete_function(
        tf.TensorSpec((1, SIZE_PX, SIZE_PX, 1), tf.float32)
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], model)
    (HERE / "tiny.float.tflite").write_bytes(converter.convert())
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], model)  # one converts only once
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([p[None, :, :, None].astype(np.float32)] for p in given)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.uint8
    converter.inference_output_type = tf.uint8
    (HERE / "tiny.int8.tflite").write_bytes(converter.convert())
    for name, precision in (("float", "fp16"), ("int8", "int8")):
        tflite = (HERE / f"tiny.{name}.tflite").read_bytes()
        (HERE / f"tiny.{name}.onnx").write_bytes(to_onnx(tflite, precision=precision))
    weights, bias = model.get_layer("logit").get_weights()  # (C, 1), (1,)
    np.save(HERE / "tiny.head.npy", np.append(weights[:, 0], bias).astype(np.float32))
    probability, features = model(given[0][None, :, :, None].astype(np.float32))
    np.savez_compressed(
        HERE / "tiny.expected.npz",
        picture=given[0],
        probability=probability.numpy()[0, 0],
        features=features.numpy()[0],
        cam=gradient_cam(features.numpy()[0], weights[:, 0], bias=float(bias[0])),
    )


if __name__ == "__main__":
    main()
