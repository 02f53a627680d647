"""Grad-CAM++ without gradients: where in the X-ray the score comes from, out of the deployed file itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from firmware_bridge.errors import ModelError
from firmware_bridge.result import NOTICE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from firmware_bridge.box import Box
    from firmware_bridge.preprocess import Prepared

__all__ = ["annotated_png", "grad_cam_plus_plus", "numbers_of", "on_whole", "overlay"]

_OVERLAY_PX = 512  # the longer side of an overlay: the map has a few dozen places
_STRENGTH = 0.5  # of the colour where the map is 1: the X-ray must stay readable below


def grad_cam_plus_plus(features: NDArray[Any], weights: NDArray[Any]) -> NDArray[np.float32]:
    """Grad-CAM++ (Chattopadhay et al. 2018, equations 10 and 19, Y = exp(S)) in closed form.

    For global average pooling over Z places and one linear layer, the derivative dS/dA_k is w_k / Z at every place, so
    alpha_k = 1 / (2 + w_k * m_k) with m_k the mean of feature map A_k, and the channel's weight is relu(w_k) * alpha_k
    up to a positive factor, which the scaling to [0, 1] takes out.

    Args:
        features: (h, w, C) real values of the feature maps.
        weights: (C,) of the linear layer to the logit.

    Returns:
        (h, w) float32, 0 to 1; the greatest value is 1, or all are 0 where nothing speaks for the positive label.

    Raises:
        ModelError: shapes that do not belong together.
    """
    if features.ndim != 3 or weights.shape != features.shape[2:]:
        raise ModelError(
            "the feature maps do not fit the head",
            expected="feature maps (h, w, C) and weights (C,)",
            came=f"{features.shape} and {weights.shape}",
            do="build the bundle again: model and head are from different trainings",
        )
    maps = np.asarray(features, np.float32)
    mean = maps.mean(axis=(0, 1))  # (C,)
    below = 2.0 + weights * mean  # (C,)
    # As in the paper's code, a vanishing denominator is taken as 1.
    channel_weights = np.maximum(weights, 0.0) / np.where(below != 0.0, below, 1.0)  # (C,)
    cam = np.maximum(maps @ np.asarray(channel_weights, np.float32), 0.0)  # (h, w)
    peak = float(cam.max())
    if not np.isfinite(peak) or peak <= 0.0:
        return np.zeros(maps.shape[:2], np.float32)
    return np.asarray(cam / peak, np.float32)


def overlay(pixels: NDArray[np.uint8], cam: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The X-ray with the map over it; where the map is 0, the X-ray is untouched.

    Args:
        pixels: (H, W) uint8 grey levels, any size.
        cam: (h, w) float32, 0 to 1, over the same field of view.

    Returns:
        (H, W, 3) uint8, red-green-blue.
    """
    height, width = pixels.shape
    smooth = np.clip(cv2.resize(cam, (width, height), interpolation=cv2.INTER_CUBIC), 0.0, 1.0)  # (H, W) float32
    levels = np.rint(smooth * 255.0).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB).astype(np.float32)
    opacity = (_STRENGTH * smooth)[..., None]  # (H, W, 1)
    blended = pixels[..., None].astype(np.float32) * (1.0 - opacity) + colours * opacity
    return np.asarray(np.rint(blended), np.uint8)


def on_whole(cam: NDArray[np.float32], field: Box, *, width_px: int, height_px: int) -> NDArray[np.float32]:
    """The map over the whole X-ray: (height, width) float32, 0 outside what the model saw.

    Args:
        cam: (h, w) float32 over `field`.
        field: what of the X-ray the model saw.
        width_px: of the X-ray, in whatever copy it is shown.
        height_px: likewise.
    """
    rows, columns = cam.shape
    # From a place in the X-ray to a place in the map, pixel centres to pixel centres.
    sx = columns / ((field.right - field.left) * width_px)
    sy = rows / ((field.bottom - field.top) * height_px)
    back = np.array(
        [
            [sx, 0.0, (0.5 - field.left * width_px) * sx - 0.5],
            [0.0, sy, (0.5 - field.top * height_px) * sy - 0.5],
        ]
    )
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    whole = cv2.warpAffine(cam, back, (width_px, height_px), flags=how, borderMode=cv2.BORDER_REPLICATE)
    left, top, right, bottom = (
        field.left * width_px,
        field.top * height_px,
        field.right * width_px,
        field.bottom * height_px,
    )
    x, y = np.arange(width_px) + 0.5, np.arange(height_px) + 0.5
    seen = ((y >= top) & (y <= bottom))[:, None] & ((x >= left) & (x <= right))[None]
    return np.asarray(np.where(seen, whole, 0.0), np.float32)


def numbers_of(cam: NDArray[np.float32], prepared: Prepared) -> dict[str, Any]:
    """What a record says of a map: where in the X-ray its peak is, and how much of it lies inside the lungs.

    Args:
        cam: (h, w) float32, from `grad_cam_plus_plus`.
        prepared: what the model saw.

    Returns:
        "method"; "peak" as [x, y] in shares of the whole X-ray, and "lung_share", 0 to 1: both None where the map is
        empty, the latter also where nobody looked for lungs.
    """
    total = float(cam.sum())
    told: dict[str, Any] = {"method": "grad-cam++", "peak": None, "lung_share": None}
    if total <= 0.0:
        return told
    row, column = np.unravel_index(int(np.argmax(cam)), cam.shape)
    field = prepared.field
    x = field.left + (int(column) + 0.5) / cam.shape[1] * (field.right - field.left)
    y = field.top + (int(row) + 0.5) / cam.shape[0] * (field.bottom - field.top)
    told["peak"] = [round(x, 4), round(y, 4)]
    lungs = lungs_of_places(cam.shape, prepared)
    if lungs is not None:
        told["lung_share"] = round(float((cam * lungs).sum() / total), 4)
    return told


def lungs_of_places(shape: tuple[int, ...], prepared: Prepared) -> NDArray[np.float32] | None:
    """The lungs' share of each place of a map of that shape, averaged over the pixels that it stands for.

    Returns:
        (h, w) float32, 0 to 1; None where nobody looked for lungs.
    """
    mask = prepared.lung_mask()
    if mask is None:
        return None
    rows, columns = shape
    small = cv2.resize(mask.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
    return np.asarray(small / 255, np.float32)


def annotated_png(pixels: NDArray[np.uint8], cam: NDArray[np.float32], field: Box) -> bytes:
    """The whole X-ray with the map over it and the notice below, as a PNG of at most 512 pixels a side.

    Args:
        pixels: (H, W) uint8, the decoded X-ray.
        cam: (h, w) float32 over `field`.
        field: what of the X-ray the model saw.
    """
    scale = min(1.0, _OVERLAY_PX / max(pixels.shape))
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    small = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8) if scale < 1 else pixels
    picture = overlay(small, on_whole(cam, field, width_px=small.shape[1], height_px=small.shape[0]))
    (text_px, _), _ = cv2.getTextSize(NOTICE, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 1)
    letters = min(0.5, (picture.shape[1] - 8) / text_px)
    strip = np.zeros((max(8, round(44 * letters)), picture.shape[1], 3), np.uint8)
    place = (4, round(strip.shape[0] * 0.7))
    cv2.putText(strip, NOTICE, place, cv2.FONT_HERSHEY_SIMPLEX, letters, (255, 255, 255), 1, cv2.LINE_AA)
    ok, encoded = cv2.imencode(".png", cv2.cvtColor(np.vstack([picture, strip]), cv2.COLOR_RGB2BGR))
    assert ok  # a uint8 array always encodes
    return encoded.tobytes()
