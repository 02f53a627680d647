"""How well a file's attributes alone separate the labels: what a model may learn instead of lungs.

Children's X-rays of one hospital: the width of the picture alone gave an AUROC of 0.889. A model is only as good as
what it adds to such a figure.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from calibration.bootstrap import Interval, patient_bootstrap
from calibration.metrics import auroc

# What `file_attributes` measures, in its order.
ATTRIBUTES = ("width", "height", "aspect", "mean_grey", "border")
# The outer ring that counts as border, as a share of the shorter side.
_BORDER_SHARE = 0.04


def file_attributes(
    pixels: npt.NDArray[np.uint8], *, width_px: int | None = None, height_px: int | None = None
) -> npt.NDArray[np.float64]:
    """Attributes of one X-ray that say nothing about lungs.

    Args:
        pixels: (H, W) uint8, as decoded; a reduced decode is good enough.
        width_px: of the original file; None takes W.
        height_px: of the original file; None takes H.

    Returns:
        (5,) float64 in the order of `ATTRIBUTES`: pixels, pixels, width over height, mean grey level (0 to 255), mean
        grey level of the outer ring (0 to 255).
    """
    height, width = pixels.shape
    ring = max(1, round(min(height, width) * _BORDER_SHARE))
    inner = pixels[ring:-ring, ring:-ring]
    total, total_inner = float(pixels.sum(dtype=np.int64)), float(inner.sum(dtype=np.int64))
    n_ring = pixels.size - inner.size
    original_width, original_height = width_px or width, height_px or height
    return np.array(
        [
            original_width,
            original_height,
            original_width / original_height,
            total / pixels.size,
            (total - total_inner) / n_ring if n_ring else 0.0,
        ]
    )


def attribute_aurocs(
    labels: npt.ArrayLike,
    attributes: Mapping[str, npt.ArrayLike],
    patients: npt.ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """AUROC of each attribute alone, whichever way it points, so 0.5 or more, with its patient-bootstrap interval.

    The direction is the one that all rows together show and stays fixed in the resamples; an interval that reaches
    below 0.5 says that even the direction is uncertain.

    Args:
        labels: (N,) of {0, 1}.
        attributes: by name, (N,) finite each.
        patients: (N,) patient ids.
        resamples: of the bootstrap; 0 for none (the interval is then the value itself).
        seed: of the bootstrap.

    Raises:
        InputError: one class only, or the arrays do not belong together.
    """
    found: dict[str, Interval] = {}
    for name, given in attributes.items():
        values = np.asarray(given, dtype=np.float64)
        alone = auroc(labels, values)
        pointed = values if alone >= 0.5 else -values
        if resamples:
            found[name] = patient_bootstrap(auroc, labels, pointed, patients, resamples=resamples, seed=seed)
        else:
            found[name] = Interval(max(alone, 1.0 - alone), max(alone, 1.0 - alone), max(alone, 1.0 - alone))
    return found


def cannot_vary(value: float | None, low: float | None, high: float | None) -> bool:
    """Whether an AUROC and its ends are those of an attribute that is the same in every file: 0.5 in every resample."""
    return value == 0.5 and all(end is None or np.isnan(end) or end == 0.5 for end in (low, high))
