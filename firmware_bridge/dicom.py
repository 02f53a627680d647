"""DICOM to grey levels: modality LUT, then VOI LUT or window, then polarity (PS3.3 C.11.1, C.11.2, C.7.6.3, C.8.11.3).

Only the elements named here are kept; names, ids and dates never leave the parser. pydicom takes half a second to
import, so it is imported when the first DICOM file comes.
"""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from firmware_bridge.codec import decode_jpeg_pixels
from firmware_bridge.dicom_codec import decode_frame
from firmware_bridge.dicom_file import codestream, compressed_frame, looks_like_bare_dicom, read_dataset
from firmware_bridge.dicom_grey import to_grey
from firmware_bridge.errors import ImageError, UnsupportedImage
from firmware_bridge.headers import damaged, read_jpeg_header, unsupported

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from firmware_bridge.decode import Decoded, Limits

__all__ = ["decode_dicom", "looks_like_bare_dicom"]

_EXPORT = "export it as a single grey X-ray (DX or CR), 8 to 16 bit"
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_RLE, _RLE_FACTOR = "1.2.840.10008.1.2.5", 64  # two bytes stand for 128 at most (PS3.5, G.3.1)
_JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
# PS3.3, C.7.6.3.1.2
_PHOTOMETRIC = (
    *("none", "MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "HSV", "ARGB", "CMYK", "XYB"),
    *("YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT"),
)
_AGE = re.compile(r"(\d{1,3})([DWMY]?)")
_A_YEAR = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0, "": 1.0}


def decode_dicom(data: bytes, *, min_side_px: int | None, limits: Limits) -> Decoded:
    """Read one DICOM X-ray; see `firmware_bridge.decode.decode`.

    Raises:
        UnreadableImage: damaged, truncated, or without pixels.
        UnsupportedImage: colour, several frames, or a compression that no installed decoder reads.
        ImageOutOfBounds: too many pixels, or too small.
    """
    if _DEFLATED in data:  # pydicom would inflate it without a bound
        raise unsupported("a deflated DICOM file", do=_EXPORT)
    try:
        import pydicom  # noqa: F401 - is it there?
    except ImportError as error:
        raise UnsupportedImage(
            "DICOM cannot be read here",
            expected="the Python package 'pydicom'",
            came="it is not installed",
            do="pip install 'cxr-edge[dicom]'",
        ) from error
    try:
        with warnings.catch_warnings():
            # pydicom's warnings quote the values of elements, and so could write a name into a log.
            warnings.simplefilter("ignore")
            return _decode(read_dataset(data), min_side_px=min_side_px, limits=limits)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # pydicom and its plugins raise anything on damaged files; it all means the same
        raise damaged(f"a DICOM file that cannot be decoded ({type(error).__name__})") from error


def _decode(dataset: Any, *, min_side_px: int | None, limits: Limits) -> Decoded:
    from firmware_bridge.decode import Decoded, check_size

    _check_kind(dataset)
    width_px, height_px = int(dataset.Columns), int(dataset.Rows)
    check_size(width_px, height_px, limits=limits)
    stored = _stored(dataset, min_side_px=min_side_px)
    return Decoded(
        pixels=to_grey(dataset, stored),
        width_px=width_px,
        height_px=height_px,
        format="dicom",
        view=str(dataset.get("ViewPosition") or "").strip().upper()[:16],
        age_years=_age_years(str(dataset.get("PatientAge") or "")),
        sex=sex if (sex := str(dataset.get("PatientSex") or "").strip().upper()) in ("F", "M", "O") else "",
    )


