"""Batch normalisation's statistics as the plain mean over some batches, for weights that do not change any more."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.tf import keras, tf


def reestimate_batch_norm(model: Any, inputs: Iterable[npt.NDArray[np.float32]]) -> None:
    """Set every moving mean and variance of `model` to its average over `inputs`, in place.

    After a phase the moving statistics still remember earlier weights; after pruning, weights that are gone.

    Args:
        model: Keras model of one input.
        inputs: batches (B, S, S, 1) float32, normalised; at least one.
    """
    layers = [x for x in model.submodules if isinstance(x, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in layers]
    call = tf.function(lambda x, m: _with_momentum(model, layers, x, m), reduce_retracing=True)
    for done, x in enumerate(inputs):
        # momentum n/(n+1) makes the moving value the plain mean of n+1 batches.
        call(tf.constant(x), tf.constant(done / (done + 1), tf.float32))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def _with_momentum(model: Any, layers: list[Any], x: Any, momentum: Any) -> Any:
    for layer in layers:
        layer.momentum = momentum
    return model(x, training=True)
