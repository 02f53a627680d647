"""Augmentation of grey X-rays, on grey levels 0 to 255 and before CLAHE and normalisation (albumentations).

Never a horizontal flip: it would put the heart on the right side, which is a finding (situs inversus), not a variation.
Strengths follow what differs between X-ray sources: exposure, tone curve, contrast, sharpness, noise, compression,
position, size, borders, letters (Shorten & Khoshgoftaar 2019 survey these for images in general).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from firmware_bridge.errors import MissingExtraError
from toolkit.augmentation import METHODS, SURROUNDINGS, probabilities

Grey = npt.NDArray[np.uint8]
# Soft edge of a lung mask, as a share of the picture's side: a hard one would be a new edge for the network to see.
_EDGE_SHARE = 0.02


class Augmenter:
    """Augments one X-ray at a time, reproducibly from a seed per X-ray, from any number of threads."""

    def __init__(self, preset: str, chosen: Mapping[str, float] | None = None) -> None:
        """Take `preset` and what `chosen` says otherwise, see `toolkit.augmentation.probabilities`."""
        self.preset = preset
        self.probabilities = probabilities(preset, chosen or {})
        self._local = threading.local()

    @property
    def needs_lungs(self) -> bool:
        """Whether a method is on that needs lung masks."""
        return self.probabilities["lungs_only"] > 0 or self.probabilities["outside"] > 0

    def __call__(self, pixels: Grey, *, seed: int, lungs: Grey | None = None, other: Grey | None = None) -> Grey:
        """One augmented copy.

        Args:
            pixels: (H, W) uint8.
            seed: decides every random choice; the same seed gives the same picture in any thread.
            lungs: (H, W) uint8, 0 outside the lungs; None where they are not known.
            other: (H, W) uint8, another X-ray, whose surroundings may replace those of this one's lungs.

        Returns:
            (H, W) uint8.
        """
        if not any(self.probabilities.values()):
            return pixels
        geometry, grey_levels = self._composes()
        draw = np.random.default_rng(seed)
        use_lungs = lungs is not None and lungs.any()
        whole_chest = draw.random(2) >= (self.probabilities["outside"], self.probabilities["lungs_only"])
        geometry.set_random_seed(seed)
        if not use_lungs or lungs is None or whole_chest.all():
            out = geometry(image=pixels[:, :, None])["image"]
            return _run(grey_levels, out, seed)
        if not whole_chest[0]:
            pixels = replace_outside(pixels, soft_mask(lungs), other=other, draw=draw)
        moved = geometry(image=pixels[:, :, None], mask=lungs)
        before: Grey = moved["image"][:, :, 0]
        after = _run(grey_levels, moved["image"], seed)
        if whole_chest[1]:
            return after
        return blend(after, before, soft_mask(moved["mask"]))

    def _composes(self) -> tuple[Any, Any]:
        # Compose keeps its random state in itself, so each thread owns its own.
        composes: tuple[Any, Any] | None = getattr(self._local, "composes", None)
        if composes is None:
            composes = self._local.composes = _compose(self.probabilities, light=self.preset == "light")
        return composes


def _run(compose: Any, image: Grey, seed: int) -> Grey:
    compose.set_random_seed(seed + 1)
    out: Grey = compose(image=image)["image"][:, :, 0]
    return out


def _compose(wanted: Mapping[str, float], *, light: bool) -> tuple[Any, Any]:
    """What moves pixels or covers borders, and what changes grey levels everywhere."""
    try:
        import albumentations as alb

        from toolkit.augment_methods import make
    except ImportError as error:
        raise MissingExtraError.for_module("albumentations", "train") from error
    made = {name: make(name, probability=wanted[name], light=light) for name in METHODS if wanted[name] > 0}
    first = [made[name] for name in made if name in SURROUNDINGS]
    return alb.Compose(first), alb.Compose([made[name] for name in made if name not in SURROUNDINGS])


def soft_mask(lungs: Grey) -> npt.NDArray[np.float32]:
    """`lungs` (H, W), 0 outside, as weights (H, W) float32, 0 to 1, with a soft edge outside the lungs."""
    side = max(1, round(_EDGE_SHARE * max(lungs.shape)))
    inside = np.asarray(lungs > 0, np.float32)
    wide = cv2.dilate(inside, np.ones((2 * side + 1, 2 * side + 1), np.uint8))
    return np.asarray(cv2.blur(wide, (2 * side + 1, 2 * side + 1)), np.float32)


def blend(inside: Grey, outside: Grey, weights: npt.NDArray[np.float32]) -> Grey:
    """`inside` where `weights` (H, W) is 1, `outside` where it is 0; all (H, W)."""
    mixed = outside + weights * (inside.astype(np.float32) - outside)
    return np.rint(mixed).astype(np.uint8)


def replace_outside(
    pixels: Grey, weights: npt.NDArray[np.float32], *, other: Grey | None, draw: np.random.Generator
) -> Grey:
    """`pixels` (H, W) with what lies outside the lungs replaced: by one grey, noise, a blur, or another X-ray's."""
    kind = int(draw.integers(4 if other is not None else 3))
    if kind == 0:
        outside: Grey = np.full_like(pixels, int(draw.integers(256)))
    elif kind == 1:
        outside = draw.integers(0, 256, pixels.shape, np.uint8)
    elif kind == 2:
        outside = np.asarray(cv2.blur(pixels, (pixels.shape[1] // 4, pixels.shape[0] // 4)), np.uint8)
    else:
        assert other is not None
        outside = other
    return blend(pixels, outside, weights)
