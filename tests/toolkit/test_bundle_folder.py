"""A bundle from the folder of a run: what goes in comes out, and the golden cases hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from firmware_bridge.bundle import open_bundle
from firmware_bridge.errors import BundleError, CxrEdgeError
from firmware_bridge.golden import require_golden
from toolkit.bundle_folder import bundle_from_run
from toolkit.data.index import Index

DATA = Path(__file__).resolve().parent.parent / "data"


def test_a_run_becomes_a_bundle(run: Path) -> None:
    with open_bundle(bundle_from_run(run, golden=4)) as bundle:
        (model,) = bundle.manifest.models
        assert (model.calibration.temperature, model.calibration.threshold) == (2.0, 0.4)
        assert model.calibration.threshold_interval == (0.3, 0.5)
        assert len(require_golden(bundle)) == 4


def test_what_the_run_measured_goes_in(run: Path) -> None:
    row = {"file": "model.int8.tflite", "zero_share_pruned": 0.3, "zero_share_total": 0.28, "auroc_validation": 0.9}
    (run / "export.json").write_text(json.dumps({"models": [row]}))
    inside = {"role": "inside", "results": {"int8": {"metrics": {"auroc": {"value": 0.8}}}}}
    (run / "evaluation.json").write_text(json.dumps({"sets": [inside]}))
    with open_bundle(bundle_from_run(run, golden=0)) as bundle:
        manifest = bundle.manifest
    assert manifest.golden == ()
    assert manifest.sparsity == {"pruned_kernels": 0.3, "all_kernels": 0.28}
    assert manifest.metrics == {"inside": {"auroc": {"value": 0.8}}, "outside": {}}
    assert manifest.models[0].metrics["auroc_validation"] == 0.9
    assert manifest.data["images"] == 64
    assert {"python", "cxr-edge", "numpy"} <= manifest.tools.keys()


def test_a_broken_file_of_a_run_is_named(run: Path) -> None:
    for text in ("{", "[" * 100_000, '{"models": [{}]}', '{"models": 1}'):
        (run / "export.json").write_text(text)
        with pytest.raises(BundleError, match=r"export\.json cannot be read"):
            bundle_from_run(run)


def test_damaged_suitability_statistics_make_no_bundle(run: Path) -> None:
    (run / "suitability.npz").write_bytes(b"PK")
    with pytest.raises(BundleError, match="suitability statistics cannot be used"):
        bundle_from_run(run)


def test_an_xray_that_cannot_be_read_is_no_golden_case(run: Path) -> None:
    index = Index.read(run / "index.csv")
    gone = replace(index.rows[0], path=run / "gone.jpg")
    index.with_rows([gone, *index.rows[1:]]).write(run / "index.csv")
    with open_bundle(bundle_from_run(run, golden=4)) as bundle:
        assert len(bundle.manifest.golden) == 4


def test_a_run_without_calibration_is_not_ready(run: Path) -> None:
    (run / "calibration.json").unlink()
    with pytest.raises(CxrEdgeError, match="not ready for a device"):
        bundle_from_run(run)


def test_an_empty_folder_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(CxrEdgeError, match="holds no model"):
        bundle_from_run(tmp_path)
