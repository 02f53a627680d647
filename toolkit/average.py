"""Averages of weights over training, so that no single epoch need be chosen.

Outside figures swing by 0.1 AUROC from epoch to epoch while the inside ones stand still; choosing an epoch would choose
by outside labels. Averages lie in flatter minima (Izmailov 2018); the exponential one is Polyak's with a memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from toolkit.tf import tf

# Pruning's own bookkeeping beside the weights, and quantization's step counters, are no weights.
_BOOKKEEPING = ("mask:0", "threshold:0", "pruning_step:0", "optimizer_step:0")


@dataclass(frozen=True, slots=True)
class Averaging:
    """How weights are averaged.

    Attributes:
        kind: "none"; "ema" averages after every step, "swa" after each of the last epochs.
        decay: of "ema", 0.5 to below 1. Early on it is smaller, (1 + n) / (10 + n), so that the average does not drag
            the initial weights along.
        last_epochs: of "swa", 1 or more.
    """

    kind: str = "none"
    decay: float = 0.999
    last_epochs: int = 3

    def of(self, model: Any) -> WeightAverage:
        """The average of `model`, still without a step."""
        return WeightAverage(model, self)


NO_AVERAGING = Averaging()


class WeightAverage(tf.Module):  # type: ignore[misc]
    """A running average of a model's floating-point variables, batch norm's statistics among them.

    Args:
        model: whose weights are averaged; built.
        averaging: how.
    """

    def __init__(self, model: Any, averaging: Averaging) -> None:
        super().__init__()
        self._averaging = averaging
        averaged = [v for v in model.variables if v.dtype.is_floating and not v.name.endswith(_BOOKKEEPING)]
        self._source = averaged if averaging.kind != "none" else []
        self.values = [tf.Variable(v, trainable=False) for v in self._source]
        self.count = tf.Variable(0, dtype=tf.int64, trainable=False)

    @tf.function  # type: ignore[untyped-decorator]
    def _update(self, keep: Any) -> None:
        for value, source in zip(self.values, self._source, strict=True):
            value.assign(keep * value + (1.0 - keep) * source)
        self.count.assign_add(1)

    def after_step(self) -> None:
        """Count in the weights after a training step, for "ema"."""
        if self._averaging.kind == "ema":
            done = int(self.count.numpy())
            self._update(tf.constant(min(self._averaging.decay, (1 + done) / (10 + done)), tf.float32))

    def after_epoch(self, epoch: int, *, epochs: int) -> None:
        """Count in the weights after `epoch`, from 0, if it is one of the last of `epochs`, for "swa"."""
        if self._averaging.kind == "swa" and epoch >= epochs - self._averaging.last_epochs:
            done = int(self.count.numpy())
            self._update(tf.constant(done / (done + 1), tf.float32))

    def apply(self, model: Any) -> None:
        """Put the average into `model`, whose weights these are; pruned weights stay zero."""
        if not int(self.count.numpy()):
            return
        for value, source in zip(self.values, self._source, strict=True):
            source.assign(value)
        for layer in model.layers:
            # An average over a schedule that was still pruning is not zero where the final mask is.
            for weight, mask, _ in getattr(layer, "pruning_vars", ()):
                weight.assign(weight * tf.cast(mask, weight.dtype))
