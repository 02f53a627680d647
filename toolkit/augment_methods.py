"""The augmentation methods as albumentations transforms of (H, W, 1) uint8: its own, and those X-rays need besides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import albumentations as alb
import cv2
import numpy as np
import numpy.typing as npt

Grey = npt.NDArray[np.uint8]

_KNOTS = 7
# What technicians and programs leave on X-rays: sides, views, positions, places.
_MARKER_TEXTS = ("L", "R", "AP", "PA", "AP SUPINE", "PORTABLE", "ERECT", "SUPINE", "MOBILE", "12:30", "R L", "VA")
_INTERPOLATIONS = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA)


class ToneCurve(alb.ImageOnlyTransform):  # type: ignore[misc]
    """A random monotone curve of grey levels: what differs between detectors and their vendors' processing."""

    def get_params(self) -> dict[str, Any]:
        """Knots of a rising curve whose ends lie near black and white: (knots,) float64, 0 to 255."""
        # Exponential steps, normalised, are uniform over all rising curves; adding 0.3 keeps them from being flat.
        steps = self.random_generator.exponential(size=_KNOTS - 1) + 0.3
        low, high = self.random_generator.uniform(0, 40), self.random_generator.uniform(200, 255)
        return {"knots": low + (high - low) * np.concatenate([[0.0], np.cumsum(steps) / steps.sum()])}

    def apply(self, img: Grey, *, knots: npt.NDArray[np.float64], **_: Any) -> Grey:
        """Each grey level through the curve; order among grey levels is kept."""
        curve = np.interp(np.arange(256), np.linspace(0, 255, _KNOTS), knots)
        table = np.rint(curve).astype(np.uint8)  # (256,)
        return table[img]


class Collimation(alb.ImageOnlyTransform):  # type: ignore[misc]
    """Straight borders of random width and grey on some sides: collimator blades, film edges, frames of a scan."""

    def get_params(self) -> dict[str, Any]:
        """Share of each side that is covered, 0 to 0.12 and 0 for about half of them, and the grey."""
        draw = self.random_generator
        widths = draw.uniform(0.0, 0.12, 4) * (draw.random(4) < 0.5)
        # Black and white are the rule, any grey the exception.
        grey = int(draw.choice([0, 255, draw.integers(0, 256)], p=[0.6, 0.2, 0.2]))
        return {"widths": widths, "grey": grey}

    def apply(self, img: Grey, *, widths: npt.NDArray[np.float64], grey: int, **_: Any) -> Grey:
        """The picture with its borders covered."""
        height, width = img.shape[:2]
        top, bottom, left, right = (round(float(share) * side) for share, side in zip(widths, _sides(img), strict=True))
        out = img.copy()
        out[:top], out[height - bottom :] = grey, grey
        out[:, :left], out[:, width - right :] = grey, grey
        return out


def _sides(img: Grey) -> tuple[int, int, int, int]:
    return img.shape[0], img.shape[0], img.shape[1], img.shape[1]


class Markers(alb.ImageOnlyTransform):  # type: ignore[misc]
    """Letters and plates near the corners of any class alike, so that they tell nothing."""

    def get_params(self) -> dict[str, Any]:
        """One to three markers: text, place of its left end as shares of the picture, size, grey, plate or not."""
        draw = self.random_generator
        return {
            "markers": [
                {
                    "text": _MARKER_TEXTS[int(draw.integers(len(_MARKER_TEXTS)))],
                    "x": float(draw.choice([draw.uniform(0.0, 0.2), draw.uniform(0.7, 0.92)])),
                    "y": float(draw.choice([draw.uniform(0.06, 0.25), draw.uniform(0.8, 0.98)])),
                    "height": float(draw.uniform(0.03, 0.1)),
                    "grey": int(draw.choice([255, 0, draw.integers(0, 256)], p=[0.7, 0.1, 0.2])),
                    "plate": bool(draw.random() < 0.2),
                }
                for _ in range(int(draw.integers(1, 4)))
            ]
        }

    def apply(self, img: Grey, *, markers: list[dict[str, Any]], **_: Any) -> Grey:
        """The picture with the markers on it."""
        out = img[:, :, 0].copy()
        height, width = out.shape
        for one in markers:
            scale = one["height"] * height / 22  # a capital of this font is 22 px high at scale 1
            thick = max(1, round(2 * scale))
            at = (round(one["x"] * width), round(one["y"] * height))
            if one["plate"]:
                text_width, text_height = cv2.getTextSize(one["text"], cv2.FONT_HERSHEY_SIMPLEX, scale, thick)[0]
                cv2.rectangle(out, (at[0] - 2, at[1] + 2), (at[0] + text_width, at[1] - text_height), one["grey"], -1)
            ink = 255 - one["grey"] if one["plate"] else one["grey"]
            cv2.putText(out, one["text"], at, cv2.FONT_HERSHEY_SIMPLEX, scale, ink, thick, cv2.LINE_AA)
        return out[:, :, None]


