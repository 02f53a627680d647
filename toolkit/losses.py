"""The loss of a phase: cross-entropy with the labels, and with what a teacher says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from toolkit.tf import keras, tf

# Keeps the logit of a probability that float32 rounds to 0 or 1 finite.
_TINY = 1e-6


@dataclass(frozen=True, slots=True)
class Distillation:
    """How much a teacher counts.

    Attributes:
        share: of the loss, 0 to 1; the labels have the rest.
        temperature: 1 or more; softens teacher and student alike. 1 for hard targets.
    """

    share: float = 0.5
    temperature: float = 1.0


def phase_loss(*, label_smoothing: float, distillation: Distillation | None) -> Any:
    """The Keras loss of a phase: of labels alone, or of labels and a teacher."""
    if distillation is None:
        return keras.losses.BinaryCrossentropy(label_smoothing=label_smoothing)
    return DistillationLoss(label_smoothing, distillation)


class DistillationLoss(keras.losses.Loss):  # type: ignore[misc]
    """(1 - share) · CE(label, student) + share · T² · CE(teacher at T, student at T) (Hinton 2015, section 2).

    T² keeps the gradient of the soft part as large as that of the hard one. The truth has two columns: the label, and
    the teacher's probability at T. A student of two outputs (message token) answers the label with the first and the
    teacher with the second (Touvron 2021); one of a single output answers both with it.
    """

    def __init__(self, label_smoothing: float, distillation: Distillation) -> None:
        super().__init__(name="distillation")
        self._labels = keras.losses.BinaryCrossentropy(label_smoothing=label_smoothing, reduction="none")
        self._teacher = keras.losses.BinaryCrossentropy(from_logits=True, reduction="none")
        self._distillation = distillation

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The loss (N,) of `y_true` (N, 2) and `y_pred` (N, 1) or (N, 2)."""
        share, temperature = self._distillation.share, self._distillation.temperature
        told = tf.clip_by_value(y_pred[:, -1:], _TINY, 1.0 - _TINY)
        logit = tf.math.log(told) - tf.math.log1p(-told)
        hard = self._labels(y_true[:, :1], y_pred[:, :1])
        soft = self._teacher(y_true[:, 1:], logit / temperature)
        return (1.0 - share) * hard + share * temperature**2 * soft
