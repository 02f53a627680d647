"""Small files that would keep a decoder busy for minutes or fill the memory: each is refused by its structure."""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    generate_uid,
)

from firmware_bridge.decode import decode
from firmware_bridge.errors import ImageError

# Of this process. Before these limits the same files took 20 s to 4 minutes; a machine in use takes its time too.
MOST_S = 2.0
BYTES = 30_000_000
GREY = Image.fromarray(np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1)))
ITEM = b"\xfe\xff\x00\xe0\0\0\0\0"


def saved(kind: str) -> bytes:
    buffer = io.BytesIO()
    GREY.save(buffer, kind)
    return buffer.getvalue()


def dicom(*, syntax: str = ExplicitVRLittleEndian, rows: int = 64, columns: int = 64, pixels: bytes = b"") -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["bomb"])
    meta.TransferSyntaxUID = UID(syntax)
    dataset = FileDataset(io.BytesIO(), Dataset(), file_meta=meta, preamble=bytes(128))
    dataset.Rows, dataset.Columns = rows, columns
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = pixels or bytes(2 * 64 * 64)
    dataset["PixelData"].VR = "OW"
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def with_elements(content: bytes, elements: bytes) -> bytes:
    """`elements` before the group of the picture."""
    at = content.index(b"\x28\x00\x02\x00")
    return content[:at] + elements + content[at:]


def sequence(tag: tuple[int, int], body: bytes, *, endless: bool = False) -> bytes:
    length, end = (0xFFFFFFFF, b"\xfe\xff\xdd\xe0\0\0\0\0") if endless else (len(body), b"")
    return struct.pack("<HH2sHI", *tag, b"SQ", 0, length) + body + end


