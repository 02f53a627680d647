"""Suitability in a run that cannot have it, and the command that counts refusals."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from firmware_bridge.errors import ConfigError
from firmware_bridge.suitability import Statistics
from toolkit.cli.main import run as cxr_edge
from toolkit.config import TrainConfig
from toolkit.data.index import Index, Xray
from toolkit.lungs.asset import packaged_lungs
from toolkit.model_files import from_run
from toolkit.suitability_measure import ALTERATIONS, measure, read_set, table
from toolkit.suitability_run import suitability_run

DATA = Path(__file__).parent.parent / "data"


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "models").mkdir(parents=True)
    for file in ("tiny.int8.tflite", "tiny.head.npy"):
        name = file.replace("tiny.int8.tflite", "model.int8.tflite").replace("tiny.head.npy", "head.int8.npy")
        (folder / "models" / name).write_bytes((DATA / file).read_bytes())
    (folder / "models" / "lungs.int8.tflite").write_bytes(packaged_lungs())
    (folder / "config.toml").write_text(TrainConfig(name="run", size_px=32, lungs=True).to_toml(), encoding="utf-8")
    return folder


def noise(folder: Path, n: int) -> list[Path]:
    folder.mkdir()
    rng = np.random.default_rng(0)
    files = [folder / f"{i}.png" for i in range(n)]
    for file in files:
        cv2.imwrite(str(file), rng.integers(0, 256, (300, 240)).astype(np.uint8))
    return files


def test_a_run_whose_pictures_show_no_lungs_goes_without_and_says_so(run_folder: Path, tmp_path: Path) -> None:
    files = noise(tmp_path / "noise", 4)
    splits = ("train", "train", "validation", "test")
    rows = tuple(Xray(f, "normal", f.name, split=split) for f, split in zip(files, splits, strict=True))
    said: list[str] = []
    assert suitability_run(run_folder, Index(rows), workers=1, say=said.append) is None
    assert len(said) == 1
    assert "left out" in said[0]
    assert not list(run_folder.glob("suitability.*"))


def test_refusals_are_counted_by_reason_and_alteration(run_folder: Path, tmp_path: Path) -> None:
    from firmware_bridge.suitability import MEASURES, Judge

    noise(tmp_path / "noise", 3)
    (tmp_path / "noise" / "notes.txt").write_text("no picture")
    model = from_run(run_folder)[0]
    m, c = len(MEASURES), np.load(DATA / "tiny.head.npy").size - 1
    ones = np.ones(2, np.float32)
    statistics = Statistics(
        contrast_least=np.array(300, np.float32),
        kind_most=np.ones(7, np.float32),
        measures_mean=np.zeros(m, np.float32),
        measures_whiten=np.eye(m, dtype=np.float32),
        measures_limits=ones,
        features_mean=np.zeros(c, np.float32),
        features_axes=np.eye(c, 1, dtype=np.float32),
        features_scale=ones[:1],
        features_rest=np.array(1, np.float32),
        features_limits=ones,
    )

    def scorer():  # type: ignore[no-untyped-def]
        made = model.scorer()
        made.judge = Judge(statistics)
        return made

    verdicts = measure([read_set(f"noise={tmp_path / 'noise'}")], scorer, altered=True, workers=2)
    assert [one.name for one in verdicts] == ["noise", *(f"noise, {how}" for how in ALTERATIONS)]
    assert verdicts[0].to_json()["reasons"] == {"no_contrast": 3, "unreadable": 1}
    assert verdicts[1].pictures == 3
    assert "| noise, inverted | 3 | 0 (0.0%) | 0 | 3 | no_contrast 3 |" in table(verdicts)
    json.dumps([one.to_json() for one in verdicts])


def test_a_model_that_judges_nothing_is_no_subject(run_folder: Path, tmp_path: Path) -> None:
    noise(tmp_path / "noise", 1)
    with pytest.raises(ConfigError, match="no suitability"):
        measure([read_set(f"noise={tmp_path / 'noise'}")], from_run(run_folder)[0].scorer)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no picture"):
        read_set(f"nothing={tmp_path / 'empty'}")


def test_the_command_needs_a_bundle_that_exists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise(tmp_path / "noise", 1)
    assert cxr_edge(["suitability", f"a={tmp_path / 'noise'}", "--bundle", str(tmp_path / "none.cxr")]) != 0
    assert "none.cxr" in capsys.readouterr().err
