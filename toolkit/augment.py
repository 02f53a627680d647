"""Augmentation of grey X-rays, on grey levels 0 to 255 and before CLAHE and normalisation (albumentations).

Never a horizontal flip: it would put the heart on the right side, which is a finding (situs inversus), not a variation.
Strengths follow what differs between X-ray sources: exposure, contrast, sharpness, noise, compression, position, size
(Shorten & Khoshgoftaar 2019 survey these for images in general).
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from firmware_bridge.errors import MissingExtraError

Grey = npt.NDArray[np.uint8]


class Augmenter:
    """Augments one X-ray at a time, reproducibly from a seed per X-ray, from any number of threads."""

    def __init__(self, strength: str) -> None:
        """Take `strength`: "none", "light" or "strong"."""
        self.strength = strength
        self._local = threading.local()

    def __call__(self, pixels: Grey, *, seed: int) -> Grey:
        """One augmented copy.

        Args:
            pixels: (H, W) uint8.
            seed: decides every random choice; the same seed gives the same picture in any thread.

        Returns:
            (H, W) uint8.
        """
        if self.strength == "none":
            return pixels
        # Compose keeps its random state in itself, so each thread owns one.
        compose = getattr(self._local, "compose", None)
        if compose is None:
            compose = self._local.compose = _compose(self.strength)
        compose.set_random_seed(seed)
        out: Grey = compose(image=pixels[:, :, None])["image"][:, :, 0]
        return out


def _compose(strength: str) -> Any:
    try:
        import albumentations as alb
    except ImportError as error:
        raise MissingExtraError.for_module("albumentations", "train") from error
    import cv2

    strong = strength == "strong"
    # Outside the picture is black, as a collimated border is.
    affine = alb.Affine(
        rotate=(-12, 12) if strong else (-5, 5),
        scale=(0.8, 1.2) if strong else (0.92, 1.08),
        translate_percent=(-0.08, 0.08) if strong else (-0.03, 0.03),
        shear=(-5, 5) if strong else 0,
        interpolation=cv2.INTER_LINEAR,
        border_mode=cv2.BORDER_CONSTANT,
        fill=0,
        p=0.9,
    )
    light = [
        affine,
        alb.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=0.7),
        alb.RandomGamma(gamma_limit=(80, 125), p=0.5),
    ]
    if not strong:
        return alb.Compose(light)
    return alb.Compose(
        [
            affine,
            alb.RandomBrightnessContrast(brightness_limit=0.3, contrast_limit=0.35, p=0.8),
            alb.RandomGamma(gamma_limit=(60, 165), p=0.7),
            alb.OneOf([alb.GaussianBlur(blur_limit=(3, 5)), alb.Sharpen(alpha=(0.1, 0.4))], p=0.4),
            alb.GaussNoise(std_range=(0.01, 0.05), p=0.4),
            alb.ImageCompression(quality_range=(40, 95), p=0.3),
            alb.CoarseDropout(
                num_holes_range=(1, 4), hole_height_range=(0.05, 0.2), hole_width_range=(0.05, 0.2), fill=0, p=0.3
            ),
        ]
    )
