"""Makes `probe.int8.tflite`, the small model with which `cxr-edge doctor` asks an interpreter what it really uses.

It has the shape of a deployed model (uint8 grey in; probability and feature maps out) in a few kilobytes, and is worth
nothing as a classifier. Run once, by hand: `python -m toolkit.doctor.make_probe`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PROBE = Path(__file__).with_name("probe.int8.tflite")
SIZE_PX = 32
SEED = 20240


def convert_probe() -> bytes:
    """The probe as a TFLite file: every operator int8, a fixed batch of 1."""
    from toolkit.tf import keras, tf

    keras.utils.set_random_seed(SEED)
    pixels = keras.Input((SIZE_PX, SIZE_PX, 1), batch_size=1)
    hidden = keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu6")(pixels)
    features = keras.layers.Conv2D(16, 3, strides=2, padding="same", activation="relu6")(hidden)
    mean = keras.layers.GlobalAveragePooling2D()(features)
    model = keras.Model(pixels, [keras.layers.Dense(1, activation="sigmoid")(mean), features])
    rng = np.random.default_rng(SEED)

    def representative() -> Iterator[list[NDArray[np.float32]]]:
        for _ in range(16):
            yield [rng.integers(0, 256, (1, SIZE_PX, SIZE_PX, 1)).astype(np.float32)]

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.uint8
    converter.inference_output_type = tf.uint8
    return bytes(converter.convert())


if __name__ == "__main__":
    PROBE.write_bytes(convert_probe())
