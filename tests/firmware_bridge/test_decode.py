from __future__ import annotations

import io
import os
import pickle
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from firmware_bridge.codec import to_uint8
from firmware_bridge.decode import Decoded, Limits, decode
from firmware_bridge.errors import ImageError, ImageOutOfBounds, UnreadableImage, UnsupportedImage

HEIGHT_PX, WIDTH_PX = 480, 640


def picture(height_px: int = HEIGHT_PX, width_px: int = WIDTH_PX) -> np.ndarray:
    """(H, W) uint8: smooth, dark at the left, bright at the right, with a bright square top left."""
    grey = np.tile(np.linspace(20, 235, width_px), (height_px, 1))
    grey[: height_px // 8, : width_px // 8] = 250
    return cv2.GaussianBlur(grey.astype(np.uint8), (0, 0), 2)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


GREY = Image.fromarray(picture())
SIXTEEN = Image.fromarray(picture().astype(np.uint16) * 16)  # 12 bit in 16, as X-ray exports have it


@pytest.mark.parametrize(
    ("content", "kind", "tolerance"),
    [
        pytest.param(saved(GREY, "JPEG", quality=95), "jpeg", 3, id="jpeg"),
        pytest.param(saved(GREY, "JPEG", quality=95, progressive=True), "jpeg", 3, id="progressive"),
        pytest.param(saved(GREY.convert("RGB"), "JPEG", quality=95), "jpeg", 3, id="colour-jpeg"),
        pytest.param(saved(GREY, "JPEG", quality=95, restart_marker_blocks=7), "jpeg", 3, id="restart-markers"),
        pytest.param(saved(GREY, "JPEG", quality=95) + b"\0" * 99, "jpeg", 3, id="bytes-after-the-end"),
        pytest.param(saved(GREY, "PNG"), "png", 0, id="png"),
        pytest.param(saved(GREY.convert("RGB"), "PNG"), "png", 1, id="colour-png"),
        pytest.param(saved(GREY.convert("RGBA"), "PNG"), "png", 1, id="opaque-rgba-png"),
        pytest.param(saved(GREY.convert("LA"), "PNG"), "png", 1, id="opaque-grey-alpha-png"),
        pytest.param(saved(GREY.convert("P"), "PNG"), "png", 0, id="grey-palette-png"),
        pytest.param(saved(GREY.convert("P"), "PNG", transparency=b"\xff" * 256), "png", 0, id="opaque-palette-png"),
        pytest.param(saved(GREY, "TIFF"), "tiff", 0, id="tiff"),
        pytest.param(saved(GREY, "TIFF", compression="tiff_lzw"), "tiff", 0, id="tiff-lzw"),
        pytest.param(saved(GREY, "TIFF", compression="jpeg", quality=95), "tiff", 3, id="tiff-jpeg"),
        pytest.param(saved(GREY.convert("RGB"), "TIFF"), "tiff", 1, id="colour-tiff"),
    ],
)
def test_every_kind_comes_out_as_the_same_grey_levels(content: bytes, kind: str, tolerance: int) -> None:
    decoded = decode(content)
    assert (decoded.format, decoded.width_px, decoded.height_px) == (kind, WIDTH_PX, HEIGHT_PX)
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.flags.c_contiguous
    assert np.abs(decoded.pixels.astype(int) - picture().astype(int)).max() <= tolerance
    assert (decoded.view, decoded.age_years, decoded.sex) == ("", None, "")


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_use_the_whole_range_although_only_twelve_are_filled(kind: str) -> None:
    pixels = decode(saved(SIXTEEN, kind)).pixels
    assert (pixels.min(), pixels.max()) == (0, 255)
    expected = np.interp(picture(), (picture().min(), picture().max()), (0, 255))
    assert np.abs(pixels - expected).max() <= 2


def test_a_burnt_in_letter_does_not_take_the_contrast() -> None:
    levels = picture().astype(np.uint16)  # 8 bit used ...
    levels[5:8, 5:8] = 65535  # ... and nine pixels at the very end of the container
    pixels = decode(saved(Image.fromarray(levels), "PNG")).pixels
    assert pixels[100:].max() > 230


def test_a_flat_sixteen_bit_picture_is_no_division_by_zero() -> None:
    assert decode(saved(Image.fromarray(np.full((64, 64), 700, np.uint16)), "PNG")).pixels.max() == 0


def test_white_is_zero_tiffs_are_turned_around() -> None:
    whole = bytearray(saved(SIXTEEN, "TIFF"))
    at = whole.index(struct.pack("<HHI", 262, 3, 1))  # photometric interpretation
    whole[at + 8 : at + 10] = struct.pack("<H", 0)
    inverted = 255 - decode(bytes(whole)).pixels.astype(int)
    assert np.abs(inverted - decode(saved(SIXTEEN, "TIFF")).pixels).max() <= 1


@pytest.mark.parametrize(
    ("sides", "min_side_px", "expected"),
    [
        ((1800, 3600), None, (1800, 3600)),
        ((1800, 3600), 448, (450, 900)),  # a quarter
        ((1800, 3600), 451, (900, 1800)),
        ((1800, 3600), 225, (225, 450)),  # an eighth
        ((1800, 3600), 901, (1800, 3600)),
        ((901, 1201), 300, (451, 601)),
    ],
)
def test_a_jpeg_is_reduced_as_far_as_both_sides_allow(
    sides: tuple[int, int], min_side_px: int | None, expected: tuple[int, int]
) -> None:
    decoded = decode(saved(Image.fromarray(picture(*sides)), "JPEG"), min_side_px=min_side_px)
    assert decoded.pixels.shape == expected
    assert (decoded.height_px, decoded.width_px) == sides
    if min_side_px is not None:
        assert min(decoded.pixels.shape) >= min_side_px


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation_is_applied_in_every_format_alike(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    content = saved(GREY, kind, exif=exif)
    with Image.open(io.BytesIO(content)) as image:
        from PIL import ImageOps

        upright = np.asarray(ImageOps.exif_transpose(image).convert("L"))
    decoded = decode(content)
    assert (decoded.height_px, decoded.width_px) == upright.shape
    assert np.abs(decoded.pixels.astype(int) - upright.astype(int)).max() <= 3
    assert decoded.pixels.flags.c_contiguous


@pytest.mark.parametrize("exif", [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff" + b"\1\x12" * 9])
def test_a_damaged_exif_block_counts_as_upright(exif: bytes) -> None:
    jpeg = saved(GREY, "JPEG")
    segment = b"Exif\0\0" + exif
    content = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]
    assert decode(content).pixels.shape == (HEIGHT_PX, WIDTH_PX)


def png(width_px: int, height_px: int, *, bits: int = 8, colour: int = 0, extra: bytes = b"") -> bytes:
    """A whole PNG of a few bytes that claims any size."""

    def chunk(kind: bytes, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))

    header = struct.pack(">IIBBBBB", width_px, height_px, bits, colour, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + pixels + chunk(b"IEND", b"")


def huge_jpeg() -> bytes:
    content = bytearray(saved(GREY, "JPEG"))
    at = content.index(b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", 30000, 30000)
    return bytes(content)


def many_scans() -> bytes:
    content = saved(GREY, "JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * 1000 + b"\xff\xd9"


def inflating_png() -> bytes:
    """64 x 64 pixels, whose compressed data holds 2 GB behind them."""
    squeeze = zlib.compressobj(9)
    start = squeeze.compress(bytes(1 << 20)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    block = squeeze.compress(bytes(1 << 20)) + squeeze.flush(zlib.Z_FULL_FLUSH)  # stands alone, so it can be repeated
    whole = png(64, 64)
    at = whole.index(b"IDAT") - 4
    payload = b"IDAT" + start + block * 2000
    end = b"\0\0\0\0IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    return whole[:at] + struct.pack(">I", len(payload) - 4) + payload + struct.pack(">I", zlib.crc32(payload)) + end


def see_through(mode: str) -> Image.Image:
    """GREY with an alpha channel that is opaque but for one pixel."""
    image = GREY.convert(mode)
    alpha = Image.new("L", image.size, 255)
    alpha.putpixel((5, 5), 254)
    image.putalpha(alpha)
    return image


COLOURED = Image.merge("RGB", [GREY, GREY, Image.new("L", GREY.size, 90)])
FRAMES = [Image.fromarray(picture(64, 64)), Image.fromarray(picture(64, 64)[:, ::-1])]
BAD: list[tuple[str, bytes, type[ImageError], str]] = [
    ("zero-byte", b"", UnreadableImage, "0 bytes"),
    ("zeros", bytes(5000), UnreadableImage, "all zero"),
    ("text", b"patient,label\n" * 50, UnreadableImage, "something else"),
    ("one-byte", b"\xff", UnreadableImage, "something else"),
    ("jpeg-magic-alone", b"\xff\xd8\xff", UnreadableImage, "truncated"),
    ("png-magic-alone", b"\x89PNG\r\n\x1a\n", UnreadableImage, "truncated"),
    ("tiff-magic-alone", b"II*\0", UnreadableImage, "TIFF"),
    ("1x1-png", saved(Image.new("L", (1, 1)), "PNG"), ImageOutOfBounds, "1 x 1"),
    ("1x1-jpeg", saved(Image.new("L", (1, 1)), "JPEG"), ImageOutOfBounds, "1 x 1"),
    ("1x1-tiff", saved(Image.new("L", (1, 1)), "TIFF"), ImageOutOfBounds, "1 x 1"),
    ("0x0-png", png(0, 0), ImageOutOfBounds, "0 x 0"),
    ("30000x30000-png", png(30000, 30000), ImageOutOfBounds, "30000 x 30000"),
    ("30000x30000-jpeg", huge_jpeg(), ImageOutOfBounds, "30000 x 30000"),
    ("greatest-png", png(2**31 - 1, 2**31 - 1), ImageOutOfBounds, "2147483647"),
    ("rgba-png", saved(see_through("RGBA"), "PNG"), UnsupportedImage, "transparent"),
    ("grey-alpha-png", saved(see_through("LA"), "PNG"), UnsupportedImage, "transparent"),
    ("palette-png", saved(COLOURED.quantize(8), "PNG"), UnsupportedImage, "palette of colours"),
    ("see-through-palette", saved(GREY.convert("P"), "PNG", transparency=7), UnsupportedImage, "transparency"),
    ("transparent-png", saved(GREY, "PNG", transparency=3), UnsupportedImage, "transparency"),
    ("animated-png", saved(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]), UnsupportedImage, "animated"),
    ("cmyk-jpeg", saved(GREY.convert("CMYK"), "JPEG"), UnsupportedImage, "CMYK"),
    ("cmyk-tiff", saved(GREY.convert("CMYK"), "TIFF"), UnsupportedImage, "CMYK"),
    ("rgba-tiff", saved(GREY.convert("RGBA"), "TIFF"), UnsupportedImage, "RGBA"),
    ("palette-tiff", saved(GREY.convert("P"), "TIFF"), UnsupportedImage, "mode P"),
    ("float-tiff", saved(GREY.convert("F"), "TIFF"), UnsupportedImage, "mode F"),
    ("two-page-tiff", saved(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]), UnsupportedImage, "2 pages"),
    ("gif", saved(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), UnsupportedImage, "GIF"),
    ("bmp", saved(GREY, "BMP"), UnsupportedImage, "BMP"),
    ("webp", saved(GREY.convert("RGB"), "WEBP"), UnsupportedImage, "WebP"),
    ("pdf", b"%PDF-1.7\n" + bytes(100), UnsupportedImage, "PDF"),
    ("many-scans", many_scans(), UnsupportedImage, "scans"),
    ("inflating-png", inflating_png(), UnreadableImage, "far more data"),
]


@pytest.mark.parametrize(("content", "kind", "came"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input_is_refused_quickly_with_what_came_and_what_to_do(
    content: bytes, kind: type[ImageError], came: str
) -> None:
    start_s = time.perf_counter()
    with pytest.raises(ImageError) as caught:
        decode(content)
    assert time.perf_counter() - start_s < 2
    assert type(caught.value) is kind
    assert came in caught.value.came
    assert caught.value.expected
    assert caught.value.do
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301 - our own bytes


def test_a_huge_header_is_refused_within_milliseconds() -> None:
    content, taken_s = png(30000, 30000), []
    for _ in range(10):  # the best of ten, because other programs may run beside
        start_s = time.perf_counter()
        with pytest.raises(ImageOutOfBounds):
            decode(content)
        taken_s.append(time.perf_counter() - start_s)
    assert min(taken_s) < 0.005


@pytest.mark.parametrize("share", [0.001, 0.02, 0.3, 0.5, 0.9, 0.99, 0.9999])
@pytest.mark.parametrize(
    "whole",
    [
        pytest.param(saved(GREY, "JPEG"), id="jpeg"),
        pytest.param(saved(GREY, "JPEG", progressive=True), id="progressive"),
        pytest.param(saved(GREY, "PNG"), id="png"),
        pytest.param(saved(GREY, "TIFF"), id="tiff"),
        pytest.param(saved(GREY, "TIFF", compression="tiff_lzw"), id="tiff-lzw"),
    ],
)
def test_truncation_is_always_seen(whole: bytes, share: float) -> None:
    with pytest.raises(UnreadableImage):
        decode(whole[: max(4, int(len(whole) * share))])


@pytest.mark.parametrize("options", [{}, {"restart_marker_blocks": 5}, {"optimize": True}], ids=str)
@pytest.mark.parametrize("share", [0.4, 0.6, 0.8, 0.97])
def test_a_jpeg_that_was_cut_and_closed_again_is_seen(share: float, options: dict[str, object]) -> None:
    noisy = picture() // 2 + np.random.default_rng(5).integers(0, 90, (HEIGHT_PX, WIDTH_PX)).astype(np.uint8)
    whole = saved(Image.fromarray(noisy), "JPEG", quality=90, **options)
    with pytest.raises(UnreadableImage, match="lower part is missing"):
        decode(whole[: int(len(whole) * share)].rstrip(b"\xff") + b"\xff\xd9")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 5}], ids=str)
def test_a_corner_that_really_is_mid_grey_is_no_truncation(options: dict[str, object]) -> None:
    grey = picture()
    grey[-64:, -64:] = 128
    for image in (Image.fromarray(grey), Image.fromarray(grey).convert("RGB")):
        assert decode(saved(image, "JPEG", **options)).pixels[-1, -1] == 128


def test_a_flipped_bit_in_a_png_is_seen() -> None:
    content = bytearray(saved(GREY, "PNG"))
    content[len(content) // 2] ^= 1
    with pytest.raises(UnreadableImage, match="checksum"):
        decode(bytes(content))


def noisy(dtype: type[np.generic]) -> np.ndarray:
    """(1200, 1400) that deflates to more than what is trusted unmeasured."""
    return np.random.default_rng(6).integers(0, np.iinfo(dtype).max, (1200, 1400)).astype(dtype)


@pytest.mark.parametrize("options", [{}, {"compress_level": 9}, {"gamma": 0.45455}], ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_large_png_gives_the_pixels_that_plain_opencv_gives(dtype: type[np.generic], options: dict[str, int]) -> None:
    if "gamma" in options:
        info = PngInfo()
        info.add(b"gAMA", struct.pack(">I", 45455))
        options = {"pnginfo": info}
    grey = noisy(dtype)
    content = saved(Image.fromarray(grey), "PNG", **options)
    assert len(content) > 1 << 20
    assert np.array_equal(decode(content).pixels, to_uint8(grey))


def test_a_large_colour_png_is_read() -> None:
    grey = noisy(np.uint8)
    colour = Image.fromarray(np.dstack([grey] * 3))
    assert np.abs(decode(saved(colour, "PNG")).pixels.astype(int) - grey).max() <= 1


@pytest.mark.parametrize("mode", ["P", "LA", "RGBA"])
def test_a_large_png_with_a_palette_or_opaque_alpha_is_read_as_its_grey(mode: str) -> None:
    pixels = noisy(np.uint8)
    content = saved(Image.fromarray(pixels).convert(mode), "PNG", compress_level=1)
    assert len(content) > 1_100_000
    assert np.array_equal(decode(content).pixels, pixels)


def test_sixteen_bit_alpha_is_looked_at() -> None:
    pixels = np.dstack([picture().astype(np.uint16) * 256] * 3 + [np.full((HEIGHT_PX, WIDTH_PX), 65535, np.uint16)])
    assert decode(cv2.imencode(".png", pixels)[1].tobytes()).pixels.std() > 10
    pixels[3, 3, 3] = 65534
    with pytest.raises(UnsupportedImage):
        decode(cv2.imencode(".png", pixels)[1].tobytes())


def test_alpha_takes_four_times_the_memory_and_so_a_quarter_of_the_pixels() -> None:
    with pytest.raises(ImageOutOfBounds, match="16000000"):
        decode(png(6000, 6000, colour=6))


def test_a_palette_that_is_missing_is_damage() -> None:
    with pytest.raises(UnreadableImage, match="palette"):
        decode(png(64, 64, colour=3))


def test_a_large_png_whose_compressed_rows_end_early_is_seen() -> None:
    whole = saved(Image.fromarray(noisy(np.uint8)), "PNG")
    rows = zlib.compress(bytes(1401) + bytes(range(256)) * 4000, 0)  # 731 rows of 1,200
    for payload in (rows, rows[:-5000]):
        chunk = struct.pack(">I", len(payload)) + b"IDAT" + payload
        chunk += struct.pack(">I", zlib.crc32(b"IDAT" + payload))
        with pytest.raises(UnreadableImage):
            decode(whole[:33] + chunk + whole[-12:])


def test_content_decides_and_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "Müller, née O'Hara\n2.dcm.png"
    path.write_bytes(saved(GREY, "JPEG"))
    assert decode(path).format == "jpeg"


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda _: None, id="missing"),
        pytest.param(lambda path: path.mkdir(), id="folder"),
        pytest.param(os.mkfifo, id="pipe"),
        pytest.param(lambda path: path.touch(), id="empty"),
        pytest.param(lambda path: path.symlink_to(path), id="link-to-itself"),
    ],
)
def test_what_is_no_file_is_refused_without_hanging(tmp_path: Path, make: Callable[[Path], object]) -> None:
    path = tmp_path / "doe_john_1950.png"
    make(path)
    with pytest.raises(UnreadableImage) as caught:
        decode(path)
    assert "doe" not in str(caught.value)  # errors leave the device; file names hold patients' names


def test_limits_are_kept() -> None:
    content = saved(GREY, "PNG")
    with pytest.raises(ImageOutOfBounds, match="too large"):
        decode(content, limits=Limits(max_bytes=len(content) - 1))
    with pytest.raises(ImageOutOfBounds, match="too many pixels"):
        decode(content, limits=Limits(max_pixels=WIDTH_PX * HEIGHT_PX - 1))
    with pytest.raises(ImageOutOfBounds, match="too small"):
        decode(content, limits=Limits(min_side_px=HEIGHT_PX + 1))
    assert isinstance(decode(content, limits=Limits(max_pixels=WIDTH_PX * HEIGHT_PX)), Decoded)


def test_a_file_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.png"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ImageOutOfBounds):
        decode(path)


def test_all_samples_decode(samples: Path) -> None:
    files = [path for path in samples.rglob("*") if path.suffix in (".jpeg", ".jpg", ".png", ".dcm")]
    assert len(files) >= 60
    for path in files:
        decoded = decode(path, min_side_px=448)
        assert 10 < decoded.pixels.mean() < 245, path.name


def test_all_real_x_rays_decode(big_data: Path) -> None:
    files = [path for folder in ("nih", "ieee8023") for path in (big_data / folder / "images").iterdir()]
    for path in [*files, *(big_data / "originals").iterdir()]:
        assert decode(path, min_side_px=448).pixels.std() > 5, path.name
