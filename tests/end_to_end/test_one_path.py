"""One decoder, one preprocessing: what training fed the network is what the device feeds it, pixel by pixel."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from firmware_bridge.box import Box
from firmware_bridge.bundle import open_bundle
from firmware_bridge.errors import UnsuitableImage
from firmware_bridge.lungs import LungFinder
from firmware_bridge.preprocess import Preprocessing
from toolkit.data.index import Index
from toolkit.data.load import geometric_and_tonal, load, load_one
from toolkit.model_files import from_bundle
from toolkit.score_index import score_xray

KINDS = ("chest_xray/test/NORMAL/*.jpg", "dicom/*.dcm")


@pytest.fixture(params=KINDS)
def xray_file(request: pytest.FixtureRequest, samples: Path) -> Path:
    return sorted(samples.glob(request.param))[0]


def test_training_and_device_see_the_same_pixels(bundle_file: Path, xray_file: Path, samples: Path) -> None:
    row = replace(Index.read(samples / "index.csv").rows[0], path=xray_file, width_px=None, height_px=None)
    with open_bundle(bundle_file) as bundle:
        preprocessing = Preprocessing.from_manifest(bundle.manifest.preprocessing)
        device = bundle.scorer(threads=1).score(xray_file)
    assert np.array_equal(load_one(row, preprocessing), device.pixels)


@pytest.mark.parametrize("clahe", [True, False])
def test_the_two_halves_of_training_are_the_whole_of_the_device(samples: Path, clahe: bool) -> None:
    # Training augments between the geometric steps and CLAHE; without augmentation nothing may differ.
    steps: list[dict[str, Any]] = [{"name": "resize", "size_px": 64}]
    if clahe:
        steps.append({"name": "clahe", "clip_limit": 2.0, "tiles": 8})
    preprocessing = Preprocessing.from_manifest({"version": 1, "steps": steps})
    rows = Index.read(samples / "index.csv").select(split="test").rows[:4]
    geometric, tonal = geometric_and_tonal(preprocessing)
    halves = load(rows, geometric).pixels
    if tonal:
        halves = np.stack([tonal.apply(pixels) for pixels in halves])
    assert np.array_equal(halves, np.stack([load_one(row, preprocessing) for row in rows]))


def test_training_evaluation_and_device_cut_to_the_same_lungs(
    lungs_bundle: Path, xray_file: Path, samples: Path
) -> None:
    row = replace(Index.read(samples / "index.csv").rows[0], path=xray_file, width_px=None, height_px=None)
    (model,) = from_bundle(lungs_bundle)
    assert model.lungs is not None
    with open_bundle(lungs_bundle) as bundle:
        device = bundle.scorer(threads=1).score(xray_file)
    assert device.prepared.field != Box(0.0, 0.0, 1.0, 1.0)
    finder = LungFinder(model.lungs)
    assert np.array_equal(load_one(row, model.preprocessing, finder=finder), device.pixels)
    geometric, tonal = geometric_and_tonal(model.preprocessing)
    assert tonal is not None
    halves = load([row], geometric, finder=finder).pixels
    assert np.array_equal(tonal.apply(halves[0]), device.pixels)
    masks = load([row], geometric, finder=finder).masks
    assert masks is not None
    # With 0.1 of the box's sides around them, the lungs reach to about a twelfth of the crop's sides.
    rows, columns = np.nonzero(masks[0])
    assert np.allclose([rows.min(), 31 - rows.max(), columns.min(), 31 - columns.max()], 32 / 12, atol=2.5)
    _, (logit,) = score_xray(row, [model], [model.open()])
    assert logit == pytest.approx(device.logit, abs=1e-9)


def test_an_x_ray_without_lungs_is_refused_on_the_device_and_left_out_and_named_in_training(
    lungs_bundle: Path, samples: Path, tmp_path: Path
) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((300, 300), 90, np.uint8))
    good = Index.read(samples / "index.csv").rows[0]
    (model,) = from_bundle(lungs_bundle)
    assert model.lungs is not None
    geometric, _ = geometric_and_tonal(model.preprocessing)
    rows = [replace(good, path=tmp_path / "grey.png"), good]
    cache = tmp_path / "cache"
    for _ in range(2):  # the second time from the cache
        loaded = load(rows, geometric, finder=LungFinder(model.lungs), cache=cache)
        assert loaded.rows == (good,)
        assert loaded.unreadable == (
            (tmp_path / "grey.png", "no lungs were found in this image: 0 bodies that could be a lung, not two"),
        )
    with open_bundle(lungs_bundle) as bundle, pytest.raises(UnsuitableImage):
        bundle.scorer().score(tmp_path / "grey.png")


def test_evaluation_and_agent_give_the_same_score(
    bundle_file: Path, xray_file: Path, samples: Path, agent: Any
) -> None:
    (model,) = from_bundle(bundle_file)
    row = replace(Index.read(samples / "index.csv").rows[0], path=xray_file, width_px=None, height_px=None)
    _, (logit,) = score_xray(row, [model], [model.open()])
    shutil.copy(xray_file, agent.watch)
    assert agent.run() == 0
    record = agent.json(xray_file.name)
    assert record["logit"] == pytest.approx(logit, abs=1e-5)  # the record rounds to six places
