"""A bundle fitted to a site: the same model files, honest probabilities there, golden cases that hold."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner

from firmware_bridge.bundle import open_bundle
from firmware_bridge.errors import AuditError, BundleError, InputError
from firmware_bridge.golden import require_golden
from firmware_bridge.manifest import ONNX
from toolkit.bundle import write_bundle
from toolkit.bundle_folder import bundle_from_run
from toolkit.bundle_onnx import add_onnx
from toolkit.cli.recalibrate import command
from toolkit.data.index import Index
from toolkit.evaluate import evaluate, parse_named_index
from toolkit.model_card import add_card
from toolkit.model_files import from_bundle
from toolkit.recalibrate import recalibrate
from toolkit.score_index import NamedIndex
from toolkit.summary import Options
from toolkit.summary_text import seen_warnings
from toolkit.under_test import with_unique_names

DATA = Path(__file__).resolve().parent.parent / "data"


@pytest.fixture
def bundle(tmp_path: Path, samples: Path) -> Path:
    """The tiny model with a calibration that is far off: everything is called sick."""
    folder = tmp_path / "run"
    (folder / "models").mkdir(parents=True)
    shutil.copy(DATA / "tiny.int8.tflite", folder / "models" / "model.int8.tflite")
    shutil.copy(DATA / "tiny.head.npy", folder / "models" / "head.int8.npy")
    fitted = {"temperature": 1.0, "bias": 6.0, "threshold": 0.4}
    (folder / "calibration.json").write_text(json.dumps({"models": {"model.int8.tflite": fitted}}))
    index = Index.read(samples / "index.csv")
    index.with_rows([replace(row, split="validation") for row in index.rows]).write(folder / "index.csv")
    return bundle_from_run(folder, golden=3)


def test_the_new_bundle_is_calibrated_and_the_model_is_the_same(bundle: Path, samples: Path, tmp_path: Path) -> None:
    out = tmp_path / "site.cxr"
    arguments = [str(bundle), "--index", f"site={samples / 'index.csv'}", "--out", str(out)]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert "64 X-rays" in result.output
    assert "luck alone" in result.output
    assert "AUROC" in result.output
    with open_bundle(bundle) as before, open_bundle(out) as after:
        name = before.manifest.models[0].file
        assert before.read(name) == after.read(name)
        assert len(require_golden(after)) == 3
        old, new = before.manifest.models[0], after.manifest.models[0]
        assert after.manifest.name == f"{before.manifest.name} site"
        assert after.manifest.data["recalibrated_on"]["images"] == 64
    told = new.metrics["recalibrated"]
    assert told["ece_before"] > 0.3
    assert told["ece_after_held_out"] < told["ece_before"]
    assert 0.0 < told["ece_by_chance"] < 0.3
    assert new.calibration.bias != old.calibration.bias
    assert new.calibration.wished_sensitivity == 0.95


def test_a_model_that_tells_nothing_is_said_to(bundle: Path, samples: Path, tmp_path: Path) -> None:
    index = Index.read(samples / "index.csv")
    labels = [row.label for row in index.rows]
    turned = [replace(row, label=label) for row, label in zip(index.rows, [*labels[1::2], *labels[::2]], strict=True)]
    index.with_rows(turned).write(tmp_path / "mixed.csv")
    arguments = [str(bundle), "--index", f"site={tmp_path / 'mixed.csv'}", "--out", str(tmp_path / "site.cxr")]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "a coin may tell sick from well" in result.stderr


def test_a_lower_temperature_lets_devices_differ_as_much_more(bundle: Path, samples: Path, tmp_path: Path) -> None:
    """The tiny model knows little, so no fit makes it sharper: the old temperature is made far too high."""
    with open_bundle(bundle) as opened:
        manifest, files = opened.manifest, {name: opened.read(name) for name in opened.manifest.files}
    entry = manifest.models[0]
    blunt = replace(entry, calibration=replace(entry.calibration, temperature=40.0, bias=0.0))
    write_bundle(bundle, replace(manifest, models=(blunt,)), files)
    site = NamedIndex("site", samples / "index.csv", "", Index.read(samples / "index.csv"))
    recalibrate(bundle, site, out=tmp_path / "site.cxr")
    with open_bundle(tmp_path / "site.cxr") as opened:
        lower = opened.manifest.models[0].calibration.temperature
        assert lower < 40.0
        tolerances = [case.tolerance for case in opened.manifest.golden]
    assert tolerances == pytest.approx([case.tolerance * 40.0 / lower for case in manifest.golden])


@pytest.mark.skipif(find_spec("tf2onnx") is None, reason="needs cxr-edge[onnx]")
def test_the_onnx_form_is_made_anew_with_the_fitted_calibration(bundle: Path, samples: Path, tmp_path: Path) -> None:
    both = add_onnx(bundle, tmp_path / "both.cxr")
    site = NamedIndex("site", samples / "index.csv", "", Index.read(samples / "index.csv"))
    recalibrate(both, site, out=tmp_path / "site.cxr")
    with open_bundle(both) as before, open_bundle(tmp_path / "site.cxr") as after:
        old, form = (opened.manifest.model("int8", kind=ONNX) for opened in (before, after))
        assert form.calibration == after.manifest.model("int8").calibration
        assert form.calibration != old.calibration
        assert after.read(form.file) == before.read(old.file)
        assert {outcome.model for outcome in require_golden(after)} == {form.file, after.manifest.model("int8").file}


def test_one_class_only_is_refused(bundle: Path, samples: Path, tmp_path: Path) -> None:
    index = Index.read(samples / "index.csv")
    sick = index.with_rows(row for row in index if row.label == "pneumonia")
    with pytest.raises(InputError, match="only one class"):
        recalibrate(bundle, NamedIndex("site", tmp_path, "", sick), out=tmp_path / "site.cxr")
    assert not (tmp_path / "site.cxr").exists()


def test_xrays_that_the_model_was_trained_on_fit_nothing(run: Path, tmp_path: Path) -> None:
    index = Index.read(run / "index.csv")
    index.with_rows(replace(row, split="train" if i % 2 else "test") for i, row in enumerate(index)).write(
        run / "index.csv"
    )
    bundle = bundle_from_run(run, tmp_path / "a.cxr", golden=0)
    with pytest.raises(AuditError, match=r"(?s)was trained on X-rays of 'site'.*32 of the training split"):
        recalibrate(bundle, parse_named_index(f"site={run / 'index.csv'}"), out=tmp_path / "b.cxr")
    assert not (tmp_path / "b.cxr").exists()
    assert recalibrate(bundle, parse_named_index(f"site={run / 'index.csv'}:test"), out=tmp_path / "b.cxr")


def test_an_evaluation_says_where_a_fit_flatters(bundle: Path, samples: Path, tmp_path: Path) -> None:
    site, out = parse_named_index(f"site={samples / 'index.csv'}"), tmp_path / "site.cxr"
    recalibrate(bundle, site, out=out)
    models = with_unique_names([*from_bundle(bundle), *from_bundle(out)])
    other = parse_named_index(f"other={samples / 'index.csv'}:test")
    found = evaluate(models, [site, other], out=tmp_path / "evaluation", options=Options(resamples=20))
    assert [said.partition(" were ")[0] for said in seen_warnings(found)] == ["Calibration and threshold of int8-2"]
    with pytest.raises(BundleError, match="at others"):
        add_card(out, evaluation={**found, "models": found["models"][:1]})
