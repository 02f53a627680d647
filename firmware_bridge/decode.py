"""One X-ray file to grey levels: JPEG, PNG, TIFF or DICOM, told apart by content and never by name.

The header is judged before anything is allocated, a JPEG is scaled down inside its DCT when the model needs less, and
whatever is wrong comes out as one of three errors. Training and the device read through this one function.

The errors name no file: on a device they leave it with the results, and file names hold patients' names. Who shows
an error to a person adds the name.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from firmware_bridge.codec import decode_jpeg_pixels, decode_png_pixels, to_uint8
from firmware_bridge.errors import ImageError, ImageOutOfBounds, UnreadableImage
from firmware_bridge.headers import (
    JPEG_MAGIC,
    Header,
    damaged,
    exif_orientation,
    read_jpeg_header,
    unsupported,
)
from firmware_bridge.png import PNG_MAGIC, bounded_png, read_png

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Decoded", "Limits", "decode"]

_TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Told by name so that the message helps; what is not here is "not an image that is known".
_FOREIGN = {
    b"GIF8": "a GIF",
    b"BM": "a Windows bitmap (BMP)",
    b"RIFF": "a WebP or another RIFF file",
    b"\0\0\0\x0cjP  ": "a JPEG 2000 file outside DICOM",
    b"\xff\x4f\xff\x51": "a JPEG 2000 file outside DICOM",
    b"\xff\x0a": "a JPEG XL",
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"\x76\x2f\x31\x01": "an OpenEXR",
    b"8BPS": "a Photoshop file",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What is refused before it costs time or memory.

    Attributes:
        max_pixels: width times height. 64 million is four times the largest chest detector (about 4,300 x 3,600).
        max_bytes: of the file. A raw 16 bit DICOM of such a detector has 31 million.
        min_side_px: of the shorter side; less holds no lungs.
    """

    max_pixels: int = 64_000_000
    max_bytes: int = 64 * 1024 * 1024
    min_side_px: int = 32


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """One X-ray as grey levels.

    Attributes:
        pixels: (H, W) uint8, C-contiguous; dark where much radiation came through (lungs dark, bones bright).
            H and W may be 1/2, 1/4 or 1/8 of the original's.
        width_px: of the original, upright.
        height_px: of the original, upright.
        format: "jpeg", "png", "tiff" or "dicom".
        view: DICOM view position ("PA", "AP", "LL", ...), else empty.
        age_years: from DICOM, else None.
        sex: "F", "M", "O" from DICOM, else empty.
    """

    pixels: NDArray[np.uint8]
    width_px: int
    height_px: int
    format: str
    view: str = ""
    age_years: float | None = None
    sex: str = ""


def decode(source: Path | bytes, *, min_side_px: int | None = None, limits: Limits = DEFAULT_LIMITS) -> Decoded:
    """Read one X-ray.

    EXIF orientation is applied, in every format, so that a photographed film stands as every viewer shows it.
    16 bit pixels without a window are stretched from their 0.1th to their 99.9th percentile: the container does not
    tell how many bits are used, and 12 bit in 16 would come out nearly black.

    Args:
        source: a file, or its bytes.
        min_side_px: a JPEG may come back reduced, as long as both sides keep at least this. None: full size.
        limits: see `Limits`.

    Raises:
        UnreadableImage: missing, empty, damaged, truncated, or not an image.
        UnsupportedImage: whole, but of a kind that is not taken.
        ImageOutOfBounds: too many bytes or pixels, or too small.
    """
    data = _read(source, limits=limits) if isinstance(source, Path) else bytes(source)
    _check_bytes(len(data), limits=limits)
    try:
        decoded = _decode(data, min_side_px=min_side_px, limits=limits)
        # Everything behind this relies on it, and a failure there would cost more than this one file.
        if decoded.pixels.ndim != 2 or decoded.pixels.dtype != np.uint8 or not decoded.pixels.size:
            raise damaged("pixels that are no one grey picture")
        return decoded
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageOutOfBounds(
            "the image needs more memory than there is",
            expected="an image that fits into memory",
            came=f"a file of {len(data)} bytes",
            do="export it smaller, or free memory",
        ) from error


