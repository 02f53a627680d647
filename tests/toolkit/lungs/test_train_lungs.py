"""The lung network from masks to the int8 file, on the samples; and the pictures that it learns from."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from firmware_bridge.decode import decode
from firmware_bridge.errors import AuditError, ConfigError, InputError
from firmware_bridge.lungs import KINDS, MASK_PX, LungFinder
from toolkit.cli.train_lungs import command
from toolkit.data.index import Index
from toolkit.lungs.asset import FILE, packaged_lungs
from toolkit.lungs.augment import Sample, Sampler
from toolkit.lungs.data import KEPT_PX, read_masked
from toolkit.lungs.train import mask_loss


@pytest.fixture(scope="module")
def masks(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mask for each sample but one, as the packaged network draws them."""
    folder = tmp_path_factory.mktemp("masks")
    finder = LungFinder(packaged_lungs())
    for row in Index.read(samples / "index.csv").rows[1:]:
        cv2.imwrite(str(folder / f"{row.path.stem}.png"), finder.find(decode(row.path).pixels).mask)
    return folder


def _train(samples: Path, masks: Path, out: Path, *, epochs: int) -> dict[str, Any]:
    arguments = [str(samples / "index.csv"), "--masks", str(masks), "--out", str(out)]
    result = CliRunner().invoke(
        command, [*arguments, "--epochs", str(epochs), "--batch-size", "8"], catch_exceptions=False
    )
    assert "Not for diagnosis" in result.output
    said: dict[str, Any] = json.loads((out / "lungs.json").read_text())
    return said


def test_a_small_one_is_trained_goes_on_after_a_cut_and_is_an_int8_file(
    samples: Path, masks: Path, tmp_path: Path
) -> None:
    whole = _train(samples, masks, tmp_path / "whole", epochs=2)
    assert [epoch["epoch"] for epoch in whole["epochs"]] == [1, 2]
    assert whole["epochs"][1]["mask_loss"] < whole["epochs"][0]["mask_loss"]
    tested = Index.read(samples / "index.csv").select(split="test")
    assert whole["masks"]["test"]["images"] == len(tested) - 1  # the first sample has no mask
    for figures in whole["masks"].values():
        assert 0 <= figures["iou"] <= figures["dice"] <= 1
    for shares in whole["kinds_test"].values():
        assert sum(shares.values()) == pytest.approx(1.0)
    finder = LungFinder(tmp_path / "whole" / FILE)
    assert finder.partitions == 1
    # Cut off before the last file: the epochs stand, and what is written is the same.
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut" / FILE).unlink()
    assert _train(samples, masks, tmp_path / "cut", epochs=2) == whole
    assert (tmp_path / "cut" / FILE).read_bytes() == (tmp_path / "whole" / FILE).read_bytes()
    with pytest.raises(ConfigError, match=r"(?s)run of other X-rays or options.*other values of epochs"):
        _train(samples, masks, tmp_path / "cut", epochs=3)


def test_a_patient_in_two_splits_is_refused(samples: Path, masks: Path, tmp_path: Path) -> None:
    index = Index.read(samples / "index.csv")
    index.with_rows(replace(row, patient_id="one") for row in index).write(tmp_path / "index.csv")
    with pytest.raises(AuditError, match="no patient in two splits"):
        _train(tmp_path, masks, tmp_path / "out", epochs=1)
    assert not (tmp_path / "out").exists()


def test_xrays_without_a_mask_are_left_out_and_counted(samples: Path, masks: Path, tmp_path: Path) -> None:
    rows = Index.read(samples / "index.csv").rows[:4]
    found = read_masked(rows, masks=masks, name="train")
    assert (found.rows, found.left_out) == (rows[1:], 1)
    assert found.pixels.shape == found.masks.shape == (3, KEPT_PX, KEPT_PX)
    assert set(np.unique(found.masks)) == {0, 255}
    with pytest.raises(InputError, match="no X-ray of the train split has a lung mask"):
        read_masked(rows, masks=tmp_path, name="train")


