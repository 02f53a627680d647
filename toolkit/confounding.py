"""Whether a score reads the disease, or how and of whom the X-ray was taken: by view, sex and age group."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.bootstrap import percentile_interval, resampled_rows
from calibration.metrics import auroc, auroc_within
from firmware_bridge.errors import InputError
from toolkit.data.index import Xray
from toolkit.groups import strata_of

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Strings = npt.NDArray[np.str_]


def confounding(
    rows: Sequence[Xray],
    positive: Bools,
    scores: Floats,
    patients: Strings,
    *,
    resamples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """For each attribute that takes two values or more here: what is left of the AUROC when it is held still.

    Args:
        rows: the N X-rays.
        positive: (N,) labels.
        scores: (N,) of one model.
        patients: (N,) ids; resampled together.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        For "age", "sex", "view": "within", the AUROC among X-rays of the same value (`auroc_within`); and "reads", how
        well the score tells the two commonest values apart among the X-rays *without* the finding, in whichever
        direction: 0.5 is not at all. Left out where the known rows do not give both figures.
    """
    found = []
    for by, names in strata_of(rows).items():
        known = names != ""
        strata, truth, values, ids = names[known], positive[known], scores[known], patients[known]
        commonest = _two_commonest(strata[~truth])
        if len(commonest) < 2:
            continue
        apart = ~truth & np.isin(strata, commonest)
        try:
            within = auroc_within(truth, values, strata)
            direction = auroc(strata[apart] == commonest[0], values[apart])
        except InputError:
            continue
        tells = commonest[0] if direction >= 0.5 else commonest[1]
        drawn = np.array(
            [
                (
                    _or_nan(auroc_within, truth[k], values[k], strata[k]),
                    _or_nan(auroc, strata[k][apart[k]] == tells, values[k][apart[k]]),
                )
                for k in resampled_rows(ids, resamples=resamples, seed=seed)
            ]
        )
        found.append(
            {
                "by": by,
                "values": commonest,
                "images": int(known.sum()),
                "within": percentile_interval(within, drawn[:, 0]).to_json(),
                "reads": percentile_interval(max(direction, 1.0 - direction), drawn[:, 1]).to_json(),
            }
        )
    return found


def _two_commonest(names: Strings) -> list[str]:
    values, counts = np.unique(names, return_counts=True)
    return [str(values[k]) for k in np.argsort(-counts, kind="stable")[:2]]


def _or_nan(statistic: Callable[..., float], *arrays: npt.ArrayLike) -> float:
    try:
        return statistic(*arrays)
    except InputError:  # this draw lacks a class
        return math.nan


def confounding_rows(evaluation: Mapping[str, Any]) -> list[tuple[str, str, str, Any, Any, Any]]:
    """The rows of the table: model, set, attribute; intervals: AUROC of all, within, of the attribute."""
    return [
        (
            model["name"],
            one["name"],
            f"{by['by']} ({' or '.join(by['values'])})",
            result["metrics"].get("auroc"),
            by["within"],
            by["reads"],
        )
        for model in evaluation["models"]
        for one in evaluation["sets"]
        for result in [one["results"][model["name"]]]
        for by in result.get("confounding", [])
    ]


CONFOUNDING_COLUMNS = ["Model", "Set", "Attribute", "AUROC", "AUROC within", "Score tells it by itself"]
