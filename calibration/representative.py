"""The representative set: the X-rays from which post-training quantization reads the range of every tensor."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from calibration.checks import Ints
from firmware_bridge.errors import InputError


def representative_rows(
    labels: npt.ArrayLike,
    *,
    strata: npt.ArrayLike | None = None,
    patients: npt.ArrayLike | None = None,
    n: int = 100,
    seed: int = 0,
) -> Ints:
    """Rows for the representative set: strata in turn, each patient once before any patient twice.

    The strata (each label within each source, view, ...) get equal room whatever their size, because a range that
    only rare pictures reach is clipped when only common ones were seen.

    Args:
        labels: (N,) labels of any kind.
        strata: (N,) a further division of each label, such as the source; None for none.
        patients: (N,) patient ids; None takes every row for a patient of its own.
        n: how many rows; all of them where there are fewer.
        seed: the same seed gives the same rows.

    Returns:
        (min(n, N),) int64, ascending and distinct.

    Raises:
        InputError: no rows, none wished for, or the arrays do not belong together.
    """
    label_of = np.asarray(labels).astype(str)
    stratum_of = np.zeros(label_of.shape, dtype=str) if strata is None else np.asarray(strata).astype(str)
    patient_of = np.arange(label_of.size) if patients is None else np.asarray(patients)
    if label_of.size == 0 or n < 1 or stratum_of.shape != label_of.shape or patient_of.shape != label_of.shape:
        raise InputError(
            "there is nothing to choose a representative set from",
            expected="at least one row, one label, stratum and patient for each, and at least one row wished for",
            came=f"{label_of.size} labels, {stratum_of.size} strata, {patient_of.size} patients, {n} wished for",
            do="use the training split of an index",
        )
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(label_of.size)
    # Sort keys, the last one first: which round a row is taken in, then its stratum.
    visit = _visits(patient_of[shuffled])
    cell = np.unique(np.stack([label_of, stratum_of], axis=1), axis=0, return_inverse=True)[1].reshape(-1)[shuffled]
    within_cell = np.lexsort((visit, cell))  # each cell together, first visits of patients before second ones
    turn = np.empty(label_of.size, dtype=np.int64)
    turn[within_cell] = _visits(cell[within_cell])
    taken = np.argsort(turn, kind="stable")[:n]
    return np.sort(shuffled[taken]).astype(np.int64)


def _visits(values: npt.NDArray[np.generic]) -> Ints:
    """How often each value of (N,) was there before: [a, b, a] -> [0, 0, 1]."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.concatenate(([True], ordered[1:] != ordered[:-1]))
    first = np.maximum.accumulate(np.where(starts, np.arange(ordered.size), 0))
    visits = np.empty(ordered.size, dtype=np.int64)
    visits[order] = np.arange(ordered.size) - first
    return visits
