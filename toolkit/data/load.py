"""X-rays from an index into memory, through the decoder and the preprocessing that the device uses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from firmware_bridge.decode import decode
from firmware_bridge.errors import ImageError, InputError
from firmware_bridge.lungs import LungFinder
from firmware_bridge.preprocess import Prepared, Preparer, Preprocessing
from toolkit.data.index import Xray
from toolkit.files import replacing, write_atomically
from toolkit.progress import progress

Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Loaded:
    """X-rays of one size in memory.

    Attributes:
        rows: the N X-rays that could be read, in the order asked for.
        pixels: (N, S, S) uint8, grey.
        unreadable: path and reason of those that could not.
        masks: (N, S, S) uint8, 0 outside the lungs, where the preprocessing cuts to them.
    """

    rows: tuple[Xray, ...]
    pixels: Grey
    unreadable: tuple[tuple[Path, str], ...]
    masks: Grey | None = None


def geometric_and_tonal(preprocessing: Preprocessing) -> tuple[Preprocessing, Preprocessing | None]:
    """The steps up to the one that sets the size, and those after it (None when there are none).

    Augmentation belongs between them: it changes the exposure that the device's CLAHE will meet.
    """
    cut = 1 + max(i for i, step in enumerate(preprocessing.steps) if "size_px" in dict(step.options))
    tonal = preprocessing.steps[cut:]
    return Preprocessing(preprocessing.steps[:cut]), Preprocessing(tonal) if tonal else None


def stretch_back(pixels: Grey, xray: Xray) -> Grey:
    """`pixels` at the aspect ratio that the X-ray had at its source, where the index knows it and it differs.

    Some public sets were squashed to a square. The shorter side keeps its length, so that nothing is lost: cut to the
    lungs, an X-ray of such a set has few pixels left.
    """
    if not xray.width_px or not xray.height_px:
        return pixels
    height, width = pixels.shape
    aspect = xray.width_px / xray.height_px
    # 3%: rounding when the source was made smaller, not a squash.
    if abs(width / height / aspect - 1) < 0.03:
        return pixels
    side = min(height, width)
    size = (max(1, round(side * aspect)), side) if aspect >= 1 else (side, max(1, round(side / aspect)))
    out: Grey = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    return out


def load_one(xray: Xray, preprocessing: Preprocessing, *, finder: LungFinder | None = None) -> Grey:
    """One X-ray, decoded and preprocessed: (S, S) uint8.

    Raises:
        BundleError: the preprocessing cuts to the lungs, and there is no `finder`.
        ImageError: it cannot be read, or shows no lungs where the preprocessing cuts to them.
    """
    return _prepared(xray, Preparer(preprocessing, finder)).pixels


def _prepared(xray: Xray, preparer: Preparer) -> Prepared:
    decoded = decode(xray.path, min_side_px=preparer.preprocessing.decode_min_side_px)
    return preparer.prepare(stretch_back(decoded.pixels, xray))


def load(
    rows: Sequence[Xray],
    preprocessing: Preprocessing,
    *,
    finder: LungFinder | None = None,
    workers: int = 2,
    cache: Path | None = None,
) -> Loaded:
    """Load many X-rays; those that cannot be read, or show no lungs where there must be some, are left out and named.

    Args:
        rows: what to load.
        preprocessing: as in the bundle.
        finder: finds the lungs, where the preprocessing cuts to them.
        workers: threads; decoding releases the interpreter lock.
        cache: folder for the result, found again by paths, sizes, times, preprocessing and lung network; None keeps
            none.

    Raises:
        InputError: not one X-ray could be read.
    """
    stored = _Cache(cache, rows, preprocessing, finder) if cache else None
    if stored and (found := stored.read(rows)):
        return found
    preparer = Preparer(preprocessing, finder)
    good: list[Xray] = []
    images: list[Grey] = []
    masks: list[Grey] = []
    bad: list[tuple[Path, str]] = []

    def attempt(xray: Xray) -> Prepared | ImageError:
        try:
            return _prepared(xray, preparer)
        except ImageError as error:
            return error

    with ThreadPoolExecutor(max(1, workers)) as pool:
        results = pool.map(attempt, rows)
        for xray, result in progress(zip(rows, results, strict=True), "reading X-rays", total=len(rows)):
            if isinstance(result, ImageError):
                bad.append((xray.path, f"{result.what}: {result.came}"))
            else:
                good.append(xray)
                images.append(result.pixels)
                if (mask := result.lung_mask()) is not None:
                    masks.append(mask)
    if not good:
        raise InputError(
            "none of the X-rays can be read",
            expected=f"{len(rows)} readable JPEG, PNG, TIFF or DICOM files",
            came=f"first problem: {bad[0][0]}: {bad[0][1]}" if bad else "an empty list",
            do="check the paths in the index with: cxr-edge data audit",
        )
    loaded = Loaded(tuple(good), np.stack(images), tuple(bad), np.stack(masks) if masks else None)
    if stored:
        stored.write(loaded, rows)
    return loaded


def identity(xray: Xray) -> bytes:
    """What tells whether an X-ray's file, and how it is stretched back, is still the same, without reading it."""
    try:
        stat = xray.path.stat()
        seen = f"{xray.path}|{stat.st_size}|{stat.st_mtime_ns}|{xray.width_px}x{xray.height_px}\n"
    except OSError as error:
        seen = f"{xray.path}|{error.errno}\n"
    return seen.encode("utf-8", "surrogateescape")


class _Cache:
    """Loaded pixels on disk, under a name made from everything that decides them."""

    def __init__(
        self, folder: Path, rows: Sequence[Xray], preprocessing: Preprocessing, finder: LungFinder | None
    ) -> None:
        digest = hashlib.sha256(json.dumps(preprocessing.to_manifest(), sort_keys=True).encode())
        if finder and preprocessing.needs_lungs:
            digest.update(finder.sha256.encode())
        for xray in rows:
            digest.update(identity(xray))
        self._path = folder / f"{digest.hexdigest()[:24]}.npy"
        self._masks = self._path.with_suffix(".masks.npy")
        self._has_masks = preprocessing.needs_lungs

    def read(self, rows: Sequence[Xray]) -> Loaded | None:
        notes = self._path.with_suffix(".json")
        if not (self._path.is_file() and notes.is_file()):
            return None
        try:
            said = json.loads(notes.read_text(encoding="utf-8"))
            pixels: Grey = np.load(self._path)
            masks: Grey | None = np.load(self._masks) if self._has_masks else None
            bad = {int(i): str(reason) for i, reason in said["unreadable"].items()}
            good = tuple(x for i, x in enumerate(rows) if i not in bad)
            if not good or any(len(held) != len(good) for held in (pixels, masks) if held is not None):
                return None
        except (OSError, ValueError, EOFError, AttributeError, KeyError, TypeError):
            return None  # A cache that cannot be read is made anew.
        return Loaded(
            rows=good,
            pixels=pixels,
            unreadable=tuple((rows[i].path, reason) for i, reason in bad.items()),
            masks=masks,
        )

    def write(self, loaded: Loaded, rows: Sequence[Xray]) -> None:
        reasons = dict(loaded.unreadable)
        bad = {str(i): reasons[x.path] for i, x in enumerate(rows) if x.path in reasons}
        with replacing(self._path) as part:
            np.save(part, loaded.pixels)
        if loaded.masks is not None:
            with replacing(self._masks) as part:
                np.save(part, loaded.masks)
        write_atomically(self._path.with_suffix(".json"), json.dumps({"unreadable": bad}))
