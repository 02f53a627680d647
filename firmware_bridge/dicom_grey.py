"""Stored values to what a viewer shows: modality LUT, VOI LUT or window, polarity (PS3.3 C.11.1, C.11.2, C.8.11.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from firmware_bridge.codec import robust_range
from firmware_bridge.dicom_file import lut_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["to_grey"]

# Below this share of pixels between black and white, a window was meant for other values than those in the file.
_LEAST_INSIDE_WINDOW = 0.05


def to_grey(dataset: Any, stored: NDArray[Any]) -> NDArray[np.uint8]:
    """Stored values to (H, W) uint8 with bones bright, through one table over the values that occur.

    Args:
        dataset: its window, tables and polarity.
        stored: (H, W) uint8, int8, uint16 or int16.
    """
    low, high = int(stored.min()), int(stored.max())
    occurring = np.arange(low, high + 1, dtype=np.int32)  # (V,) int32, V <= 65536
    index = (stored.astype(np.int32) - low).astype(np.uint16)  # (H, W) uint16 into `occurring`
    step = max(1, min(index.shape) // 512)
    sample = index[::step, ::step].ravel()  # about 500 x 500 are enough for percentiles
    padding = _padding(dataset, occurring)  # (V,) bool
    shown = sample[~padding[sample]]
    unit = _displayed(dataset, occurring, shown if shown.size else sample)  # (V,) float64, 0 black to 1 white
    if _is_negative(dataset):
        unit = 1.0 - unit
    unit[padding] = 0.0
    table = np.rint(unit * 255.0).astype(np.uint8)  # (V,) uint8
    return np.ascontiguousarray(table[index])


def _padding(dataset: Any, occurring: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Which values stand for no picture at all: beyond the collimator's edge (PS3.3 C.7.5.1.1.2). Shown black."""
    value = dataset.get("PixelPaddingValue")
    if not isinstance(value, int):
        return np.zeros(len(occurring), np.bool_)
    limit = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((value, limit if isinstance(limit, int) else value))
    return np.asarray((occurring >= low) & (occurring <= high), np.bool_)


def _displayed(dataset: Any, occurring: NDArray[np.int32], sample: NDArray[np.uint16]) -> NDArray[np.float64]:
    """Modality LUT, then VOI LUT or window or neither, over the stored values that occur; 0 to 1."""
    values = _modality(dataset, occurring)
    if dataset.get("VOILUTSequence"):
        mapped = _looked_up(dataset.VOILUTSequence[0], values)
        # The third word of the descriptor often overstates the bits, so the LUT's own greatest value is white.
        return np.asarray(mapped / max(1.0, float(lut_values(dataset.VOILUTSequence[0]).max())), np.float64)
    if dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        unit = _window(dataset, values)
        inside = (unit[sample] > 0.0) & (unit[sample] < 1.0)
        if inside.mean() >= _LEAST_INSIDE_WINDOW:
            return unit
    elif int(dataset.BitsStored) <= 8 and values is not None and np.array_equal(values, occurring):
        lowest = -(2 ** (int(dataset.BitsStored) - 1)) if dataset.PixelRepresentation else 0
        return np.asarray(np.clip((values - lowest) / (2 ** int(dataset.BitsStored) - 1), 0.0, 1.0), np.float64)
    black, white = robust_range(values[sample])
    return np.asarray(np.clip((values - black) / (white - black), 0.0, 1.0), np.float64)


def _modality(dataset: Any, occurring: NDArray[np.int32]) -> NDArray[np.float64]:
    if dataset.get("ModalityLUTSequence"):
        return _looked_up(dataset.ModalityLUTSequence[0], occurring.astype(np.float64))
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if slope is None or intercept is None:
        return occurring.astype(np.float64)
    return np.asarray(occurring * _first(slope) + _first(intercept), np.float64)


def _looked_up(item: Any, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values through a table; what lies beside it takes its first or last entry (PS3.3 C.11.1.1.1)."""
    table, first = lut_values(item), int(item.LUTDescriptor[1])
    if first > 32767 and values.min() < 0:  # written as unsigned although the values have a sign
        first -= 65536
    position = np.clip(np.rint(values) - first, 0, len(table) - 1).astype(np.int64)
    return np.asarray(table[position], np.float64)


def _window(dataset: Any, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The first window of the file (PS3.3 C.11.2.1.2 and C.11.2.1.3), 0 to 1."""
    center, width = _first(dataset.WindowCenter), _first(dataset.WindowWidth)
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if function == "SIGMOID":
        exponent = np.clip(-4.0 * (values - center) / max(width, 1e-6), -60.0, 60.0)
        return np.asarray(1.0 / (1.0 + np.exp(exponent)), np.float64)
    if function == "LINEAR_EXACT":
        return np.asarray(np.clip((values - center) / max(width, 1e-6) + 0.5, 0.0, 1.0), np.float64)
    return np.asarray(np.clip((values - (center - 0.5)) / max(width - 1.0, 1e-6) + 0.5, 0.0, 1.0), np.float64)


def _first(value: Any) -> float:
    return float(value if isinstance(value, (int, float, str)) else value[0])


def _is_negative(dataset: Any) -> bool:
    """Whether bones come out dark, so that the picture must be turned around.

    The presentation LUT shape goes before the photometric interpretation, as DCMTK and Weasis have it; where those
    two contradict each other or nothing is said, the pixel intensity relationship sign is asked (PS3.3 C.8.11.3.1.2;
    1: low values for little radiation). Such files are shown with dark bones by a viewer too. Under MONOCHROME1 alone
    the sign is not asked: real files contradict themselves there.
    """
    sign = dataset.get("PixelIntensityRelationshipSign")
    shape = str(dataset.get("PresentationLUTShape") or "").upper()
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        return shape != "IDENTITY" or sign == 1
    return shape == "INVERSE" or sign == 1