def _check_kind(dataset: Any) -> None:
    """Refuse by the header what is not one grey picture of 8 to 16 bit."""
    if "PixelData" not in dataset:
        if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
            raise unsupported("a DICOM file with floating point pixels", do=_EXPORT)
        raise damaged("a DICOM file without pixels (a report, a waveform, or a truncated file)")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise unsupported(f"a DICOM file of {frames} frames", do=_EXPORT)
    photometric = str(dataset.get("PhotometricInterpretation", "none"))
    if photometric not in ("MONOCHROME1", "MONOCHROME2") or int(dataset.get("SamplesPerPixel") or 1) != 1:
        # Only a word that the standard knows is repeated: what else stands there can be anything.
        known = photometric if photometric in _PHOTOMETRIC else "of another kind"
        raise unsupported(f"a DICOM file in colour (photometric interpretation {known})", do=_EXPORT)
    if int(dataset.BitsAllocated) not in (8, 16):
        raise unsupported(f"a DICOM file of {int(dataset.BitsAllocated)} bits a pixel", do=_EXPORT)
    stored, high = int(dataset.BitsStored), int(dataset.get("HighBit", dataset.BitsStored - 1))
    if not (0 < stored <= high + 1 <= int(dataset.BitsAllocated)) or dataset.PixelRepresentation not in (0, 1):
        raise damaged(f"a DICOM file with {stored} bits of {dataset.BitsAllocated}, the highest at {high}")


def _stored(dataset: Any, *, min_side_px: int | None) -> NDArray[Any]:
    """The stored values: (H, W) uint8, int8, uint16 or int16; H and W reduced for baseline JPEG only."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if syntax is None:
        if dataset.PixelData[:4] == b"\xfe\xff\x00\xe0":
            raise unsupported("a compressed DICOM file that does not say how (no file meta group)", do=_EXPORT)
        implicit, little = dataset.original_encoding
        native = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.ensure_file_meta()
        dataset.file_meta.TransferSyntaxUID = syntax = ImplicitVRLittleEndian if implicit else native
    if not syntax.is_compressed:
        return _native(dataset)

    frame = compressed_frame(dataset)
    width_px, height_px, bits, components = codestream(frame) or (dataset.Columns, dataset.Rows, dataset.BitsStored, 1)
    if (width_px, height_px) != (dataset.Columns, dataset.Rows):
        raise damaged(f"pixels of {width_px} x {height_px} under a header of {dataset.Columns} x {dataset.Rows}")
    if syntax == _RLE and dataset.Rows * dataset.Columns * (dataset.BitsAllocated // 8) > _RLE_FACTOR * len(frame):
        raise damaged(f"{len(frame)} compressed bytes for {width_px} x {height_px} pixels")
    if components != 1:
        raise damaged(f"pixels of {components} components under a header of one")
    if syntax == _JPEG_BASELINE and dataset.PixelRepresentation == 0:
        return decode_jpeg_pixels(frame, read_jpeg_header(frame), min_side_px=min_side_px)
    if frame.startswith(b"\xff\xd8\xff\xc1") and bits == 12:
        raise unsupported("a DICOM file with 12 bit lossy JPEG, which no free decoder reads", do=_EXPORT)
    return decode_frame(
        frame,
        {
            "syntax": str(syntax),
            "rows": int(dataset.Rows),
            "columns": int(dataset.Columns),
            "bits_allocated": int(dataset.BitsAllocated),
            "bits_stored": int(dataset.BitsStored),
            "signed": int(dataset.PixelRepresentation),
        },
    )


def _native(dataset: Any) -> NDArray[Any]:
    """Uncompressed pixels. Values that are not at the low end of their word (a high bit above the usual) are moved."""
    from pydicom.pixels.utils import pixel_array

    size_bytes = int(dataset.Rows) * int(dataset.Columns) * (int(dataset.BitsAllocated) // 8)
    if len(dataset.PixelData) >= 2 * size_bytes:  # pydicom would make a picture of each such piece
        raise damaged(f"{len(dataset.PixelData)} bytes of pixels under a header of {dataset.Columns} x {dataset.Rows}")
    stored, signed = int(dataset.BitsStored), bool(dataset.PixelRepresentation)
    shift = int(dataset.get("HighBit", stored - 1)) + 1 - stored
    if not shift:
        plain: NDArray[Any] = pixel_array(dataset)
        return plain
    allocated = int(dataset.BitsAllocated)
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = allocated, allocated - 1, 0
    words = (pixel_array(dataset).astype(np.int32) >> shift) & (2**stored - 1)
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = stored, stored - 1, int(signed)
    if signed:
        words -= (words >> (stored - 1)) << stored
    return np.asarray(words, np.int16 if signed else np.uint16)


def _age_years(text: str) -> float | None:
    match = _AGE.fullmatch(text.strip().upper())
    return round(int(match[1]) / _A_YEAR[match[2]], 2) if match else None
