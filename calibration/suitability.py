"""Fit what the device judges pictures by: statistics from training X-rays, limits from validation X-rays.

No outside picture and no label takes part. The limits are quantiles of what held-out X-rays of the training source
give, shared out over the checks so that all of them together accept the wished share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from firmware_bridge.errors import InputError
from firmware_bridge.lungs import KINDS
from firmware_bridge.suitability import Statistics

Floats = npt.NDArray[np.float64]
ACCEPTED = 0.98
# Axes of the features: enough for what varies between X-rays, few enough to be estimated from a few hundred.
_MOST_AXES = 32
_X_RAYS_PER_AXIS = 10
# A refusal needs this many times the distance of the furthest few validation X-rays: another population lies between.
# Features spread more between populations than the shape of lungs does.
_FAR_MEASURES, _FAR_FEATURES = 1.5, 2.5
_LEAST_KIND = 0.5  # below even odds, nobody is refused for a kind
_LEAST_CONTRAST = 12.0  # of 255; below, grey levels are noise


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """What N X-rays gave; rows belong together.

    Attributes:
        contrast: (N,).
        kinds: (N, 7) probabilities.
        measures: (N, M).
        features: (N, C) pooled feature maps of the deployed file.
    """

    contrast: Floats
    kinds: Floats
    measures: Floats
    features: Floats


def fit_suitability(train: Observed, held: Observed, *, accepted: float = ACCEPTED) -> Statistics:
    """Statistics of `train`, limits from `held`.

    Args:
        train: training X-rays.
        held: validation X-rays, patients apart.
        accepted: share of `held` that is accepted and inside the population.

    Raises:
        InputError: too few X-rays.
    """
    if min(len(train.contrast), len(held.contrast)) < 8:
        raise InputError(
            "too few X-rays to learn what is suitable from",
            expected="at least 8 in training and 8 in validation",
            came=f"{len(train.contrast)} and {len(held.contrast)}",
            do="give more X-rays, or train without suitability",
        )
    centre, whiten = _whitening(train.measures)
    mean, axes, scale, rest = _axes(train.features)
    bare = Statistics(
        contrast_least=np.zeros((), np.float32),
        kind_most=np.ones(len(KINDS), np.float32),
        measures_mean=centre.astype(np.float32),
        measures_whiten=whiten.astype(np.float32),
        measures_limits=np.ones(2, np.float32),
        features_mean=mean.astype(np.float32),
        features_axes=axes.astype(np.float32),
        features_scale=scale.astype(np.float32),
        features_rest=np.array(rest, np.float32),
        features_limits=np.ones(2, np.float32),
    )
    # Half of what may be lost to the two distances' soft limits, half to kinds and contrast.
    lost = (1 - accepted) / 2
    of_measures = np.array([bare.measures_distance(row) for row in held.measures])
    of_features = np.array([bare.features_distance(row) for row in held.features])
    worst = held.kinds[:, 1:].max(axis=1)
    most = max(_LEAST_KIND, float(np.quantile(worst, 1 - lost / 2)))
    contrast = max(_LEAST_CONTRAST, 0.5 * float(np.quantile(held.contrast, lost / 2)))
    return Statistics(
        contrast_least=np.array(contrast, np.float32),
        kind_most=np.full(len(KINDS), most, np.float32),
        measures_mean=bare.measures_mean,
        measures_whiten=bare.measures_whiten,
        measures_limits=_limits(of_measures, lost / 2, far=_FAR_MEASURES),
        features_mean=bare.features_mean,
        features_axes=bare.features_axes,
        features_scale=bare.features_scale,
        features_rest=bare.features_rest,
        features_limits=_limits(of_features, lost / 2, far=_FAR_FEATURES),
    )


def _limits(distances: Floats, lost: float, *, far: float) -> npt.NDArray[np.float32]:
    soft = float(np.quantile(distances, 1 - lost))
    return np.array([soft, far * soft], np.float32)


def _whitening(values: Floats, *, shrinkage: float = 0.1) -> tuple[Floats, Floats]:
    """Mean (M,) and the matrix (M, M) that makes `values` (N, M) white, covariance shrunk to its diagonal."""
    mean = values.mean(axis=0)
    covariance = np.cov(values, rowvar=False)
    diagonal = np.diag(np.diag(covariance) + 1e-6)
    shrunk = (1 - shrinkage) * covariance + shrinkage * diagonal
    variances, axes = np.linalg.eigh(shrunk)
    return mean, axes / np.sqrt(np.maximum(variances, 1e-9))


def _axes(features: Floats) -> tuple[Floats, Floats, Floats, float]:
    """Mean (C,), main axes (C, K), their scales (K,), and the mean square beside them."""
    mean = features.mean(axis=0)
    moved = features - mean
    _, singular, rows = np.linalg.svd(moved, full_matrices=False)
    k = max(1, min(_MOST_AXES, len(features) // _X_RAYS_PER_AXIS, features.shape[1] - 1))
    axes = rows[:k].T
    scale = np.maximum(singular[:k] / np.sqrt(len(features)), 1e-6)
    rest = float(np.mean(np.sum(moved**2, axis=1) - np.sum((moved @ axes) ** 2, axis=1)))
    return mean, axes, scale, max(rest, 1e-9)
