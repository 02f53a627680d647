"""`cxr-edge bundle`: inspect and verify on the very file that a device gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from firmware_bridge.bundle import open_bundle
from firmware_bridge.errors import BundleError
from firmware_bridge.golden import run_golden
from firmware_bridge.manifest import GoldenEntry
from toolkit.bundle import build_bundle
from toolkit.cli.bundle import command


@pytest.fixture
def golden_bundle(bundle_file: Path, samples: Path, tmp_path: Path) -> Path:
    """The tiny bundle with golden cases that hold."""
    return with_golden(bundle_file, samples, tmp_path / "golden.cxr", shift=0.0)


def with_golden(bundle_file: Path, samples: Path, out: Path, *, shift: float) -> Path:
    with open_bundle(bundle_file) as bundle:
        manifest, scorer = bundle.manifest, bundle.scorer()
        files: dict[str, bytes | Path] = {name: bundle.read(name) for name in manifest.files}
    cases = []
    for number, path in enumerate(sorted(samples.glob("chest_xray/**/*.jp*g"))[:3]):
        files[f"golden/{number}.jpg"] = path
        probability = scorer.score(path).probability + shift
        cases.append(GoldenEntry(f"golden/{number}.jpg", manifest.models[0].file, probability, 0.02))
    return build_bundle(
        out,
        name="golden",
        labels=(manifest.label_negative, manifest.label_positive),
        preprocessing=manifest.preprocessing,
        models=manifest.models,
        golden=cases,
        files=files,
    )


def test_verify_reproduces_the_golden_xrays(golden_bundle: Path) -> None:
    result = CliRunner().invoke(command, ["verify", str(golden_bundle)], catch_exceptions=False)
    assert "3 golden results reproduced" in result.output
    with open_bundle(golden_bundle) as bundle:
        assert all(outcome.holds for outcome in run_golden(bundle, threads=2))


def test_verify_refuses_what_it_cannot_reproduce(bundle_file: Path, samples: Path, tmp_path: Path) -> None:
    wrong = with_golden(bundle_file, samples, tmp_path / "wrong.cxr", shift=0.1)
    with pytest.raises(BundleError, match="does not give its own results"):
        CliRunner().invoke(command, ["verify", str(wrong)], catch_exceptions=False)


def test_verify_warns_where_there_is_nothing_to_reproduce(bundle_file: Path, golden_bundle: Path) -> None:
    result = CliRunner().invoke(command, ["verify", str(bundle_file)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "warning: the bundle has no golden X-rays" in result.output
    result = CliRunner().invoke(command, ["verify", str(golden_bundle)], catch_exceptions=False)
    assert "warning" not in result.output


def test_inspect_prints_json(golden_bundle: Path) -> None:
    result = CliRunner().invoke(command, ["inspect", str(golden_bundle)], catch_exceptions=False)
    shown = json.loads(result.output)
    with open_bundle(golden_bundle) as bundle:
        assert shown["id"] == bundle.id
    assert shown["labels"] == {"negative": "NORMAL", "positive": "PNEUMONIA"}
