"""cv2 at its boundary: compressed bytes to grey levels, its ways of failing made one, its silence made loud."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np

from firmware_bridge.headers import Header, damaged, unsupported

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["decode_jpeg_pixels", "decode_png_pixels", "robust_range", "to_uint8"]

_REDUCED = (
    (8, cv2.IMREAD_REDUCED_GRAYSCALE_8),
    (4, cv2.IMREAD_REDUCED_GRAYSCALE_4),
    (2, cv2.IMREAD_REDUCED_GRAYSCALE_2),
)
_FILLED = 128  # what libjpeg draws where data is missing
# Entropy-coded data that no picture ends with; each restart marker too, for files that would wait for one.
_PROBE = b"".join(restart + bytes(range(1, 255)) for restart in (b"", *(bytes((0xFF, 0xD0 + n)) for n in range(8))))


def decode_jpeg_pixels(data: bytes, header: Header, *, min_side_px: int | None) -> NDArray[np.uint8]:
    """The pixels of a JPEG whose header was checked.

    Args:
        data: the file.
        header: its header.
        min_side_px: scale down by 2, 4 or 8 inside the inverse DCT, as long as both sides keep at least this;
            None: full size.

    Returns:
        (H, W) uint8, as stored: EXIF orientation is not applied.

    Raises:
        UnreadableImage: the entropy-coded data is damaged or ends early.
    """
    flags = cv2.IMREAD_GRAYSCALE
    if min_side_px is not None:
        shorter_px = min(header.width_px, header.height_px)
        flags = next((flag for factor, flag in _REDUCED if shorter_px // factor >= min_side_px), flags)
    pixels = _imdecode(data, flags).astype(np.uint8, copy=False)
    if pixels[-1, -1] == _FILLED and _ends_early(data, pixels, flags):
        raise damaged("a JPEG whose lower part is missing (its data ends before its picture)")
    return pixels


def _ends_early(data: bytes, pixels: NDArray[np.uint8], flags: int) -> bool:
    """Whether the entropy-coded data of a JPEG stops before its picture does, although an end marker follows.

    libjpeg then fills up with grey and only warns on standard error. Bytes put in before the end marker tell: a
    complete picture ignores them, an incomplete one is drawn from them.
    """
    end = data.rfind(b"\xff\xd9")
    return not np.array_equal(_imdecode(data[:end] + _PROBE + data[end:], flags), pixels)


def decode_png_pixels(data: bytes, *, alpha: bool = False) -> NDArray[np.uint8]:
    """The pixels of a PNG whose header was checked: (H, W) uint8, 16 bit stretched over its robust range.

    Args:
        data: the file.
        alpha: whether it has an alpha channel, which must be opaque then.

    Raises:
        UnreadableImage: compressed pixels that cannot be decoded.
        UnsupportedImage: some of it is transparent: what lies behind it is not known.
    """
    if alpha:
        _require_opaque(data)
    return to_uint8(_imdecode(data, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH))


def _require_opaque(data: bytes) -> None:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)  # (H, W, 4) uint8 or uint16
    except cv2.error as error:
        raise damaged("compressed pixels that cannot be decoded") from error
    if pixels is None or pixels.ndim != 3 or pixels.shape[2] != 4:
        raise damaged("compressed pixels that cannot be decoded")
    if int(pixels[:, :, 3].min()) < (255 if pixels.dtype == np.uint8 else 65535):
        raise unsupported(
            "a PNG with a transparent part (alpha channel)", do="flatten it: export it as grey without transparency"
        )


def _imdecode(data: bytes, flags: int) -> NDArray[np.uint8 | np.uint16]:
    """(H, W) uint8 or uint16; None and cv2.error become the one error."""
    try:
        # Orientation is ours to apply: which formats cv2 applies it to depends on its version.
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise damaged("compressed pixels that cannot be decoded") from error
    if pixels is None or pixels.ndim != 2:
        raise damaged("compressed pixels that cannot be decoded")
    return cast("NDArray[np.uint8 | np.uint16]", pixels)


def robust_range(values: NDArray[Any]) -> tuple[float, float]:
    """What becomes black and what white: the 0.1th and 99.9th percentile of `values` (any shape), never equal.

    A letter burnt in or a dead detector element at the very end of the range would take the contrast from the lungs.
    """
    low, high = (float(value) for value in np.percentile(values, (0.1, 99.9)))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    return low, max(high, low + 1.0)


def to_uint8(pixels: NDArray[np.uint8 | np.uint16]) -> NDArray[np.uint8]:
    """(H, W) uint8 as it is; (H, W) uint16 stretched over its robust range."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint8, copy=False)
    step = max(1, min(pixels.shape) // 512)  # about 500 x 500 are enough for percentiles
    low, high = robust_range(pixels[::step, ::step])
    # Clipped first: convertScaleAbs takes the absolute value of what falls below zero.
    clipped = np.clip(pixels, int(low), int(np.ceil(high)))
    scale = 255.0 / (high - low)
    return np.asarray(cv2.convertScaleAbs(clipped, alpha=scale, beta=-low * scale), np.uint8)
