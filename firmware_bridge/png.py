"""PNG read as far as its structure: what a file is, and whether all of it is there, before a pixel is made."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from firmware_bridge.headers import Header, damaged, unsupported

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"

# libpng inflates whatever follows the last row, only to drop it: 1 s a megabyte. Above this size it is measured first.
_TRUSTED_DEFLATED_BYTES = 1024 * 1024
# The rows of 32 million grey pixels of 16 bit, twice the largest chest detector.
_KEPT_BYTES = 64 * 1024 * 1024
_STEP_BYTES = 1024 * 1024
# Colour type (table 11.1) to samples a pixel and the sizes that a sample may have, in bits.
_KINDS = {0: (1, (1, 2, 4, 8, 16)), 2: (3, (8, 16)), 3: (1, (1, 2, 4, 8)), 4: (2, (8, 16)), 6: (4, (8, 16))}
_PALETTE = 3
# The smallest that encoders make of a 64 MB file are 4 KB each; every one costs a step of a loop in Python.
_MAX_CHUNKS = 20_000
_GREY_EXPORT = "flatten it: export it as grey without transparency"


@dataclass(frozen=True, slots=True)
class Png:
    """A PNG whose chunks were all there and matched their checksums.

    Attributes:
        header: what it says of its picture.
        data: the whole file.
        start: the payload of its first chunk, IHDR.
        palette: the payload of PLTE, every entry of it grey; empty without one.
        deflated: its compressed rows, as they lie in `data`.
    """

    header: Header
    data: bytes
    start: bytes
    palette: bytes
    deflated: Sequence[memoryview]


def read_png(data: bytes) -> Png:
    """Walk all chunks of a PNG to its end, each against its checksum (W3C PNG, third edition, section 5).

    A palette of greys passes, and so does an alpha channel: some of NIH's X-rays have an opaque one. Whether it is
    opaque is seen when the pixels are decoded.

    Raises:
        UnreadableImage: truncated, or a checksum that does not fit.
        UnsupportedImage: a coloured palette, transparency or animation.
    """
    position, start, exif, palette, transparency = len(PNG_MAGIC), b"", b"", b"", b""
    deflated: list[memoryview] = []
    view = memoryview(data)
    for _ in range(_MAX_CHUNKS):
        if position + 12 > len(data):
            raise damaged("a truncated PNG (no end chunk)")
        length = int.from_bytes(view[position : position + 4], "big")
        kind = bytes(view[position + 4 : position + 8])
        end = position + 8 + length
        if end + 4 > len(data):
            raise damaged("a truncated PNG (a chunk goes beyond the end)")
        if zlib.crc32(view[position + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise damaged(f"a PNG whose checksum does not fit, in the chunk at byte {position}")
        payload = view[position + 8 : end]
        position = end + 4
        if kind == b"IEND":
            break
        if kind == b"IHDR":
            start = bytes(payload)
        elif kind == b"IDAT":
            deflated.append(payload)
        elif kind == b"eXIf":
            exif = bytes(payload)
        elif kind == b"acTL":
            raise unsupported("an animated PNG")
        elif kind == b"PLTE":
            palette = bytes(payload)
        elif kind == b"tRNS":
            transparency = bytes(payload)
    else:
        raise unsupported(f"a PNG of more than {_MAX_CHUNKS} chunks, which only an attack would need")
    if len(start) != 13 or not deflated:
        raise damaged("a PNG without a picture")
    header = _png_header(start, exif=exif)
    if start[9] != _PALETTE:
        palette = b""  # in a colour picture it is a mere suggestion
    else:
        _check_palette(palette)
    # With a palette: one byte of opacity an entry. Otherwise: one colour that is not to be seen.
    if transparency and (not palette or transparency.strip(b"\xff")):
        raise unsupported("a PNG with transparency", do=_GREY_EXPORT)
    return Png(header, data, start, palette, deflated)


def _png_header(start: bytes, *, exif: bytes) -> Header:
    width_px, height_px, bits, colour = struct.unpack(">IIBB", start[:10])
    channels, possible_bits = _KINDS.get(colour, (0, ()))
    if bits not in possible_bits:
        raise damaged("a PNG with an impossible header")
    return Header(width_px=width_px, height_px=height_px, bits=bits, channels=channels, exif=exif)


def _check_palette(palette: bytes) -> None:
    if not palette or len(palette) % 3:
        raise damaged("a PNG without the palette that it needs")
    if not palette[0::3] == palette[1::3] == palette[2::3]:
        raise unsupported("a PNG with a palette of colours", do=_GREY_EXPORT)


def bounded_png(png: Png) -> bytes:
    """The bytes to decode, sure not to inflate to far more than the picture; its size was checked before.

    A small file is handed on as it is. A large one is inflated here to be measured, and handed on with its rows stored
    uncompressed, so that the decoder need not inflate it again: that is half of the time that a PNG takes.

    Raises:
        UnreadableImage: it inflates to far more than its picture, or is damaged.
    """
    if sum(map(len, png.deflated)) <= _TRUSTED_DEFLATED_BYTES:
        return png.data
    header = png.header
    row_bytes = (header.width_px * header.channels * header.bits + 7) // 8 + 1
    # Twice, because seven interlaced passes have more rows, each with a byte of its own.
    rows = _inflated(png.deflated, most_bytes=2 * row_bytes * header.height_px)
    if not rows:
        return png.data
    # Colour profiles and the like are left out: grey levels are taken as they are.
    palette = ((b"PLTE", png.palette),) if png.palette else ()
    chunks = ((b"IHDR", png.start), *palette, (b"IDAT", zlib.compress(b"".join(rows), 0)), (b"IEND", b""))
    return PNG_MAGIC + b"".join(piece for kind, payload in chunks for piece in _chunk(kind, payload))


def _inflated(deflated: Sequence[memoryview], *, most_bytes: int) -> list[bytes]:
    """The pieces of what `deflated` holds; none where it is sound but too large to be kept."""
    inflater, total_bytes = zlib.decompressobj(), 0
    pieces: list[bytes] = []
    for part in deflated:
        rest: bytes | memoryview = part
        while len(rest) > 0 and not inflater.eof:
            try:
                piece = inflater.decompress(rest, _STEP_BYTES)
            except zlib.error as error:
                raise damaged("a PNG whose compressed pixels are damaged") from error
            total_bytes += len(piece)
            if total_bytes > most_bytes:
                raise damaged("a PNG that holds far more data than its picture has")
            if total_bytes <= _KEPT_BYTES:
                pieces.append(piece)
            rest = inflater.unconsumed_tail
    if not inflater.eof:
        raise damaged("a PNG whose compressed pixels end early")
    return pieces if total_bytes <= _KEPT_BYTES else []


def _chunk(kind: bytes, payload: bytes) -> tuple[bytes, ...]:
    """One chunk in pieces, to be joined with others without copying the payload twice."""
    return struct.pack(">I", len(payload)), kind, payload, struct.pack(">I", zlib.crc32(payload, zlib.crc32(kind)))
