"""What the lung network is trained on: augmented X-rays with their masks, and pictures that are no upright chest.

Everything comes from the training X-rays themselves and from random numbers, so that the pictures on which refusals are
measured (photographs, other body parts) stay unseen.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from firmware_bridge.lungs import KINDS, MASK_PX
from toolkit.lungs.decoys import decoy

Grey = npt.NDArray[np.uint8]

_SHARES = {
    "upright": 0.62,
    "turned_left": 0.05,
    "upside_down": 0.06,
    "turned_right": 0.05,
    "inverted": 0.06,
    "cropped": 0.08,
    "not_chest": 0.08,
}
_QUARTERS = {"turned_left": 1, "upside_down": 2, "turned_right": 3}
# The part of the lungs' area that is still in the picture: above, it is whole; below the second, cropped. In between
# nobody can say, and the network is not asked.
_WHOLE, _CROPPED, _GONE = 0.92, 0.65, 0.08


@dataclass(frozen=True, slots=True)
class Sample:
    """One training picture.

    Attributes:
        pixels: (128, 128) uint8.
        mask: (128, 128) uint8, 255 inside lungs.
        kind: position in `KINDS`.
        mask_counts: False where there is no true mask (an inverted picture is refused, never segmented).
        kind_counts: False where the kind is a matter of opinion.
    """

    pixels: Grey
    mask: Grey
    kind: int
    mask_counts: bool
    kind_counts: bool


class Sampler:
    """Makes training pictures, reproducibly from a seed each, from any number of threads."""

    def __init__(self) -> None:
        self._local = threading.local()

    def __call__(self, pixels: Grey, mask: Grey, *, seed: int) -> Sample:
        """One picture from an X-ray (S, S) uint8 and its mask (S, S) uint8."""
        rng = np.random.default_rng(seed)
        kind = str(rng.choice(list(_SHARES), p=list(_SHARES.values())))
        if kind == "not_chest":
            picture = self._tonal(decoy(pixels, mask, rng=rng), rng)
            return Sample(picture, np.zeros_like(picture), KINDS.index(kind), True, True)
        moved, drawn, kept = _moved(pixels, mask, rng=rng, cropped=kind == "cropped")
        moved = self._tonal(_collimated(_uneven(_hazy(moved, drawn, rng), rng), rng), rng)
        counts = True
        if kind == "cropped":
            counts = _GONE < kept < _CROPPED
        elif kept < _WHOLE:
            counts = False
        if kind in _QUARTERS:
            moved = np.ascontiguousarray(np.rot90(moved, _QUARTERS[kind]))
            drawn = np.ascontiguousarray(np.rot90(drawn, _QUARTERS[kind]))
        elif kind == "inverted":
            moved = np.asarray(255 - moved, np.uint8)
        return Sample(moved, drawn, KINDS.index(kind), kind != "inverted", counts)

    def _tonal(self, pixels: Grey, rng: np.random.Generator) -> Grey:
        compose = getattr(self._local, "compose", None)
        if compose is None:
            compose = self._local.compose = _compose()
        compose.set_random_seed(int(rng.integers(2**31)))
        out: Grey = compose(image=pixels[:, :, None])["image"][:, :, 0]
        return out


def _compose() -> Any:
    import albumentations as alb

    return alb.Compose(
        [
            alb.RandomGamma(gamma_limit=(45, 220), p=0.8),
            alb.RandomBrightnessContrast(brightness_limit=0.25, contrast_limit=0.4, p=0.8),
            alb.CLAHE(clip_limit=(1, 4), p=0.2),
            alb.OneOf([alb.GaussianBlur(blur_limit=(3, 7)), alb.Sharpen(alpha=(0.1, 0.5))], p=0.4),
            alb.GaussNoise(std_range=(0.01, 0.08), p=0.4),
            alb.ImageCompression(quality_range=(30, 95), p=0.2),
        ]
    )


def _moved(pixels: Grey, mask: Grey, *, rng: np.random.Generator, cropped: bool) -> tuple[Grey, Grey, float]:
    """X-ray and mask under one random affine map to 128 px; and the share of the lungs' area left in the picture."""
    side = pixels.shape[0]
    unit = MASK_PX / side
    # Children's films end where the chest ends. Around an adult's there is more body: go on with what the edge shows.
    beyond = int(rng.choice((cv2.BORDER_CONSTANT, cv2.BORDER_REPLICATE, cv2.BORDER_REFLECT_101), p=(0.45, 0.35, 0.2)))
    least = 0.62 if beyond == cv2.BORDER_CONSTANT else 0.42
    scale = rng.uniform(1.4, 2.6) if cropped else rng.uniform(least, 1.2)
    aspect = np.exp(rng.uniform(-0.25, 0.25))  # beyond every aspect ratio that film and detectors have
    angle = np.deg2rad(rng.uniform(-20, 20) * rng.random())
    shear = rng.uniform(-0.1, 0.1)
    mirror = rng.choice((-1.0, 1.0))  # here alone: a mask has no heart to be on the wrong side
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = unit * scale * turn @ np.array([[aspect * mirror, shear], [0.0, 1 / aspect]])
    reach = 0.35 if cropped else 0.10 + 0.25 * max(0.0, 1 - scale)
    shift = MASK_PX * (0.5 + rng.uniform(-reach, reach, 2))
    offset = shift - linear @ np.array([side / 2, side / 2])
    matrix = np.hstack([linear, offset[:, None]])
    border = int(rng.choice((0, 0, 0, 255, int(rng.integers(256)))))
    # Enlarging below the picture's edge shows border; averaging before shrinking keeps it free of aliasing.
    source = cv2.blur(pixels, (2, 2)) if unit * scale < 0.6 else pixels
    size = (MASK_PX, MASK_PX)
    moved = cv2.warpAffine(source, matrix, size, flags=cv2.INTER_LINEAR, borderMode=beyond, borderValue=border)
    if beyond != cv2.BORDER_CONSTANT:
        real = cv2.warpAffine(np.ones_like(pixels), matrix, size, flags=cv2.INTER_NEAREST)
        soft = cv2.GaussianBlur(moved, (0, 0), float(rng.uniform(2, 7)))
        moved = np.where(real > 0, moved, soft)
    drawn = cv2.warpAffine(mask, matrix, size, flags=cv2.INTER_LINEAR, borderValue=0)
    whole = np.count_nonzero(mask > 127) * abs(np.linalg.det(linear))
    kept = float(np.count_nonzero(drawn > 127) / max(1.0, whole))
    return np.asarray(moved, np.uint8), np.asarray(np.where(drawn > 127, 255, 0), np.uint8), kept


