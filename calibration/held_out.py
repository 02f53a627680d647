"""What a calibration is worth on patients that it was not fitted to: cross-fitting by patient."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from calibration.checks import Floats, Ints, both_classes
from calibration.temperature import calibrated, fit_temperature, fit_temperature_and_bias
from firmware_bridge.errors import InputError

FOLDS = 5


def held_out_probabilities(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    patients: npt.ArrayLike,
    with_bias: bool = True,
    folds: int = FOLDS,
    seed: int = 0,
) -> Floats:
    """Calibrated probabilities (N,) of each X-ray, from a calibration fitted to other patients alone.

    Args:
        logits: (N,) float.
        labels: (N,) of {0, 1}.
        patients: (N,) patient ids; a patient is in one fold whole.
        with_bias: fit a bias as well.
        folds: parts; fewer where a class has fewer patients.
        seed: decides the folds.

    Raises:
        InputError: one class only, arrays that do not belong together, or fewer than two patients of a class.
    """
    positive, values = both_classes(labels, logits)
    fold = patient_folds(positive, patients, folds=folds, seed=seed)
    out = np.empty(values.size)
    for number in np.unique(fold):
        rest, held = fold != number, fold == number
        if with_bias:
            temperature, bias = fit_temperature_and_bias(values[rest], positive[rest])
        else:
            temperature, bias = fit_temperature(values[rest], positive[rest]), 0.0
        out[held] = calibrated(values[held], temperature=temperature, bias=bias)
    return out


def patient_folds(positive: npt.NDArray[np.bool_], patients: npt.ArrayLike, *, folds: int, seed: int) -> Ints:
    """The fold (N,) int64 of each X-ray: a patient in one fold, both classes spread evenly.

    Raises:
        InputError: a class has fewer than two patients.
    """
    names, rows = np.unique(np.asarray(patients), return_inverse=True)
    sick = np.zeros(names.size, bool)
    np.logical_or.at(sick, rows, positive)  # a patient counts as sick with one positive X-ray
    fewest = int(min(sick.sum(), (~sick).sum()))
    if fewest < 2:
        raise InputError(
            "there are too few patients to hold some out",
            expected="at least two patients of each class",
            came=f"{int(sick.sum())} positive and {int((~sick).sum())} negative patients",
            do="label more X-rays",
        )
    draw = np.random.default_rng(seed)
    fold = np.empty(names.size, np.int64)
    for side in (sick, ~sick):
        members = draw.permutation(np.flatnonzero(side))
        fold[members] = np.arange(members.size) % min(folds, fewest)
    return fold[rows]
