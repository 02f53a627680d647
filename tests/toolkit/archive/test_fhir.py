"""An archive's results as FHIR: valid, nobody named, each result once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from firmware_bridge.errors import ConfigError
from firmware_bridge.fhir_validate import can_validate, validate
from tests.toolkit.archive.conftest import rows_of
from toolkit.archive.fhir import check_fhir_file
from toolkit.cli.main import run

Score = Callable[..., object]


def test_every_scored_xray_is_one_valid_bundle(archive: Path, out: Path, tmp_path: Path) -> None:
    twice = next(archive.rglob("*.jpg"))
    shutil.copy(twice, archive / "again.jpg")
    file = tmp_path / "results.ndjson"
    arguments = ["score", str(archive), "--out", str(out), "--workers", "0", "--fhir", str(file)]
    assert run(arguments) == 0
    scored = {row["result_id"]: row for row in rows_of(out) if row["status"] == "scored"}
    text = file.read_text(encoding="utf-8")
    bundles = [json.loads(line) for line in text.splitlines()]
    assert len(bundles) == len(scored)
    assert not any(row["path"] in text for row in scored.values())
    percents: list[float] = []
    for bundle in bundles:
        if can_validate():
            validate(bundle)
        resources = [entry["resource"] for entry in bundle["entry"]]
        percents += [resource["valueQuantity"]["value"] for resource in resources if "valueQuantity" in resource]
        assert all("Not for diagnosis" in json.dumps(resource) for resource in resources)
    assert sorted(percents) == pytest.approx(sorted(row["probability"] * 100 for row in scored.values()), abs=1e-3)
    file.unlink()
    assert run(arguments) == 0  # nothing is left to score, and the file is written all the same
    assert file.read_text(encoding="utf-8") == text


def test_a_place_that_is_none_is_told_before_the_work(tmp_path: Path, archive: Path, out: Path) -> None:
    for place in (tmp_path, tmp_path / "none" / "x.ndjson"):
        with pytest.raises(ConfigError, match="cannot become the FHIR file"):
            check_fhir_file(place)
    assert run(["score", str(archive), "--out", str(out), "--fhir", str(tmp_path)]) == 2
    assert not out.exists()