def _hazy(pixels: Grey, mask: Grey, rng: np.random.Generator) -> Grey:
    """Soft bright patches over the lungs: consolidated lung is lung still, and children's masks show little of it."""
    if rng.random() > 0.4:
        return pixels
    rows, columns = np.nonzero(mask)
    if rows.size == 0:
        return pixels
    haze: npt.NDArray[Any] = np.zeros((MASK_PX, MASK_PX), np.float32)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(rows.size))
        axes = (int(rng.integers(5, 26)), int(rng.integers(5, 26)))
        centre = (int(columns[at]), int(rows[at]))
        cv2.ellipse(haze, centre, axes, float(rng.uniform(0, 180)), 0, 360, float(rng.uniform(0.3, 1.0)), -1)
    haze = cv2.GaussianBlur(haze, (0, 0), float(rng.uniform(3, 9)))
    bright = float(np.percentile(pixels, rng.uniform(75, 95)))
    mixed = pixels + haze * np.maximum(0.0, bright - pixels.astype(np.float32)) * float(rng.uniform(0.5, 1.0))
    return np.asarray(np.clip(mixed, 0, 255), np.uint8)


def _uneven(pixels: Grey, rng: np.random.Generator) -> Grey:
    """Exposure that changes over the picture, and flat films: large bodies, portable machines."""
    out = pixels.astype(np.float32)
    if rng.random() < 0.4:
        coarse = rng.normal(0, float(rng.uniform(0.05, 0.3)), (3, 3)).astype(np.float32)
        out *= np.exp(cv2.resize(coarse, (MASK_PX, MASK_PX), interpolation=cv2.INTER_CUBIC))
    if rng.random() < 0.35:
        middle = float(out.mean())
        out = middle + (out - middle) * float(rng.uniform(0.3, 1.0)) + float(rng.uniform(-30, 30))
    return np.asarray(np.clip(out, 0, 255), np.uint8)


def _collimated(pixels: Grey, rng: np.random.Generator) -> Grey:
    """Borders, letters and tubes, which no lung shape may depend on."""
    out = pixels.copy()
    if rng.random() < 0.25:
        level = int(rng.choice((0, 0, 255)))
        top, bottom, left, right = (int(x) for x in rng.integers(0, 12, 4))
        out[:top], out[MASK_PX - bottom :] = level, level
        out[:, :left], out[:, MASK_PX - right :] = level, level
    if rng.random() < 0.4:
        text = "".join(rng.choice(list("LRAPDX0123 "), int(rng.integers(1, 5))))
        place = (int(rng.integers(0, 110)), int(rng.choice((int(rng.integers(10, 30)), int(rng.integers(100, 126))))))
        cv2.putText(out, text, place, cv2.FONT_HERSHEY_SIMPLEX, float(rng.uniform(0.3, 0.7)), 255, 1)
    if rng.random() < 0.2:
        points = rng.integers(0, MASK_PX, (int(rng.integers(2, 5)), 2)).astype(np.int32)
        cv2.polylines(out, [points], isClosed=False, color=int(rng.integers(180, 256)), thickness=1)
    return out
