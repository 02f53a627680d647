"""Pictures that are no chest X-ray, made from random numbers and from scraps of X-rays."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from firmware_bridge.lungs import MASK_PX

Grey = npt.NDArray[np.uint8]


def decoy(pixels: Grey, mask: Grey, *, rng: np.random.Generator) -> Grey:
    """One of many kinds, (128, 128) uint8; `pixels` and `mask` (S, S) uint8 give scraps."""
    makers = (_noise, _clouds, _gradient, _limb, _limb, _shapes, _shapes, _text)
    if rng.random() < 0.45:
        out = (_shuffled, _scrap, _scrap)[int(rng.integers(3))](pixels, mask, rng)
    else:
        out = makers[int(rng.integers(len(makers)))](rng)
    if rng.random() < 0.35:
        # Skulls, jaws and hips have two sides as well.
        half = out[:, : MASK_PX // 2]
        out = np.ascontiguousarray(np.hstack([half, half[:, ::-1]]))
    return out


def _bytes(values: npt.NDArray[Any]) -> Grey:
    return np.asarray(np.clip(values, 0, 255), np.uint8)


def _noise(rng: np.random.Generator) -> Grey:
    return _bytes(rng.normal(rng.uniform(60, 190), rng.uniform(5, 90), (MASK_PX, MASK_PX)))


def _clouds(rng: np.random.Generator) -> Grey:
    """Noise over all scales, as in photographs (Field 1987: amplitude falls with frequency)."""
    out: npt.NDArray[Any] = np.zeros((MASK_PX, MASK_PX), np.float32)
    slope = rng.uniform(0.4, 1.0)
    for side in (2, 3, 5, 8, 16, 32, 64, 128):
        layer = rng.normal(0, 1, (side, side)).astype(np.float32)
        out += cv2.resize(layer, (MASK_PX, MASK_PX), interpolation=cv2.INTER_CUBIC) * (2.0 / side) ** slope
    out = (out - out.min()) / max(1e-6, float(np.ptp(out)))
    return _bytes(out * rng.uniform(80, 255) + rng.uniform(0, 60))


def _gradient(rng: np.random.Generator) -> Grey:
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[0:MASK_PX, 0:MASK_PX] / MASK_PX
    ramp = rows * np.sin(angle) + columns * np.cos(angle)
    level = rng.uniform(0, 255)
    return _bytes(level + ramp * rng.uniform(0, 200) + rng.normal(0, rng.uniform(0, 6), ramp.shape))


def _limb(rng: np.random.Generator) -> Grey:
    """Bright bones in a soft-tissue band on black, at any angle: what limbs, hips and hands have in common."""
    out: npt.NDArray[Any] = np.full((MASK_PX, MASK_PX), rng.uniform(0, 40), np.float32)
    for _ in range(int(rng.integers(1, 4))):
        start = rng.uniform(-20, MASK_PX + 20, 2)
        end = MASK_PX - start + rng.normal(0, 25, 2)
        flesh, bone = int(rng.integers(18, 60)), int(rng.integers(4, 18))
        a, b = (int(start[0]), int(start[1])), (int(end[0]), int(end[1]))
        band = np.zeros_like(out)
        cv2.line(band, a, b, float(rng.uniform(50, 130)), flesh)
        cv2.line(band, a, b, float(rng.uniform(150, 255)), bone)
        marrow = float(rng.uniform(90, 180))
        if rng.random() < 0.5:
            cv2.line(band, a, b, marrow, max(1, bone // 3))
        if rng.random() < 0.6:
            knuckle = (int((a[0] + b[0]) / 2), int((a[1] + b[1]) / 2))
            cv2.ellipse(band, knuckle, (bone + 6, bone + 3), float(rng.uniform(0, 180)), 0, 360, 220.0, -1)
        out = np.maximum(out, band)
    return _bytes(cv2.GaussianBlur(out, (0, 0), float(rng.uniform(0.8, 3))))


def _shapes(rng: np.random.Generator) -> Grey:
    out: npt.NDArray[Any] = np.full((MASK_PX, MASK_PX), rng.uniform(0, 255), np.float32)
    for _ in range(int(rng.integers(2, 14))):
        level = float(rng.uniform(0, 255))
        x, y = (int(v) for v in rng.integers(0, MASK_PX, 2))
        w, h = (int(v) for v in rng.integers(4, 60, 2))
        kind = int(rng.integers(3))
        if kind == 0:
            cv2.rectangle(out, (x - w, y - h), (x + w, y + h), level, -1)
        elif kind == 1:
            cv2.ellipse(out, (x, y), (w, h), float(rng.uniform(0, 180)), 0, 360, level, -1)
        else:
            cv2.fillPoly(out, [rng.integers(0, MASK_PX, (int(rng.integers(3, 7)), 2)).astype(np.int32)], level)
    out = cv2.GaussianBlur(out, (0, 0), float(rng.uniform(0.5, 6)))
    return _bytes(out + rng.normal(0, rng.uniform(0, 12), out.shape))


def _text(rng: np.random.Generator) -> Grey:
    dark = rng.random() < 0.5
    out = np.full((MASK_PX, MASK_PX), 20 if dark else 235, np.uint8)
    for row in range(8, MASK_PX, int(rng.integers(8, 16))):
        words = "".join(rng.choice(list("abcdeghilmnorstu   "), int(rng.integers(5, 26))))
        cv2.putText(out, words, (2, row), cv2.FONT_HERSHEY_SIMPLEX, 0.3, 235 if dark else 20, 1)
    return out


def _shuffled(pixels: Grey, _mask: Grey, rng: np.random.Generator) -> Grey:
    """Its tiles in another order: the same grey levels and textures, and no chest."""
    tiles = int(rng.choice((3, 4, 6, 8)))
    small = cv2.resize(pixels, (MASK_PX - MASK_PX % tiles,) * 2, interpolation=cv2.INTER_AREA)
    cells = [cell for row in np.split(small, tiles, axis=0) for cell in np.split(row, tiles, axis=1)]
    order = rng.permutation(len(cells))
    rows = [np.hstack([cells[i] for i in order[r * tiles : (r + 1) * tiles]]) for r in range(tiles)]
    return np.asarray(cv2.resize(np.vstack(rows), (MASK_PX, MASK_PX)), np.uint8)


def _scrap(pixels: Grey, mask: Grey, rng: np.random.Generator) -> Grey:
    """A piece with hardly any lung in it, enlarged and turned: shoulder, arm, belly; tiles where there is none."""
    side = pixels.shape[0]
    for _ in range(12):
        width, height = (int(v) for v in rng.integers(side // 8, side // 2, 2))
        x, y = int(rng.integers(side - width)), int(rng.integers(side - height))
        if np.count_nonzero(mask[y : y + height, x : x + width]) < 0.08 * width * height:
            piece = np.rot90(pixels[y : y + height, x : x + width], int(rng.integers(4)))
            piece = np.ascontiguousarray(piece)
            return np.asarray(cv2.resize(piece, (MASK_PX, MASK_PX), interpolation=cv2.INTER_LINEAR), np.uint8)
    return _shuffled(pixels, mask, rng)
