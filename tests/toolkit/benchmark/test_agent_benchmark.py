from __future__ import annotations

import json
from pathlib import Path

import pytest

from firmware_bridge.manifest import CalibrationEntry, ModelEntry
from toolkit.benchmark.agent_bare import score_folder
from toolkit.bundle import build_bundle
from toolkit.cli.main import run

DATA = Path(__file__).resolve().parents[2] / "data"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    entry = ModelEntry("models/model.int8.tflite", "int8", "models/head.int8.npy", CalibrationEntry(1.0, 0.0, 0.45))
    return build_bundle(
        tmp_path_factory.mktemp("bundle") / "tiny.cxr",
        name="tiny",
        labels=("NORMAL", "PNEUMONIA"),
        preprocessing={"version": 1, "steps": [{"name": "resize", "size_px": 32}]},
        models=[entry],
        files={entry.file: DATA / "tiny.int8.tflite", entry.head: DATA / "tiny.head.npy"},
        created="2026-01-01T00:00:00Z",
    )


def test_the_agent_is_measured_beside_a_bare_loop(
    bundle: Path, samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"
    arguments = ["benchmark", "--agent", "--bundle", str(bundle), "--images", str(samples), "--count", "20"]
    assert run([*arguments, "--rounds", "2", "--idle", "0.5", "--json", str(file)]) == 0
    said = capsys.readouterr().out
    for line in ("agent, results per second", "bare loop, results per second", "ratio", "idle, share of a core"):
        assert line in said
    figures = json.loads(file.read_text())["agent"]
    assert figures["files"] == 20
    assert len(figures["ratios"]) == 2
    assert all(figures[name] > 0 for name in ("agent_per_s", "bare_per_s", "ratio", "rss_bytes", "cold_start_s"))


def test_the_bare_loop_scores_every_file(bundle: Path, samples: Path) -> None:
    folder = next(path.parent for path in samples.rglob("*.jpg"))
    count, seconds = score_folder(bundle, folder)
    assert count == len(list(folder.glob("*.jpg")))
    assert seconds > 0


def test_what_is_missing_is_told(
    bundle: Path, samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["benchmark", "--images", str(samples)]) == 2
    assert run(["benchmark", "--agent", "--images", str(samples)]) == 2
    assert run(["benchmark", "--agent", "--bundle", str(bundle), "--images", str(tmp_path)]) == 3
    # As far as the folder without X-rays: the bundle that comes with the package was found.
    capsys.readouterr()
    assert run(["benchmark", "--agent", "--bundle", "cxr-edge/kermany", "--images", str(tmp_path)]) == 3
    assert "expected: X-rays as .jpg" in capsys.readouterr().err
    assert run(["benchmark", "--agent", "--bundle", "cxr-edge/nobody", "--images", str(tmp_path)]) == 2
    assert "no bundle called 'nobody'" in capsys.readouterr().err
