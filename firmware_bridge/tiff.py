"""TIFF through Pillow: rare among X-rays, so imported only when one comes."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from firmware_bridge.errors import ImageOutOfBounds
from firmware_bridge.headers import damaged, unsupported

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
# Pillow makes a Python object of each number in the directory: a file of 60 MB can hold 15 million. A strip a row of
# the tallest picture is far below; what more there may be of bytes (profiles, notes) costs nothing.
_MAX_NUMBERS = 100_000
_MAX_ENTRIES = 1000
_MAX_PAGES = 1000  # counted for the message
_BYTE_TYPES = (1, 2, 6, 7)  # BYTE, ASCII, SBYTE, UNDEFINED (TIFF 6.0, section 2)
_EIGHT_BIT = ("1", "L", "RGB")
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B")


def decode_tiff(data: bytes, *, check: Callable[[int, int], None]) -> NDArray[np.uint8 | np.uint16]:
    """One TIFF as (H, W) uint8 or uint16, upright.

    Args:
        data: the file.
        check: called with width and height (px) before anything is allocated; raises to refuse.

    Raises:
        UnreadableImage: damaged or truncated.
        UnsupportedImage: more than one page, alpha, CMYK, palette, floats.
    """
    from PIL import Image, UnidentifiedImageError

    _check_directories(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damaged tags; what matters raises
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=["TIFF"]) as image:
                check(*image.size)
                return _pixels(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageOutOfBounds(
            "the image has too many pixels",
            expected="one X-ray",
            came="a TIFF of more than 89 million pixels",
            do="export it smaller: the model sees a few hundred pixels a side",
        ) from error
    except UnidentifiedImageError as error:
        raise damaged("a TIFF whose directory cannot be read") from error
    # Pillow's TIFF reader lets many kinds through on damaged directories; all mean the same to a caller.
    except (OSError, ValueError, TypeError, KeyError, IndexError, SyntaxError, EOFError) as error:
        raise damaged(f"a TIFF that cannot be decoded ({type(error).__name__})") from error
    except (AttributeError, ArithmeticError, RuntimeError, AssertionError, struct.error) as error:
        raise damaged(f"a TIFF that cannot be decoded ({type(error).__name__})") from error


def _check_directories(data: bytes) -> None:
    """Walk the image file directories (TIFF 6.0, section 2; BigTIFF) before Pillow makes objects of what they hold."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    offset, count_of, entry, number = (8, "Q", "HHQQ", "Q") if big else (4, "H", "HHII", "I")
    count_bytes, entry_bytes = struct.calcsize("<" + count_of), struct.calcsize("<" + entry)
    try:
        at, pages = struct.unpack_from(order + number, data, offset)[0], 0
        while at and pages <= _MAX_PAGES:
            pages += 1
            entries = struct.unpack_from(order + count_of, data, at)[0]
            if entries > _MAX_ENTRIES:
                raise damaged(f"a TIFF with {entries} entries in its directory")
            start, end = at + count_bytes, at + count_bytes + entries * entry_bytes
            for tag, kind, count, _ in struct.iter_unpack(order + entry, data[start:end]):
                if kind not in _BYTE_TYPES and count > _MAX_NUMBERS:
                    raise unsupported(f"a TIFF with {count} numbers in tag {tag}, which only an attack would need")
            at = struct.unpack_from(order + number, data, end)[0]
    except struct.error as error:
        raise damaged("a TIFF whose directory goes beyond its end") from error
    if pages > 1:
        came = f"{pages}" if pages <= _MAX_PAGES else f"more than {_MAX_PAGES}"
        raise unsupported(f"a TIFF of {came} pages", do="export one X-ray a file")


def _pixels(image: Image) -> NDArray[np.uint8 | np.uint16]:
    if image.mode in _EIGHT_BIT:
        return np.asarray(image.convert("L"), np.uint8)
    if image.mode in _SIXTEEN_BIT:
        white_is_zero = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO
        pixels = np.asarray(image).astype(np.uint16)  # native byte order
        # Pillow turns white-is-zero around for 8 bit, but not for 16.
        return np.invert(pixels) if white_is_zero else pixels
    raise unsupported(f"a TIFF in the colour mode {image.mode}")
