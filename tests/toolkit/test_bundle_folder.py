"""A bundle from the folder of a run: what goes in comes out, and the golden cases hold."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from firmware_bridge.bundle import open_bundle
from firmware_bridge.errors import CxrEdgeError
from firmware_bridge.golden import require_golden
from toolkit.bundle_folder import bundle_from_run
from toolkit.data.index import Index

DATA = Path(__file__).resolve().parent.parent / "data"


@pytest.fixture
def run(tmp_path: Path, samples: Path) -> Path:
    folder = tmp_path / "my run"
    (folder / "models").mkdir(parents=True)
    shutil.copy(DATA / "tiny.int8.tflite", folder / "models" / "model.int8.tflite")
    shutil.copy(DATA / "tiny.head.npy", folder / "models" / "head.int8.npy")
    fitted = {"temperature": 2.0, "bias": 0.0, "threshold": 0.4, "threshold_interval": [0.3, 0.5]}
    (folder / "calibration.json").write_text(json.dumps({"models": {"model.int8.tflite": fitted}}))
    index = Index.read(samples / "index.csv")
    index.with_rows([replace(row, split="validation") for row in index.rows]).write(folder / "index.csv")
    return folder


def test_a_run_becomes_a_bundle(run: Path) -> None:
    with open_bundle(bundle_from_run(run, golden=4)) as bundle:
        (model,) = bundle.manifest.models
        assert (model.calibration.temperature, model.calibration.threshold) == (2.0, 0.4)
        assert model.calibration.threshold_interval == (0.3, 0.5)
        assert len(require_golden(bundle)) == 4


def test_a_run_without_calibration_is_not_ready(run: Path) -> None:
    (run / "calibration.json").unlink()
    with pytest.raises(CxrEdgeError, match="not ready for a device"):
        bundle_from_run(run)


def test_an_empty_folder_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(CxrEdgeError, match="holds no model"):
        bundle_from_run(tmp_path)
