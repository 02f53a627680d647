"""Quantization-aware training (Jacob 2018, section 3) of a pruned model, keeping its zeros."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from firmware_bridge.errors import ModelError
from toolkit.input_scale import InputScale
from toolkit.tf import keras, tf, tfmot

_quantizers = tfmot.quantization.keras.quantizers


# Layers without weights that tfmot's registry does not know.
_UNKNOWN_TO_TFMOT = (keras.layers.Multiply, keras.layers.Dot, keras.layers.Softmax)


class OutputQuantizeConfig(tfmot.quantization.keras.QuantizeConfig):  # type: ignore[misc]
    """Quantizes a layer's output alone: for layers that tfmot's registry does not know."""

    def get_weights_and_quantizers(self, layer: Any) -> list[Any]:
        """No weights."""
        del layer
        return []

    def get_activations_and_quantizers(self, layer: Any) -> list[Any]:
        """No activation function."""
        del layer
        return []

    def set_quantize_weights(self, layer: Any, quantize_weights: list[Any]) -> None:
        """Nothing to set."""

    def set_quantize_activations(self, layer: Any, quantize_activations: list[Any]) -> None:
        """Nothing to set."""

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        """One moving-average quantizer, 8 bit, per tensor, asymmetric: what tfmot gives Add."""
        del layer
        return [_quantizers.MovingAverageQuantizer(num_bits=8, per_axis=False, symmetric=False, narrow_range=False)]

    def get_config(self) -> dict[str, Any]:
        """Nothing to configure."""
        return {}


def quantize_aware(model: Any, *, input_scale: InputScale) -> Any:
    """The quantization-aware graph of a pruned plain model, with its weights.

    The input's range is held at what grey bytes give, so that scale and zero point of the int8 input are exactly
    those of `input_scale` and the bytes of an X-ray are the quantized tensor.

    Raises:
        ModelError: a layer cannot be quantized.
    """

    def annotate(layer: Any) -> Any:
        if isinstance(layer, keras.layers.InputLayer):
            return layer
        config = OutputQuantizeConfig() if isinstance(layer, _UNKNOWN_TO_TFMOT) else None
        return tfmot.quantization.keras.quantize_annotate_layer(layer, quantize_config=config)

    try:
        with keras.utils.custom_object_scope({"OutputQuantizeConfig": OutputQuantizeConfig}):
            annotated = keras.models.clone_model(model, clone_function=annotate)
            quantized = tfmot.quantization.keras.quantize_apply(
                annotated, scheme=tfmot.experimental.combine.Default8BitPrunePreserveQuantizeScheme()
            )
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            "the model cannot be quantized",
            expected="a flat functional graph of layers that tensorflow-model-optimization knows",
            came=str(error).splitlines()[0],
            do="use a backbone of this project",
        ) from error
    _hold_input_range(quantized, input_scale)
    return quantized


def _hold_input_range(quantized: Any, input_scale: InputScale) -> None:
    # The input's quantizer keeps the widest range seen, starting from (-6, 6); bytes never leave the one set here.
    low, high = input_scale.range
    # By its class: a second graph of one process has "quantize_layer_1".
    layer = next(x for x in quantized.layers if type(x).__name__ == "QuantizeLayer")
    for variable in layer.weights:
        if variable.name.endswith("_min:0"):
            variable.assign(low)
        elif variable.name.endswith("_max:0"):
            variable.assign(high)


_RANGES = ("output", "post_activation")


def calibrate_ranges(quantized: Any, plain: Any, batches: Iterable[Any]) -> None:
    """Set the range of every activation quantizer to what its layer gives in `plain`, in place.

    tfmot starts each range at (-6, 6) and moves it by a thousandth a step: hundreds of steps train through ranges that
    fit nothing. Set to the mean of each batch's extremes, training starts where post-training quantization ends.

    Args:
        quantized: from `quantize_aware`.
        plain: the model that it was made from.
        batches: (B, S, S, 1) float32 each, normalised; at least one.
    """
    ranges = {
        plain_layer(layer).name: pair for layer in quantized.layers if (pair := _activation_range(layer)) is not None
    }
    outputs = [plain.get_layer(name).output for name in ranges]
    look = keras.Model(plain.input, [tf.stack([tf.reduce_min(x), tf.reduce_max(x)]) for x in outputs])
    seen = np.mean([np.stack(look.predict_on_batch(x)) for x in batches], axis=0)  # (layers, 2)
    for (low, high), (least, most) in zip(ranges.values(), seen, strict=True):
        # The range of a quantizer holds zero (Jacob 2018, section 2.1).
        low.assign(min(0.0, float(least)))
        high.assign(max(0.0, float(most)))


def _activation_range(layer: Any) -> tuple[Any, Any] | None:
    by_name = {v.name.split("/")[-1]: v for v in layer.weights}
    for kind in _RANGES:
        if f"{kind}_min:0" in by_name:
            return by_name[f"{kind}_min:0"], by_name[f"{kind}_max:0"]
    return None


def plain_layer(layer: Any) -> Any:
    """The layer inside a quantization wrapper, or the layer itself."""
    return getattr(layer, "layer", layer)


def float_head(quantized: Any, name: str) -> tuple[Any, Any]:
    """Kernel (C, 1) and bias (1,) float32 of the dense layer `name` of a quantization-aware model.

    The wrapper replaces the layer's `kernel` by its quantized tensor; the variables stay in `weights`.
    """
    layer = next(x for x in quantized.layers if plain_layer(x).name == name)
    values = {v.name.split("/")[-1]: v.numpy() for v in layer.weights}
    return values["kernel:0"], values["bias:0"]
