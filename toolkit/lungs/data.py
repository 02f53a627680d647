"""X-rays with human-drawn lung masks, read through the device's decoder, small enough to keep all in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from firmware_bridge.decode import decode
from firmware_bridge.errors import ImageError, InputError
from firmware_bridge.preprocess import Preprocessing
from toolkit.data.index import Xray
from toolkit.data.load import stretch_back
from toolkit.progress import progress

Grey = npt.NDArray[np.uint8]

# A little more than the network sees, so that an enlarged copy is not blurred.
KEPT_PX = 176
INSIDE = 127  # a mask that is brighter says lung


@dataclass(frozen=True, slots=True)
class Masked:
    """X-rays with their masks.

    Attributes:
        rows: the N X-rays that have a mask and could be read.
        pixels: (N, 176, 176) uint8, squashed to a square as the network sees them.
        masks: (N, 176, 176) uint8, 255 inside the lungs.
        left_out: how many had no mask, one that shows nothing, or could not be read.
    """

    rows: tuple[Xray, ...]
    pixels: Grey
    masks: Grey
    left_out: int


def read_masked(rows: Sequence[Xray], *, masks: Path, name: str) -> Masked:
    """Those of `rows` that have a mask in the folder `masks`, under the X-ray's own name with .png.

    Args:
        rows: X-rays of an index.
        masks: folder; a mask covers its X-ray, whatever the sizes of both, and is brighter than 127 inside the lungs.
        name: of the split, for messages.

    Raises:
        InputError: not one X-ray has a mask that shows lungs, or two X-rays would have the same.
    """
    _refuse_shared_names(rows, masks)
    square = Preprocessing.from_manifest({"version": 1, "steps": [{"name": "resize", "size_px": KEPT_PX}]})
    good: list[Xray] = []
    pixels: list[Grey] = []
    drawn: list[Grey] = []
    brightest = -1  # of masks in which nothing counts as lung
    for xray in progress(rows, f"reading X-rays and masks: {name}"):
        mask = masks / f"{xray.path.stem}.png"
        if not mask.is_file():
            continue
        try:
            grey = square.apply(stretch_back(decode(xray.path).pixels, xray))
            area = square.apply(decode(mask).pixels)
        except ImageError:
            continue
        if int(area.max()) <= INSIDE:
            brightest = max(brightest, int(area.max()))
            continue
        good.append(xray)
        pixels.append(grey)
        drawn.append(np.where(area > INSIDE, np.uint8(255), np.uint8(0)))
    if not good:
        raise InputError(
            f"no X-ray of the {name} split has a lung mask",
            expected=f"files such as {masks / 'NAME.png'}, named as their X-rays",
            came=f"{len(rows)} X-rays, none with a mask"
            if brightest < 0
            else f"masks that are nowhere brighter than {brightest} of 255: more than {INSIDE} is inside the lungs",
            do="name the folder of the masks with --masks"
            if brightest < 0
            else "write masks with 255 inside the lungs and 0 outside",
        )
    return Masked(tuple(good), np.stack(pixels), np.stack(drawn), len(rows) - len(good))


def _refuse_shared_names(rows: Sequence[Xray], masks: Path) -> None:
    first: dict[str, Path] = {}
    for xray in rows:
        other = first.setdefault(xray.path.stem, xray.path)
        if other != xray.path and (masks / f"{xray.path.stem}.png").is_file():
            raise InputError(
                "two X-rays would have the same lung mask",
                expected="X-rays of different names, for masks are found by them",
                came=f"{other} and {xray.path}",
                do="rename one of them and its mask, or take one out of the index",
            )


def shrunk(images: Grey, side_px: int) -> Grey:
    """(N, S, S) uint8 to (N, side, side) uint8, averaged."""
    return np.stack(
        [np.asarray(cv2.resize(x, (side_px, side_px), interpolation=cv2.INTER_AREA), np.uint8) for x in images]
    )
