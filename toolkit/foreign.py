"""Pruning and quantization of any Keras 2 model, also one that somebody else trained: callbacks for `model.fit`.

tensorflow-model-optimization wraps layers and refuses graphs such as `keras.applications.EfficientNetB0` (Rescaling,
Multiply). These callbacks leave the graph alone and work on the weights between steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from firmware_bridge.errors import ConfigError
from toolkit.prune import is_pruned, zero_smallest
from toolkit.tf import keras, tf

_LEVELS = 127  # symmetric int8 without -128, as its specification has it


class PruneByMagnitude(keras.callbacks.Callback):  # type: ignore[misc]
    """Zeroes the smallest weights of each convolution and dense kernel, more and more (Zhu & Gupta 2017, eq. 1).

    Args:
        sparsity: share of zeros at the end, 0 to below 1.
        steps: of training in all; the share is reached after two thirds of them, and held.
        every: steps between two updates of what is zero.

    Raises:
        ConfigError: one of them is out of its range.
    """

    def __init__(self, *, sparsity: float, steps: int, every: int = 20) -> None:
        super().__init__()
        # Written so that NaN is refused as well.
        if not (0.0 <= sparsity < 1.0 and steps >= 1 and every >= 1):
            raise ConfigError(
                "a model cannot be pruned like that",
                expected="a sparsity of 0 to below 1, and steps and every of 1 or more",
                came=f"sparsity {sparsity}, steps {steps}, every {every}",
                do="for example PruneByMagnitude(sparsity=0.3, steps=1000)",
            )
        self._sparsity, self._end, self._every = sparsity, max(1, 2 * steps // 3), every
        self._step = 0
        self._masks: dict[int, Any] = {}

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Keep the zeros, and add some when it is time."""
        self._step += 1
        update = self._step <= self._end and (self._step % self._every == 0 or self._step == self._end)
        for number, kernel in enumerate(_kernels(self.model)):
            if update:
                left = (1.0 - self._step / self._end) ** 3
                zeroed = zero_smallest(kernel.numpy(), share=self._sparsity * (1.0 - left))
                self._masks[number] = tf.constant(zeroed != 0, kernel.dtype)
            if number in self._masks:
                kernel.assign(kernel * self._masks[number])

    def on_train_end(self, logs: Any = None) -> None:
        """Reach the share also where training was shorter than said."""
        for kernel in _kernels(self.model):
            kernel.assign(zero_smallest(kernel.numpy(), share=self._sparsity))


class QuantizeWeights(keras.callbacks.Callback):  # type: ignore[misc]
    """Trains through 8-bit weights (Jacob 2018, section 3): each step sees them rounded, the gradient moves exact ones.

    Activations stay in floating point; post-training quantization with real X-rays sets their ranges afterwards. At
    the end the model holds rounded weights. Zeros stay zeros.
    """

    def __init__(self) -> None:
        super().__init__()
        self._exact: list[Any] = []
        self._seen: list[Any] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Put the rounded weights in."""
        kernels = _kernels(self.model)
        self._exact = [kernel.numpy() for kernel in kernels]
        self._seen = [rounded(exact) for exact in self._exact]
        for kernel, seen in zip(kernels, self._seen, strict=True):
            kernel.assign(seen)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Move the exact weights by what the step changed (the straight-through estimator)."""
        for kernel, exact, seen in zip(_kernels(self.model), self._exact, self._seen, strict=True):
            moved = exact + (kernel.numpy() - seen)
            # What is exactly zero was pruned, and stays.
            kernel.assign(np.where(exact == 0, 0.0, moved))

    def on_train_end(self, logs: Any = None) -> None:
        """Leave the rounded weights in the model."""
        for kernel in _kernels(self.model):
            kernel.assign(rounded(kernel.numpy()))


def rounded(kernel: Any) -> Any:
    """`kernel` (..., C) float32 rounded to 8 bits, symmetric, a scale for each of its last axis' channels."""
    peak = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1)), keepdims=True)
    scale = np.where(peak > 0, peak / _LEVELS, 1.0)
    return (np.rint(kernel / scale) * scale).astype(kernel.dtype)


def _kernels(model: Any) -> list[Any]:
    """The kernels of convolutions and dense layers; depthwise ones, 1% of the weights, stay as they are."""
    return [layer.kernel for layer in model.submodules if is_pruned(layer) and layer.built]