def jpeg_of_comments() -> bytes:
    whole = saved("JPEG")
    return whole[:2] + b"\xff\xfe\0\2" * (BYTES // 4) + whole[2:]


def jpeg_of_empty_scans() -> bytes:
    whole = saved("JPEG")
    at = whole.index(b"\xff\xda")
    return whole[:at] + whole[at:-2] * 200 + whole[-2:]


def png_of_chunks(kind: bytes) -> bytes:
    whole = saved("PNG")
    chunk = struct.pack(">I", 0) + kind + struct.pack(">I", zlib.crc32(kind))
    return whole[:33] + chunk * (BYTES // 12) + whole[33:]


def tiff_of_pages() -> bytes:
    whole = bytearray(saved("TIFF"))
    directory = struct.unpack_from("<I", whole, 4)[0]
    (entries,) = struct.unpack_from("<H", whole, directory)
    end, count = len(whole), BYTES // 18
    struct.pack_into("<I", whole, directory + 2 + 12 * entries, end)
    pages = (struct.pack("<HHHIII", 1, 254, 4, 1, 0, end + 18 * (number + 1)) for number in range(count))
    return bytes(whole) + b"".join(pages)


def tiff_of_strips() -> bytes:
    count = BYTES // 4
    tags = ((256, 64), (257, 64), (258, 8), (259, 1), (262, 1), (277, 1), (278, 64))
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags]
    entries += [struct.pack("<HHII", tag, 4, count, 8 + 2 + 12 * 9 + 4) for tag in (273, 279)]
    head = b"II*\0" + struct.pack("<IH", 8, 9) + b"".join(sorted(entries)) + bytes(4)
    return head + struct.pack("<I", 8) * count


def codestream(side_px: int, *, tile_px: int, components: int = 1) -> bytes:
    """A JPEG 2000 codestream (ITU T.800, annex A) without a picture in it."""
    size = struct.pack(">HIIIIIIIIH", 0, side_px, side_px, 0, 0, tile_px, tile_px, 0, 0, components)
    siz = size + b"\x0b\x01\x01" * components
    cod = struct.pack(">BBHBBBBBB", 0, 0, 1, 0, 5, 4, 4, 0, 1)
    qcd = b"\x40" + bytes(16)
    segments = ((0x51, siz), (0x52, cod), (0x5C, qcd), (0x90, struct.pack(">HIBB", 0, 0, 0, 1)))
    body = b"".join(struct.pack(">BBH", 0xFF, marker, len(text) + 2) + text for marker, text in segments)
    return b"\xff\x4f" + body + b"\xff\x93\xff\xd9"


def jpeg_2000(side_px: int, *, tile_px: int, components: int = 1) -> bytes:
    frame = codestream(side_px, tile_px=tile_px, components=components)
    return dicom(syntax=JPEG2000Lossless, rows=side_px, columns=side_px, pixels=encapsulate([frame]))


def rle(side_px: int, segment: bytes) -> bytes:
    frame = struct.pack("<16I", 2, 64, 64, *[0] * 13) + segment
    return dicom(syntax=RLELossless, rows=side_px, columns=side_px, pixels=encapsulate([frame]))


def long_value(element: int) -> bytes:
    value = b"1\\" * (BYTES // 2)
    return with_elements(dicom(syntax=ImplicitVRLittleEndian), struct.pack("<HHI", 0x28, element, len(value)) + value)


def meta_of_values() -> bytes:
    whole, value = dicom(), b"1\\" * (BYTES // 2)
    at = whole.index(b"\x02\x00\x10\x00UI")
    return whole[:at] + struct.pack("<HH2sHI", 2, 0x10, b"UN", 0, len(value)) + value + whole[at + 28 :]


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "jpeg-comments": (jpeg_of_comments, "4096 segments"),
    "jpeg-scans": (jpeg_of_empty_scans, "32 scans"),
    "png-empty-rows": (lambda: png_of_chunks(b"IDAT"), "20000 chunks"),
    "png-empty-notes": (lambda: png_of_chunks(b"tEXt"), "20000 chunks"),
    "tiff-pages": (tiff_of_pages, "more than 1000 pages"),
    "tiff-strips": (tiff_of_strips, "numbers in tag"),
    "elements": (
        lambda: with_elements(dicom(), struct.pack("<HH2sH", 0x19, 0x1001, b"LO", 0) * (BYTES // 8)),
        "many thousand elements",
    ),
    "items": (
        lambda: with_elements(dicom(), sequence((0x19, 0x1001), ITEM * (BYTES // 8), endless=True)),
        "many thousand elements",
    ),
    "items-of-a-table": (
        lambda: with_elements(dicom(), sequence((0x28, 0x3010), ITEM * (BYTES // 8))),
        "many thousand elements",
    ),
    "nested": (
        lambda: with_elements(
            dicom(),
            (struct.pack("<HH2sHI", 0x19, 0x1001, b"SQ", 0, 0xFFFFFFFF) + ITEM[:4] + b"\xff" * 4) * (BYTES // 20),
        ),
        "cannot be decoded",
    ),
    "window-of-millions": (lambda: long_value(0x1050), "bytes in its WindowCenter"),
    "frames-of-millions": (lambda: long_value(0x0008), "bytes in its NumberOfFrames"),
    "syntax-of-millions": (meta_of_values, "file meta group"),
    "fragments": (
        lambda: dicom(syntax=JPEG2000Lossless, pixels=ITEM * (BYTES // 8) + b"\xfe\xff\xdd\xe0\0\0\0\0"),
        "compressed bytes for 64 x 64|many thousand elements",
    ),
    "rle-of-nothing": (lambda: rle(8000, b"\x81\0"), "compressed bytes for 8000 x 8000"),
    "rle-too-long": (lambda: rle(64, b"\x81\0" * (BYTES // 2)), "compressed bytes for 64 x 64"),
    "components": (lambda: jpeg_2000(2000, tile_px=2000, components=16000), "16000 components"),
    "tiles": (lambda: jpeg_2000(4000, tile_px=1), "cannot be decoded"),
    "raw-of-nothing": (lambda: dicom(rows=8000, columns=8000), "cannot be decoded"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_it_costs_anything(name: str) -> None:
    make, came = BOMBS[name]
    content = make()
    decode(dicom())  # pydicom's import is not the bomb's cost
    start_s = time.process_time()
    with pytest.raises(ImageError, match=came):
        decode(content)
    assert time.process_time() - start_s < MOST_S


def test_fill_bytes_before_a_marker_are_passed_at_once() -> None:
    whole = saved("JPEG")
    start_s = time.process_time()
    assert decode(whole[:2] + b"\xff" * BYTES + whole[2:]).pixels.shape == (64, 64)
    assert time.process_time() - start_s < MOST_S


@pytest.mark.parametrize("element", [(0x19, b"OB"), (0x0009, b"UN")])
def test_a_huge_private_element_is_passed_over(element: tuple[int, bytes]) -> None:
    group, kind = element
    private = struct.pack("<HH2sHI", group, 0x1001, kind, 0, BYTES) + bytes(BYTES)
    assert decode(with_elements(dicom(), private)).pixels.shape == (64, 64)
