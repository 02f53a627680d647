"""A DICOM file read within bounds: pydicom's work is limited by what it may ask of the file, not by what the file says.

pydicom makes an object of each element, item and fragment. A file of 60 MB can hold seven million of them and nothing
else, which keeps it busy for minutes. An X-ray has a few hundred.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from firmware_bridge.headers import damaged, unsupported

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["codestream", "compressed_frame", "looks_like_bare_dicom", "lut_values", "read_dataset", "read_header"]

_TAGS = (
    *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelIntensityRelationshipSign"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "PresentationLUTShape"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("VOILUTSequence", "VOILUTFunction", "WindowCenter", "WindowWidth"),
    *("ViewPosition", "PatientAge", "PatientSex", "PixelData", "FloatPixelData", "DoubleFloatPixelData"),
)
_SEQUENCES = ("ModalityLUTSequence", "VOILUTSequence")
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
# An element costs two or three reads, 8 KB of compressed pixels one. An X-ray of 500 elements and 64 MB needs 9,500.
_MAX_READS = 20_000
_MAX_VALUE_BYTES = 4096  # of an element that is neither a table nor pixels: numbers, a code, an age
_MAX_LUT_BYTES = 2 * 65536 + 2
_MAX_META_ELEMENTS = 64
_MAX_FRAGMENTS = 10_000  # of one frame; real files have up to some hundreds
_ITEM = b"\xfe\xff\x00\xe0"
_LONG_VRS = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")


def looks_like_bare_dicom(data: bytes) -> bool:
    """Whether `data` begins with an early DICOM element in little endian: a file without preamble and magic."""
    group, element = int.from_bytes(data[0:2], "little"), int.from_bytes(data[2:4], "little")
    return len(data) > 64 and group in (0x0002, 0x0008) and element <= 0x0100


class _Bounded(io.BytesIO):
    """Bytes that may be asked for a limited number of times."""

    left = _MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise OSError("asked too often")
        return super().read(size)


def _bounded(data: bytes, parse: Callable[[_Bounded], Any]) -> Any:
    """What `parse` makes of `data`, as long as that does not take too many reads."""
    reader = _Bounded(data)
    try:
        return parse(reader)
    except Exception as error:  # pydicom makes other errors of ours on its way up
        if reader.left >= 0:
            raise
        raise unsupported(
            "a DICOM file of many thousand elements, which no X-ray has", do="send the X-ray alone"
        ) from error


def read_dataset(data: bytes) -> Any:
    """The elements that a picture needs, as a pydicom dataset; names, ids and dates are skipped unread.

    Raises:
        UnreadableImage: elements that cannot be.
        UnsupportedImage: more elements than an X-ray has.
        Exception: what pydicom raises on damage.
    """
    import pydicom

    _check_meta(data)
    dataset = _bounded(data, lambda reader: pydicom.dcmread(reader, force=True, specific_tags=list(_TAGS)))
    for element in list(dataset.keys()):
        _check_element(dataset, element)
    return dataset


def read_header(data: bytes, keywords: list[str]) -> Any:
    """The named elements, none of them long, as a pydicom dataset; pixels are not read.

    Raises:
        UnreadableImage: an element that is far too long.
        UnsupportedImage: more elements than an X-ray has.
        Exception: what pydicom raises on damage.
    """
    import pydicom

    _check_meta(data)

    def parse(reader: _Bounded) -> Any:
        return pydicom.dcmread(reader, force=True, stop_before_pixels=True, specific_tags=list[Any](keywords))

    dataset = _bounded(data, parse)
    for element in list(dataset.keys()):
        _check_element(dataset, element)
    return dataset


def _check_meta(data: bytes) -> None:
    """Walk the file meta group (PS3.10, 7.1; always explicit little endian), whose values pydicom converts unasked."""
    at = 132 if data[128:132] == b"DICM" else 0
    for _ in range(_MAX_META_ELEMENTS):
        if data[at : at + 2] != b"\x02\x00" or not data[at + 4 : at + 6].isalpha():
            return
        tag, long = data[at + 2 : at + 4], data[at + 4 : at + 6] in _LONG_VRS
        length = int.from_bytes(data[at + 8 : at + 12] if long else data[at + 6 : at + 8], "little")
        if long and tag not in (b"\x01\x00", b"\x02\x01"):  # version, private information
            raise damaged("a DICOM file with a file meta group that cannot be")
        at += (12 if long else 8) + length
    raise damaged(f"a DICOM file with more than {_MAX_META_ELEMENTS} elements of file meta")


def _check_element(dataset: Any, tag: Any) -> None:
    from pydicom.datadict import keyword_for_tag
    from pydicom.dataelem import DataElement, RawDataElement
    from pydicom.filereader import read_sequence

    keyword, element = keyword_for_tag(tag), dataset.get_item(tag)
    if keyword in _PIXELS or not isinstance(element, RawDataElement):
        return
    value = element.value or b""
    if keyword in _SEQUENCES:
        how = (element.is_implicit_VR, element.is_little_endian, len(value), "iso8859")
        items = _bounded(value, lambda reader: read_sequence(reader, *how))
        dataset[tag] = DataElement(tag, "SQ", items)
    elif len(value) > _MAX_VALUE_BYTES:
        raise damaged(f"a DICOM file with {len(value)} bytes in its {keyword}")


def lut_values(item: Any) -> NDArray[np.float64]:
    """The table of one item of a modality or VOI LUT sequence (PS3.3 C.11.1.1): (V,) float64.

    Raises:
        UnreadableImage: far more than a table has.
    """
    raw = item.get_item("LUTData")
    if raw is not None and len(raw.value) > _MAX_LUT_BYTES:
        raise damaged(f"a DICOM file with a lookup table of {len(raw.value)} bytes")
    values = item.LUTData
    if isinstance(values, bytes):  # OW: words, or two entries of 8 bit in each
        values = np.frombuffer(values, "u1" if len(values) == int(item.LUTDescriptor[0]) else "<u2")
    return np.atleast_1d(np.asarray(values, np.float64))


def compressed_frame(dataset: Any) -> bytes:
    """The compressed bytes of the one frame.

    Raises:
        UnreadableImage: far more, or far more pieces, than the picture can have; no fragment at all.
    """
    from pydicom.encaps import get_frame

    most_bytes = 2 * int(dataset.Columns) * int(dataset.Rows) * (int(dataset.BitsAllocated) // 8) + 65536
    if len(dataset.PixelData) > most_bytes + 8 * _MAX_FRAGMENTS:
        raise damaged(f"{len(dataset.PixelData)} compressed bytes for {dataset.Columns} x {dataset.Rows} pixels")
    # Compressed bytes may hold that pattern by chance, but not thousands of times.
    if dataset.PixelData.count(_ITEM) > _MAX_FRAGMENTS:
        raise damaged(f"one picture in more than {_MAX_FRAGMENTS} pieces")
    frame = bytes(get_frame(dataset.PixelData, 0, number_of_frames=1))
    if len(frame) > most_bytes:
        raise damaged(f"{len(frame)} compressed bytes for {dataset.Columns} x {dataset.Rows} pixels")
    return frame


def codestream(frame: bytes) -> tuple[int, int, int, int] | None:
    """Width, height, bits and components as the compressed frame itself says; None where it has no header (RLE).

    A decoder allocates by these, so they are held against the DICOM header first.
    """
    if frame.startswith(b"\xff\x4f\xff\x51"):  # JPEG 2000: SIZ (ITU T.800, A.5.1)
        right, bottom, left, top = (int.from_bytes(frame[at : at + 4], "big") for at in (8, 12, 16, 20))
        return right - left, bottom - top, (frame[42] & 0x7F) + 1, int.from_bytes(frame[40:42], "big")
    position = 2
    while frame.startswith(b"\xff\xd8") and position + 9 < len(frame) and frame[position] == 0xFF:
        marker = frame[position + 1]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):  # a frame header
            height_px, width_px = (int.from_bytes(frame[at : at + 2], "big") for at in (position + 5, position + 7))
            return width_px, height_px, frame[position + 4], frame[position + 9]
        position += 2 + int.from_bytes(frame[position + 2 : position + 4], "big")
    return None
