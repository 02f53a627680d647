"""Keep a model that is compressed close to what it was: its answer and where it looks (Romero 2015, "FitNets").

Pruning and quantization-aware training that only follow the labels leave the float model: on the shipped model two such
epochs lost more than rounding alone, and moved the explanation. Here the float model is the teacher, on the very batch
that is trained on, after augmentation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from toolkit.model import PROBABILITY_LAYER, features_layer
from toolkit.qat import plain_layer
from toolkit.stream import Batch, BatchStream
from toolkit.tf import keras, tf

# Keeps the logarithm of a probability that float32 rounds to 0 or 1 finite.
_TINY = 1e-6


def with_features(model: Any) -> Any:
    """`model` with its feature maps beside its answer, over the same layers and weights.

    Args:
        model: plain, with pruning wrappers, or quantization-aware; (N, S, S, 1) float32 to (N, 1) float32.

    Returns:
        (N, S, S, 1) float32 to (N, 1 + h·w·C) float32: the probability, then the maps that the head pools.
    """
    names = {plain_layer(layer).name: layer for layer in model.layers}
    features = names[features_layer(names)].output
    flat = keras.layers.Flatten(name="features_flat")(features)
    # Not the model's output: with a message token that has two columns.
    answer = names[PROBABILITY_LAYER].output
    return keras.Model(model.input, keras.layers.Concatenate(name="answer_and_features")([answer, flat]))


class FollowingStream:
    """A stream whose truths go on with what `teacher` says of the same batch.

    Args:
        stream: batches, y (B, K) float32.
        teacher: of `with_features`; is only asked.
    """

    def __init__(self, stream: BatchStream, teacher: Any) -> None:
        self._stream = stream
        self._ask = tf.function(lambda x: teacher(x, training=False), reduce_retracing=True)

    @property
    def steps(self) -> int:
        """Batches in one epoch."""
        return self._stream.steps

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of epoch `number`, y (B, K + 1 + h·w·C) float32."""
        for batch in self._stream.epoch(number):
            told = self._ask(tf.constant(batch.x)).numpy()
            yield replace(batch, y=np.concatenate([batch.y, told], axis=1))

    def plain_epoch(self, number: int) -> Iterator[Batch]:
        """The batches of epoch `number` without the teacher's answers, as `BatchStream.plain_epoch`."""
        return self._stream.plain_epoch(number)


class FollowingLoss(keras.losses.Loss):  # type: ignore[misc]
    """(1 - share) · L(labels) + share · (CE(teacher, student) + |F - f|² / |F|²), F and f the feature maps.

    |F|² is the mean over the batch: an X-ray with hardly any features would otherwise outweigh all others.

    Args:
        labels: the loss that the phase has without following.
        share: of the teacher, 0 to 1.
        columns: K, how many columns of the truth are for `labels`.
    """

    def __init__(self, labels: Any, *, share: float, columns: int) -> None:
        super().__init__(name="following")
        self._labels = labels
        self._share = share
        self._columns = columns

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The loss (N,) of `y_true` (N, K + 1 + h·w·C) and `y_pred` (N, 1 + h·w·C)."""
        own = self._columns
        told, seen = y_true[:, own : own + 1], y_true[:, own + 1 :]
        answer = tf.clip_by_value(y_pred[:, :1], _TINY, 1.0 - _TINY)
        apart = tf.reduce_sum(tf.square(seen - y_pred[:, 1:]), axis=1)
        size = tf.reduce_mean(tf.reduce_sum(tf.square(seen), axis=1)) + _TINY
        follow = keras.losses.binary_crossentropy(told, answer) + apart / size
        # `call`, not the loss itself: one value for each X-ray, which Keras weighs.
        return (1.0 - self._share) * self._labels.call(y_true[:, :own], y_pred[:, :1]) + self._share * follow