class Rescale(alb.ImageOnlyTransform):  # type: ignore[misc]
    """Down and up again by random ways: detectors, archives and programs differ in what detail they leave."""

    def get_params(self) -> dict[str, Any]:
        """Factor 0.35 to 0.9 of the side, and two interpolations."""
        ways = self.random_generator.integers(len(_INTERPOLATIONS), size=2)
        return {
            "factor": float(self.random_generator.uniform(0.35, 0.9)),
            "down": _INTERPOLATIONS[int(ways[0])],
            "up": _INTERPOLATIONS[int(ways[1])],
        }

    def apply(self, img: Grey, *, factor: float, down: int, up: int, **_: Any) -> Grey:
        """The picture, as large as it was."""
        height, width = img.shape[:2]
        small = (max(8, round(width * factor)), max(8, round(height * factor)))
        shrunk = cv2.resize(img, small, interpolation=down)
        return np.asarray(cv2.resize(shrunk, (width, height), interpolation=up), np.uint8)[:, :, None]


def make(name: str, *, probability: float, light: bool) -> Any:
    """The transform called `name` in `toolkit.augmentation.METHODS`, applied with `probability`; `light`: weaker."""
    return _MAKERS[name](probability, light)


def _affine(p: float, light: bool) -> Any:
    # Outside the picture is black, as a collimated border is.
    return alb.Affine(
        rotate=(-5, 5) if light else (-12, 12),
        scale=(0.92, 1.08) if light else (0.8, 1.2),
        translate_percent=(-0.03, 0.03) if light else (-0.08, 0.08),
        shear=0 if light else (-5, 5),
        interpolation=cv2.INTER_LINEAR,
        border_mode=cv2.BORDER_CONSTANT,
        fill=0,
        p=p,
    )


def _brightness(p: float, light: bool) -> Any:
    # On one grey channel the value of hue-saturation-value is the grey level: a shift of it is the brightness.
    brightness, contrast = (0.2, 0.2) if light else (0.3, 0.35)
    return alb.RandomBrightnessContrast(brightness_limit=brightness, contrast_limit=contrast, p=p)


def _gamma(p: float, light: bool) -> Any:
    return alb.RandomGamma(gamma_limit=(80, 125) if light else (60, 165), p=p)


def _clahe(p: float, _: bool) -> Any:
    return alb.CLAHE(clip_limit=(1.0, 4.0), tile_grid_size=(8, 8), p=p)


def _sharpness(p: float, _: bool) -> Any:
    return alb.OneOf([alb.GaussianBlur(blur_limit=(3, 5)), alb.Sharpen(alpha=(0.1, 0.4))], p=p)


def _noise(p: float, _: bool) -> Any:
    return alb.GaussNoise(std_range=(0.01, 0.05), p=p)


def _compression(p: float, _: bool) -> Any:
    return alb.ImageCompression(quality_range=(40, 95), p=p)


def _dropout(p: float, _: bool) -> Any:
    holes = {"hole_height_range": (0.05, 0.2), "hole_width_range": (0.05, 0.2)}
    return alb.CoarseDropout(num_holes_range=(1, 4), fill=0, p=p, **holes)


_MAKERS: dict[str, Callable[[float, bool], Any]] = {
    "affine": _affine,
    "collimation": lambda p, _: Collimation(p=p),
    "markers": lambda p, _: Markers(p=p),
    "brightness": _brightness,
    "gamma": _gamma,
    "curve": lambda p, _: ToneCurve(p=p),
    "clahe": _clahe,
    "sharpness": _sharpness,
    "rescale": lambda p, _: Rescale(p=p),
    "noise": _noise,
    "compression": _compression,
    "dropout": _dropout,
}
