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


def _pixels(image: Image) -> NDArray[np.uint8 | np.uint16]:
    pages = int(getattr(image, "n_frames", 1))
    if pages != 1:
        raise unsupported(f"a TIFF of {pages} pages", do="export one X-ray a file")
    if image.mode in _EIGHT_BIT:
        return np.asarray(image.convert("L"), np.uint8)
    if image.mode in _SIXTEEN_BIT:
        white_is_zero = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO
        pixels = np.asarray(image).astype(np.uint16)  # native byte order
        # Pillow turns white-is-zero around for 8 bit, but not for 16.
        return np.invert(pixels) if white_is_zero else pixels
    raise unsupported(f"a TIFF in the colour mode {image.mode}")
