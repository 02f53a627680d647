"""The checks that every number here shares: same length, labels 0 and 1, finite scores, both classes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from firmware_bridge.errors import InputError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


def checked(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[Bools, Floats]:
    """`labels` as (N,) bool and `scores` as (N,) float64, or an error that says what is wrong with them.

    Raises:
        InputError: different lengths, no rows, labels other than 0 and 1, or a score that is not finite.
    """
    truth = np.asarray(labels)  # (N,)
    values = np.asarray(scores, dtype=np.float64)  # (N,)
    if truth.ndim != 1 or truth.shape != values.shape or truth.size == 0:
        raise InputError(
            "labels and scores do not belong together",
            expected="one label and one score for each of at least one X-ray",
            came=f"labels of shape {truth.shape}, scores of shape {values.shape}",
            do="check that every row of the index was scored",
        )
    positive = truth == 1  # (N,) bool
    if not bool(np.all(positive | (truth == 0))):
        raise InputError(
            "a label is neither 0 nor 1",
            expected="0 for the negative and 1 for the positive label",
            came=f"the values {np.unique(truth)[:5].tolist()}",
            do="map the labels of the index to 0 and 1",
        )
    if not bool(np.all(np.isfinite(values))):
        raise InputError(
            "a score is not a number",
            expected="finite scores",
            came=f"{int(np.sum(~np.isfinite(values)))} of {values.size} scores are not finite",
            do="look at the model: training may have diverged",
        )
    return positive, values


def both_classes(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[Bools, Floats]:
    """`checked`, and both classes are there.

    Raises:
        InputError: as `checked`, or all labels are the same.
    """
    positive, values = checked(labels, scores)
    positives = int(np.sum(positive))
    if positives in (0, positive.size):
        raise InputError(
            "only one class is there",
            expected="X-rays of both labels",
            came=f"{positives} positive and {positive.size - positives} negative",
            do="take an index, a split or a group that holds both labels",
        )
    return positive, values


def check_probabilities(probabilities: Floats) -> None:
    """Refuse what is outside [0, 1].

    Raises:
        InputError: a value below 0 or above 1.
    """
    if bool(np.any((probabilities < 0.0) | (probabilities > 1.0))):
        raise InputError(
            "a probability is outside its range",
            expected="values from 0 to 1",
            came=f"values from {probabilities.min():.3g} to {probabilities.max():.3g}",
            do="pass calibrated probabilities, not logits",
        )
