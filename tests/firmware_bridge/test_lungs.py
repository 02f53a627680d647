"""The lung network that ships, on real X-rays; and what is made of a mask."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from firmware_bridge.decode import decode
from firmware_bridge.errors import ModelError
from firmware_bridge.lungs import KINDS, MASK_PX, VERSION, LungFinder, judged
from firmware_bridge.manifest_parse import LUNGS_VERSION
from toolkit.lungs.asset import packaged_lungs

DATA = Path(__file__).resolve().parent.parent / "data"
UPRIGHT = np.eye(len(KINDS), dtype=np.float32)[0]


@pytest.fixture(scope="module")
def finder() -> LungFinder:
    return LungFinder(packaged_lungs())


def two_lungs(*, left: int = 34, right: int = 94, width: int = 15, height: int = 40, top: int = 64) -> np.ndarray:
    mask = np.zeros((MASK_PX, MASK_PX), np.float32)
    for centre in (left, right):
        cv2.ellipse(mask, (centre, top), (width, height), 0, 0, 360, 0.9, -1)
    return mask


def test_the_file_is_small_whole_and_takes_grey_bytes_as_they_are(finder: LungFinder) -> None:
    assert len(packaged_lungs()) < 1_000_000
    if finder.runtime == "ai-edge-litert":
        assert finder.partitions == 1
    scale, zero_point = finder._raw.get_input_details()[0]["quantization"]
    assert zero_point == 114
    assert scale == pytest.approx(1 / 57.6, rel=1e-5)
    assert LUNGS_VERSION == VERSION


def test_every_sample_x_ray_has_two_lungs(finder: LungFinder, samples: Path) -> None:
    files = sorted(samples.glob("chest_xray/*/*/*.jp*g"))
    assert len(files) > 50
    found = [finder.find(decode(path, min_side_px=256).pixels) for path in files]
    assert [path.name for path, lungs in zip(files, found, strict=True) if lungs.box is None] == []
    for lungs in found:
        assert lungs.measures is not None
        assert 0.05 < lungs.measures.area_first + lungs.measures.area_second < 0.6
        assert lungs.measures.gap_x > 0.15
        assert np.unique(lungs.mask).tolist() == [0, 255]


def test_a_reduced_copy_gives_the_same_box(finder: LungFinder, samples: Path) -> None:
    pixels = decode(sorted(samples.glob("chest_xray/*/*/*.jp*g"))[0]).pixels
    whole = finder.find(pixels)
    half = finder.find(cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    assert whole.box is not None
    assert half.box is not None
    assert half.box.to_json() == pytest.approx(whole.box.to_json(), abs=0.03)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_blank_picture_has_no_lungs(finder: LungFinder, level: int) -> None:
    assert finder.find(np.full((300, 400), level, np.uint8)).box is None


def test_two_bodies_side_by_side_are_lungs_with_a_box_around_both() -> None:
    lungs = judged(two_lungs(), UPRIGHT)
    assert lungs.box is not None
    assert lungs.box.to_json() == pytest.approx([19 / 128, 24 / 128, 110 / 128, 105 / 128], abs=0.01)
    assert lungs.measures is not None
    assert lungs.measures.symmetry == pytest.approx(1.0)
    assert lungs.measures.border == 0.0
    assert lungs.measures.solidity > 0.97
    assert lungs.measures.gap_x == pytest.approx(60 / 128, abs=0.01)
    assert lungs.kind == "upright"


def test_lungs_that_touch_are_told_apart() -> None:
    mask = two_lungs()
    mask[62:66, 34:94] = 0.9
    lungs = judged(mask, UPRIGHT)
    assert lungs.measures is not None
    assert lungs.measures.symmetry > 0.9


def test_islands_do_not_move_the_box() -> None:
    clean = judged(two_lungs(), UPRIGHT)
    mask = two_lungs()
    mask[:6, :20] = 1.0
    mask[120:, 100:] = 1.0
    lungs = judged(mask, UPRIGHT)
    assert lungs.box == clean.box
    assert lungs.measures is not None
    assert lungs.measures.stray > 0.05


@pytest.mark.parametrize(
    ("mask", "why"),
    [
        (np.zeros((MASK_PX, MASK_PX), np.float32), "0 bodies"),
        (np.ones((MASK_PX, MASK_PX), np.float32), "1 bodies"),
        (two_lungs(left=64, right=64), "1 bodies"),
        (two_lungs(width=6, height=9), "cover"),
        (two_lungs().T.copy(), "one above the other"),
    ],
)
def test_what_is_not_plausible_is_said_and_has_no_box(mask: np.ndarray, why: str) -> None:
    lungs = judged(mask, UPRIGHT)
    assert lungs.box is None
    assert lungs.measures is None
    assert why in lungs.why_not


def test_another_model_is_no_lung_network() -> None:
    with pytest.raises(ModelError, match="not a lung network"):
        LungFinder(DATA / "tiny.int8.tflite")
