"""Ten thousand damaged files of every format: `pytest -m soak`. Its figures go into docs/dicom.md."""

from __future__ import annotations

import io
import os
import random
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from firmware_bridge.decode import decode
from firmware_bridge.errors import ImageError
from tests.firmware_bridge.test_mutated import MUTATIONS, grey_x_ray

ROUNDS = 10_000
MOST_S = 2.0
MOST_GROWTH_BYTES = 32 * 2**20


def pictures(samples: Path) -> Iterator[tuple[str, bytes]]:
    image = grey_x_ray(samples).resize((240, 200))
    deep = Image.fromarray(np.asarray(image).astype(np.uint16) * 200)
    for name, source, kind, options in (
        ("jpeg", image, "JPEG", {}),
        ("jpeg-progressive", image, "JPEG", {"progressive": True}),
        ("jpeg-colour", image.convert("RGB"), "JPEG", {}),
        ("png", image, "PNG", {}),
        ("png-16", deep, "PNG", {}),
        ("png-alpha", image.convert("LA"), "PNG", {}),
        ("tiff", image, "TIFF", {}),
        ("tiff-16", deep, "TIFF", {}),
        ("tiff-lzw", image, "TIFF", {"compression": "tiff_lzw"}),
        ("tiff-deflate", image, "TIFF", {"compression": "tiff_adobe_deflate"}),
        ("tiff-packbits", image, "TIFF", {"compression": "packbits"}),
        ("tiff-jpeg", image, "TIFF", {"compression": "jpeg"}),
    ):
        buffer = io.BytesIO()
        source.save(buffer, kind, **options)
        yield name, buffer.getvalue()


def dicoms(samples: Path, folder: Path) -> Iterator[tuple[str, bytes]]:
    """One X-ray in every transfer syntax, written by GDCM's own tool."""
    plain = samples / "dicom" / "pneumonia_cr_monochrome1_12bit.dcm"
    yield "dicom", plain.read_bytes()
    eight = samples / "dicom" / "normal_dx_monochrome2.dcm"
    yield "dicom-8", eight.read_bytes()
    program = Path(sys.executable).with_name("gdcmconv")
    for name, source, options in (
        ("j2k", plain, ["--j2k"]),
        ("jpegls", plain, ["--jpegls"]),
        ("lossless", plain, ["--jpeg"]),
        ("rle", plain, ["--rle"]),
        ("baseline", eight, ["--jpeg", "--lossy"]),
    ):
        target = folder / f"{name}.dcm"
        subprocess.run([program, *options, source, target], check=True, capture_output=True)
        yield f"dicom-{name}", target.read_bytes()


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.soak
def test_ten_thousand_damaged_files(samples: Path, tmp_path: Path) -> None:
    pytest.importorskip("gdcm", reason="needs the decoders of the extra 'dicom'")
    kinds = [*pictures(samples), *dicoms(samples, tmp_path)]
    for _, content in kinds:
        assert decode(content).pixels.std() > 5
    seed = os.environ.get("CXR_EDGE_SEED", "1")
    rng = random.Random(seed)
    counts: Counter[tuple[str, str]] = Counter()
    slowest: dict[str, float] = {}
    settled_bytes = 0
    for number in range(ROUNDS):
        name, whole = kinds[number % len(kinds)]
        content = bytearray(whole)
        MUTATIONS[number // len(kinds) % len(MUTATIONS)](content, rng)
        start_s, refused = time.process_time(), None
        try:
            pixels = decode(bytes(content), min_side_px=100).pixels
        except ImageError as error:
            refused = error
        outcome = "read" if refused is None else type(refused).__name__
        if refused is None:
            assert (pixels.ndim, pixels.dtype) == (2, np.uint8)
        else:
            assert refused.came
            assert "too long" not in refused.came
            outcome = "decoder crashed" if "crashed" in refused.came else outcome
        taken_s = time.process_time() - start_s
        assert taken_s < MOST_S, (name, number)
        slowest[name] = max(slowest.get(name, 0.0), taken_s)
        counts[name, outcome] += 1
        if number == ROUNDS // 5:
            settled_bytes = rss_bytes()
    growth_bytes = rss_bytes() - settled_bytes
    for name, _ in kinds:
        outcomes = {outcome: count for (of, outcome), count in sorted(counts.items()) if of == name}
        sys.stdout.write(f"{name}: {outcomes}, slowest {1e3 * slowest[name]:.0f} ms of processor time\n")
    sys.stdout.write(f"seed {seed}: memory grew by {growth_bytes / 2**20:.1f} MiB over the last four fifths\n")
    assert growth_bytes < MOST_GROWTH_BYTES
