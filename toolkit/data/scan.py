"""One look at every file of an index: its hash, a thumbnail, its attributes, or why it cannot be read."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from firmware_bridge.decode import Limits, decode
from firmware_bridge.errors import ImageError
from toolkit.data.index import Index, Xray
from toolkit.data.near_duplicates import THUMBNAIL_PX, is_flat, thumbnail
from toolkit.data.shortcuts import file_attributes
from toolkit.progress import progress


@dataclass(frozen=True, slots=True, eq=False)
class Scanned:
    """One file.

    Attributes:
        row: its row of the index.
        sha256: of its bytes, hex; empty if they could not be read.
        error: why it cannot be decoded; empty if it can.
        thumbnail: (64, 64) uint8, or None.
        attributes: (5,) float64 as `shortcuts.ATTRIBUTES`, or None.
        size_px: width and height of the file, or None.
        flat: whether the picture shows nothing.
    """

    row: Xray
    sha256: str
    error: str = ""
    thumbnail: npt.NDArray[np.uint8] | None = None
    attributes: npt.NDArray[np.float64] | None = None
    size_px: tuple[int, int] | None = None
    flat: bool = False


def scan(index: Index, *, workers: int | None = None) -> Iterator[Scanned]:
    """Look at every file, in the order of the index, in threads: decoding releases the interpreter lock.

    Args:
        index: what to look at.
        workers: threads; None: as many as there are processors.
    """
    pool = ThreadPoolExecutor(workers or os.cpu_count() or 1)
    try:
        yield from progress(pool.map(scan_one, index.rows), "reading X-rays", total=len(index))
    finally:
        # After Ctrl-C the files that wait are not read any more.
        pool.shutdown(cancel_futures=True)


def scan_one(row: Xray) -> Scanned:
    """Look at one file; whatever is wrong with it is in the result."""
    digest = ""
    try:
        data = _bytes_of(row.path)
        digest = hashlib.sha256(data).hexdigest() if data is not None else ""
        # Twice the thumbnail: fine enough to compare, and a JPEG of 2,500 px is decoded at an eighth.
        decoded = decode(row.path if data is None else data, min_side_px=2 * THUMBNAIL_PX)
    except ImageError as error:
        return Scanned(row, digest, f"{error.what} (expected {error.expected}; came {error.came})")
    except OSError as error:
        return Scanned(row, digest, f"cannot be read: {error.strerror or error}")
    small = thumbnail(decoded.pixels)
    width, height = row.width_px or decoded.width_px, row.height_px or decoded.height_px
    attributes = file_attributes(decoded.pixels, width_px=width, height_px=height)
    size = (decoded.width_px, decoded.height_px)
    return Scanned(row, digest, thumbnail=small, attributes=attributes, size_px=size, flat=is_flat(small))


def _bytes_of(path: Path) -> bytes | None:
    """The bytes, or None where the decoder had better look itself: a pipe, a device, a file too large."""
    status = path.stat()
    ordinary = stat.S_ISREG(status.st_mode) and status.st_size <= Limits().max_bytes
    return path.read_bytes() if ordinary else None
