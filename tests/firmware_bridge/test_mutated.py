"""A few hundred damaged files: only our errors come out, or a picture, and never late."""

from __future__ import annotations

import io
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from firmware_bridge.decode import decode
from firmware_bridge.errors import ImageError

MOST_S = 2.0
ROUNDS = 40
Mutation = Callable[[bytearray, random.Random], None]


def cut(content: bytearray, rng: random.Random) -> None:
    del content[rng.randrange(1, len(content)) :]


def flip_in_header(content: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randrange(1, 5)):
        content[rng.randrange(min(len(content), 1500))] ^= 1 << rng.randrange(8)


def overwrite(content: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randrange(1, 20)):
        content[rng.randrange(len(content))] = rng.randrange(256)


def zero_a_block(content: bytearray, rng: random.Random) -> None:
    start, length = rng.randrange(len(content)), rng.randrange(1, 4096)
    content[start : start + length] = bytes(min(length, len(content) - start))


def drop_a_block(content: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(content))
    del content[start : start + rng.randrange(1, 64)]


MUTATIONS: tuple[Mutation, ...] = (cut, flip_in_header, overwrite, zero_a_block, drop_a_block)


def assert_harmless(whole: bytes, rng: random.Random, *, rounds: int) -> None:
    for number in range(rounds):
        content = bytearray(whole)
        MUTATIONS[number % len(MUTATIONS)](content, rng)
        start_s = time.process_time()  # of this process: other programs may run beside
        refused: ImageError | None = None
        try:
            pixels = decode(bytes(content), min_side_px=448).pixels
        except ImageError as error:
            refused = error
        if refused is not None:
            assert refused.came
            assert refused.do
        else:
            assert pixels.ndim == 2
            assert pixels.dtype == np.uint8
        assert time.process_time() - start_s < MOST_S


def grey_x_ray(samples: Path) -> Image.Image:
    first = min(path for path in samples.rglob("*") if path.suffix in (".jpg", ".jpeg", ".png"))
    with Image.open(first) as image:
        return image.convert("L")


@pytest.mark.parametrize("kind", ["JPEG", "progressive", "PNG", "16 bit PNG", "TIFF", "LZW", "deflate", "JPEG in TIFF"])
def test_damaged_pictures(samples: Path, kind: str) -> None:
    image, buffer = grey_x_ray(samples), io.BytesIO()
    if kind == "16 bit PNG":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 16)
    compression = {"LZW": "tiff_lzw", "deflate": "tiff_adobe_deflate", "JPEG in TIFF": "jpeg"}.get(kind)
    options = {"compression": compression} if compression else {"progressive": True} if kind == "progressive" else {}
    image.save(
        buffer, {"progressive": "JPEG", "16 bit PNG": "PNG"}.get(kind, "TIFF" if compression else kind), **options
    )
    assert_harmless(buffer.getvalue(), random.Random(kind), rounds=ROUNDS)


def test_damaged_dicom(samples: Path) -> None:
    for path in sorted((samples / "dicom").glob("*.dcm")):
        assert_harmless(path.read_bytes(), random.Random(path.name), rounds=ROUNDS)


def test_damaged_real_files_of_every_compression(big_data: Path) -> None:
    files = [path for path in (big_data / "dicom").glob("*/*") if path.stat().st_size < 3_000_000]
    assert len(files) > 15
    for path in files:
        assert_harmless(path.read_bytes(), random.Random(path.name), rounds=5)


@pytest.mark.parametrize(
    "magic", [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"\x08\0\x05\0", bytes(128) + b"DICM"]
)
def test_noise_behind_any_magic(magic: bytes) -> None:
    rng = random.Random(magic)
    for _ in range(ROUNDS):
        with pytest.raises(ImageError):
            decode(magic + rng.randbytes(rng.randrange(1, 5000)))
