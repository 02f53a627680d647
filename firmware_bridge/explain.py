"""Grad-CAM++ without gradients: where in the X-ray the score comes from, out of the deployed file itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from firmware_bridge.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["grad_cam_plus_plus", "overlay"]

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