def test_masks_of_zeros_and_ones_are_told_and_an_empty_one_is_left_out(
    samples: Path, masks: Path, tmp_path: Path
) -> None:
    rows = Index.read(samples / "index.csv").rows[1:3]
    for row in rows:
        drawn = cv2.imread(str(masks / f"{row.path.stem}.png"), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(tmp_path / f"{row.path.stem}.png"), np.uint8(drawn > 127))
    with pytest.raises(InputError, match=r"(?s)nowhere brighter than 1 of 255.*write masks with 255"):
        read_masked(rows, masks=tmp_path, name="train")
    shutil.copy(masks / f"{rows[0].path.stem}.png", tmp_path)
    found = read_masked(rows, masks=tmp_path, name="train")
    assert (found.rows, found.left_out) == (rows[:1], 1)


def test_two_xrays_do_not_share_a_mask(samples: Path, masks: Path) -> None:
    row = Index.read(samples / "index.csv").rows[1]
    other = replace(row, path=Path("/elsewhere") / row.path.name)
    with pytest.raises(InputError, match="would have the same lung mask"):
        read_masked((row, other), masks=masks, name="train")


@pytest.mark.parametrize("text", ["", "[1]", "null"])
def test_what_a_run_was_begun_with_must_be_there(samples: Path, masks: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ConfigError, match="run of other X-rays or options"):
        _train(samples, masks, tmp_path, epochs=1)


def _samples() -> list[Sample]:
    """200 pictures of one X-ray: dark lungs on grey, the left one longer."""
    pixels = np.full((KEPT_PX, KEPT_PX), 170, np.uint8)
    mask = np.zeros_like(pixels)
    mask[40:140, 30:75] = mask[40:120, 100:145] = 255
    pixels[mask > 0] = 60
    sampler = Sampler()
    return [sampler(pixels, mask, seed=seed) for seed in range(200)]


def test_pictures_of_every_kind_with_masks_that_moved_with_them() -> None:
    seen = _samples()
    assert {KINDS[one.kind] for one in seen} == set(KINDS)
    for one in seen:
        assert (one.pixels.shape, one.pixels.dtype) == ((MASK_PX, MASK_PX), np.uint8)
        assert set(np.unique(one.mask)) <= {0, 255}
        kind = KINDS[one.kind]
        assert one.mask_counts is (kind != "inverted")
        assert kind != "not_chest" or not one.mask.any()
    upright = [one for one in seen if KINDS[one.kind] == "upright" and one.mask.any()]
    darker = [one.pixels[one.mask > 0].mean() < one.pixels[one.mask == 0].mean() for one in upright]
    assert np.mean(darker) > 0.8  # a border outside the picture may be black


def test_turned_pictures_are_turned_as_their_name_says() -> None:
    seen = _samples()
    for kind, quarters in (("upright", 0), ("turned_left", 1), ("upside_down", 2), ("turned_right", 3)):
        whole = [one for one in seen if KINDS[one.kind] == kind and one.kind_counts]
        # The lungs end at two heights: turned back, more of the mask lies in the upper half of its box.
        back = [np.rot90(one.mask, -quarters) for one in whole]
        tops = [np.flatnonzero(mask.any(axis=1)) for mask in back]
        upper = [mask[: (rows[0] + rows[-1]) // 2].sum() / mask.sum() for mask, rows in zip(back, tops, strict=True)]
        assert np.mean(upper) > 0.5, kind


def test_the_seed_decides() -> None:
    for one, again in zip(_samples()[:20], _samples()[:20], strict=True):
        np.testing.assert_array_equal(one.pixels, again.pixels)
        np.testing.assert_array_equal(one.mask, again.mask)


def test_the_loss_of_a_mask_is_least_where_it_is_right() -> None:
    true = np.zeros((3, MASK_PX, MASK_PX, 1), np.float32)
    true[:, 32:96, 16:56] = 1
    half = true[:, ::2, ::2]
    found = np.clip(np.stack([half[0], np.roll(half[1], 10, axis=0), 1 - half[2]]), 1e-3, 1 - 1e-3)
    right, moved, wrong = mask_loss(true, found).numpy()
    assert right < 0.1 < moved < wrong
    empty = np.zeros((1, MASK_PX, MASK_PX, 1), np.float32)
    assert float(mask_loss(empty, np.full((1, 64, 64, 1), 1e-6, np.float32))[0]) < 0.01
