"""From Keras to `.tflite`: fixed batch of one, probability and feature maps as the two outputs.

The int8 file takes grey bytes. The float files take grey levels 0 to 255 as float32 and normalise inside the file, so
that whoever uses one needs no constants from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from firmware_bridge.errors import ModelError
from toolkit.input_scale import InputScale
from toolkit.model import PROBABILITY_LAYER, features_layer
from toolkit.qat import plain_layer
from toolkit.quiet import quiet
from toolkit.tf import keras, tf

Grey = npt.NDArray[np.uint8]


def two_outputs(model: Any) -> Any:
    """`model` with its probability (N, 1) and its feature maps (N, h, w, C) as outputs; shares the weights."""
    by_name = {plain_layer(layer).name: layer for layer in model.layers}
    return keras.Model(model.input, [by_name[PROBABILITY_LAYER].output, by_name[features_layer(by_name)].output])


def _converter(model: Any, *, scale: InputScale, size_px: int, normalise: bool) -> Any:
    """A converter for `model` with a fixed batch of one."""

    # The signature's names are what other users of the file see.
    @tf.function(input_signature=[tf.TensorSpec((1, size_px, size_px, 1), tf.float32, name="grey")])  # type: ignore[untyped-decorator]
    def serve(grey: Any) -> dict[str, Any]:
        x = scale.normalise(grey) if normalise else grey
        probability, features = model(x, training=False)
        return {"probability": probability, "features": features}

    # The converter saves what it is given, and Keras would trace every layer anew for that: minutes instead of
    # seconds. The variables alone are enough.
    holder = tf.Module()
    holder.values = list(model.variables)
    return tf.lite.TFLiteConverter.from_concrete_functions([serve.get_concrete_function()], holder)


def to_int8(quantized: Any, *, scale: InputScale, size_px: int) -> bytes:
    """The int8 file of a quantization-aware model: uint8 grey in, every operator int8.

    Raises:
        ModelError: the converter refuses.
    """
    converter = _converter(two_outputs(quantized), scale=scale, size_px=size_px, normalise=False)
    grey_bytes_in(converter)
    return convert(converter)


def to_int8_post_training(model: Any, representative: Grey, *, scale: InputScale, size_px: int) -> bytes:
    """Post-training int8 of a float model: the baseline that quantization-aware training is measured against.

    Args:
        model: float Keras model.
        representative: (N, S, S) uint8, preprocessed X-rays whose activations set the ranges.
        scale: of the model's input.
        size_px: S.

    Raises:
        ModelError: the converter refuses.
    """

    # Black and white are in it for certain: the input's range is that of grey bytes then, and they go in as they are.
    shown = representative.copy()
    shown[0, 0, :2] = 0, 255

    def samples() -> Iterator[list[npt.NDArray[np.float32]]]:
        for pixels in shown:
            yield [np.asarray(scale.normalise(pixels[None, :, :, None].astype(np.float32)), np.float32)]

    converter = _converter(two_outputs(model), scale=scale, size_px=size_px, normalise=False)
    converter.representative_dataset = samples
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    grey_bytes_in(converter)
    return convert(converter)


def to_float(model: Any, *, scale: InputScale, size_px: int, half: bool) -> bytes:
    """The float file: float32 grey levels 0 to 255 in; weights stored as float16 when `half`.

    Raises:
        ModelError: the converter refuses.
    """
    converter = _converter(two_outputs(model), scale=scale, size_px=size_px, normalise=True)
    if half:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    return convert(converter)


def grey_bytes_in(converter: Any) -> None:
    """Let `converter` write a file that takes and gives bytes."""
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = tf.uint8
    converter.inference_output_type = tf.uint8


def convert(converter: Any) -> bytes:
    """The file.

    Raises:
        ModelError: the converter refuses.
    """
    try:
        with quiet():
            content: bytes = converter.convert()
    except Exception as error:  # The converter raises ConverterError, RuntimeError and ValueError alike.
        raise ModelError(
            "the model cannot be converted to TFLite",
            expected="a graph of operators that TensorFlow Lite has in this precision",
            came=str(error).splitlines()[0] if str(error) else type(error).__name__,
            do="use a backbone of this project and the versions that constraints.txt names",
        ) from error
    return content