def _decode(data: bytes, *, min_side_px: int | None, limits: Limits) -> Decoded:
    # DICOM first: its preamble may hold a TIFF header, so that one file is both (PS3.10, 7.1).
    if data[128:132] == b"DICM":
        from firmware_bridge.dicom import decode_dicom

        return decode_dicom(data, min_side_px=min_side_px, limits=limits)
    if data.startswith(JPEG_MAGIC):
        return _decode_jpeg(data, min_side_px=min_side_px, limits=limits)
    if data.startswith(PNG_MAGIC):
        return _decode_png(data, limits=limits)
    if data.startswith(_TIFF_MAGICS):
        from firmware_bridge.tiff import decode_tiff

        pixels = decode_tiff(data, check=lambda width, height: check_size(width, height, limits=limits))
        height, width = pixels.shape
        return Decoded(to_uint8(pixels), width, height, "tiff")
    for magic, name in _FOREIGN.items():
        if data.startswith(magic):
            raise unsupported(name)
    if data[4:8] == b"ftyp":
        raise unsupported("a HEIC, AVIF or video file")
    from firmware_bridge.dicom import decode_dicom, looks_like_bare_dicom

    if looks_like_bare_dicom(data):
        return decode_dicom(data, min_side_px=min_side_px, limits=limits)
    raise UnreadableImage(
        "this is not an image",
        expected="a JPEG, PNG, TIFF or DICOM file",
        came=f"{len(data)} bytes of something else" + (", all zero" if not data.strip(b"\0") else ""),
        do="check what wrote this file; a copy that broke off can look like this",
    )


def _read(path: Path, *, limits: Limits) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImage(
                "this is not a file", expected="a regular file", came="a folder, pipe or device", do="name a file"
            )
        _check_bytes(status.st_size, limits=limits)
        # Bounded, because the file may be growing; by its size, because a buffer for the most that is allowed would be
        # mapped and given back for each file, at six times the cost of the read.
        with path.open("rb") as file:
            return file.read(status.st_size + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UnreadableImage(
            "the file cannot be opened",
            expected="a file that this user may read",
            came=str(reason),
            do="check that it exists and its permissions",
        ) from error


def _check_bytes(size_bytes: int, *, limits: Limits) -> None:
    if size_bytes == 0:
        raise UnreadableImage(
            "the file is empty", expected="an image", came="0 bytes", do="copy it again; a copy that broke off"
        )
    if size_bytes > limits.max_bytes:
        raise ImageOutOfBounds(
            "the file is too large",
            expected=f"at most {limits.max_bytes} bytes",
            came=f"{size_bytes} bytes",
            do="export a single X-ray, compressed",
        )


def check_size(width_px: int, height_px: int, *, limits: Limits, max_pixels: int | None = None) -> None:
    """Refuse a picture by its sides, before it is decoded.

    Raises:
        ImageOutOfBounds: too many pixels, or a side too short.
    """
    most = limits.max_pixels if max_pixels is None else max_pixels
    if width_px * height_px > most:
        raise ImageOutOfBounds(
            "the image has too many pixels",
            expected=f"at most {most} pixels",
            came=f"{width_px} x {height_px}",
            do="export it smaller: the model sees a few hundred pixels a side",
        )
    if min(width_px, height_px) < limits.min_side_px:
        raise ImageOutOfBounds(
            "the image is too small",
            expected=f"both sides at least {limits.min_side_px} pixels",
            came=f"{width_px} x {height_px}",
            do="give the X-ray itself, not a thumbnail or an icon",
        )


def _decode_jpeg(data: bytes, *, min_side_px: int | None, limits: Limits) -> Decoded:
    header = read_jpeg_header(data)
    # A progressive JPEG keeps 2 bytes a coefficient in memory, and each scan passes over all of them.
    most = limits.max_pixels // 4 if header.progressive else limits.max_pixels
    check_size(header.width_px, header.height_px, limits=limits, max_pixels=most)
    pixels = decode_jpeg_pixels(data, header, min_side_px=min_side_px)
    return _upright(pixels, header, "jpeg")


def _decode_png(data: bytes, *, limits: Limits) -> Decoded:
    png = read_png(data)
    alpha = png.header.channels in (2, 4)
    # Its opacity is looked at in four samples a pixel, of which only one is kept.
    most = limits.max_pixels // 4 if alpha else limits.max_pixels
    check_size(png.header.width_px, png.header.height_px, limits=limits, max_pixels=most)
    pixels = decode_png_pixels(bounded_png(png), alpha=alpha)
    return _upright(pixels, png.header, "png")


def _upright(pixels: NDArray[np.uint8], header: Header, name: str) -> Decoded:
    orientation = exif_orientation(header.exif) if header.exif else 1
    width, height = header.width_px, header.height_px
    if orientation >= 5:  # these transpose (EXIF 2.32, tag 274)
        pixels = pixels.T
        width, height = height, width
    # What is left after the transposition, as (flip rows, flip columns).
    rows, columns = {2: (0, 1), 3: (1, 1), 4: (1, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}.get(orientation, (0, 0))
    pixels = pixels[:: -1 if rows else 1, :: -1 if columns else 1]
    return Decoded(np.ascontiguousarray(pixels), width, height, name)
