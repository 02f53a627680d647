"""Magnitude pruning of convolution and dense kernels on a polynomial schedule (Zhu & Gupta 2017, eq. 1)."""

from __future__ import annotations

from typing import Any

import numpy as np

from toolkit.tf import keras, tf, tfmot

# Depthwise kernels stay whole: they hold 1% of the weights, and the quantization that keeps zeros leaves them out.
_KINDS = (keras.layers.Conv2D, keras.layers.Dense)
_UPDATES = 12


def is_pruned(layer: Any) -> bool:
    """Whether `layer` is of the kind that pruning zeroes."""
    return isinstance(layer, _KINDS) and not isinstance(layer, keras.layers.DepthwiseConv2D)


def wrap_for_pruning(model: Any, *, sparsity: float, steps: int) -> Any:
    """A copy of `model` and its weights with a pruning wrapper around each kernel.

    Args:
        model: float Keras model.
        sparsity: final share of zeros in each kernel, 0 to 0.95.
        steps: training steps of the whole phase. The schedule ends after two thirds of them, on a step at which the
            mask is updated: an end between two updates would leave the share short (29.3% instead of 30% was seen).
    """
    every = max(1, (2 * steps // 3) // _UPDATES)
    end = max(every, (2 * steps // 3) // every * every)
    # tfmot keeps k = round(n · (1 - sparsity)) weights; a hair above makes "at least" true in small kernels too.
    schedule = tfmot.sparsity.keras.PolynomialDecay(
        initial_sparsity=0.0,
        final_sparsity=min(0.95, sparsity + 1e-3) if sparsity else 0.0,
        begin_step=0,
        end_step=end,
        frequency=every,
    )

    def wrap(layer: Any) -> Any:
        # A layer of its own: one that two graphs share cannot tell its output in either.
        copy = type(layer).from_config(layer.get_config())
        if is_pruned(layer):
            return tfmot.sparsity.keras.prune_low_magnitude(copy, pruning_schedule=schedule)
        return copy

    wrapped = keras.models.clone_model(model, clone_function=wrap)
    for layer in wrapped.layers:
        inner = getattr(layer, "layer", layer)
        inner.set_weights(model.get_layer(inner.name).get_weights())
    return wrapped


def pruning_callbacks() -> list[Any]:
    """The Keras callbacks that advance the schedule."""
    return [tfmot.sparsity.keras.UpdatePruningStep()]


def strip_pruning(pruned: Any, *, sparsity: float) -> Any:
    """The plain model with the zeros in place; kernels that the last update left short are zeroed to `sparsity`."""
    model = tfmot.sparsity.keras.strip_pruning(pruned)
    for layer in model.layers:
        if is_pruned(layer):
            values = layer.get_weights()
            values[0] = zero_smallest(values[0], share=sparsity)
            layer.set_weights(values)
    return model


def zero_smallest(kernel: Any, *, share: float) -> Any:
    """`kernel` (any shape, float32) with at least the share `share` of zeros; changes nothing when it has them."""
    wanted = int(np.ceil(share * kernel.size))
    if np.count_nonzero(kernel == 0) >= wanted:
        return kernel
    flat = kernel.ravel().copy()
    flat[np.argpartition(np.abs(flat), wanted - 1)[:wanted]] = 0
    return flat.reshape(kernel.shape)


def zero_share(model: Any) -> float:
    """Share of zeros over all pruned kernels of a plain model, 0 to 1."""
    kernels = [layer.get_weights()[0] for layer in model.layers if is_pruned(layer)]
    return float(sum(np.count_nonzero(k == 0) for k in kernels) / sum(k.size for k in kernels))


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and TensorFlow, and have TensorFlow choose deterministic kernels."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
