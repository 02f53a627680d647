from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from firmware_bridge.errors import ConfigError, InputError, ModelError, UnreadableImage
from toolkit.benchmark.cold import measure_cold
from toolkit.benchmark.contenders import Ours
from toolkit.benchmark.measure import STAGES, Plan, run_benchmark
from toolkit.benchmark.stock import stock_file
from toolkit.benchmark.table import render
from toolkit.cli.main import run
from toolkit.doctor.facts import PROBE_MODEL


def plan(images: Path, *, threads: Sequence[int] = (1, 2), limit: int = 3, rounds: int = 2) -> Plan:
    return Plan(models=[PROBE_MODEL], images=images, threads=threads, limit=limit, rounds=rounds, naive=False)


def test_every_stage_is_timed_for_every_number_of_threads(samples: Path) -> None:
    benchmark = run_benchmark(plan(samples))
    assert [row.threads for row in benchmark.rows] == [1, 2]
    for row in benchmark.rows:
        assert tuple(row.stages_ms) == tuple(stage for stage in STAGES if stage != "lungs")
        parts = sum(row.stages_ms[stage]["p50"] for stage in ("decode", "preprocess", "infer"))
        assert 0 < parts < 2 * row.stages_ms["file to score"]["p95"]
        assert row.stages_ms["file to score"]["p50"] < row.stages_ms["total"]["p95"]
        assert row.stages_ms["folder"]["p50"] > 0
        assert row.delegate == "XNNPACK"
        assert row.partitions == 1
        assert row.file_bytes == PROBE_MODEL.stat().st_size
        assert row.cold is not None
        assert 0 < row.cold.first_inference_ms < row.cold.start_ms


def test_a_folder_with_a_damaged_x_ray_stops_with_its_error(samples: Path, tmp_path: Path) -> None:
    whole = min((samples / "chest_xray").rglob("*.jp*g"))
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(whole.read_bytes()[:3000])
    with pytest.raises(UnreadableImage):
        Ours(PROBE_MODEL, threads=1).time_folder([whole, broken, whole, whole, whole, whole])


@pytest.mark.slow
def test_the_naive_way_is_measured_as_a_script_leaves_it_and_with_our_threads(samples: Path) -> None:
    if importlib.util.find_spec("tensorflow") is None:  # not imported here: that takes long
        pytest.skip("needs tensorflow: pip install 'cxr-edge[train]'")
    benchmark = run_benchmark(replace(plan(samples, threads=(2,)), naive=True))
    assert [(row.name, row.threads) for row in benchmark.rows[1:]] == [
        ("naive", 1),
        ("naive", 2),
        ("naive, bilinear", 1),
    ]
    assert set(benchmark.rows[0].ratios) == {
        f"{stage} / {name}"
        for stage in ("infer", "file to score", "folder")
        for name in ("naive, 1 thread", "naive", "naive, bilinear, 1 thread")
    }
    assert all(ratio > 0 for ratio in benchmark.rows[0].ratios.values())


def test_the_report_is_json_and_a_table(samples: Path) -> None:
    benchmark = run_benchmark(plan(samples, threads=(1,)))
    report = json.loads(json.dumps(benchmark.to_json()))
    assert report["schema"] == 1
    assert "Not for diagnosis" in report["notice"]
    assert report["rows"][0]["cold"]["rss_bytes"] > 10e6
    assert "probe.int8.tflite" in render(benchmark)


def test_dicom_alone_is_measured_too(samples: Path) -> None:
    assert run_benchmark(plan(samples / "dicom", threads=(1,))).images == 2


def test_an_empty_folder_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to measure"):
        run_benchmark(plan(tmp_path))


@pytest.mark.parametrize("wrong", [{"threads": (0,)}, {"threads": ()}, {"rounds": 0}, {"limit": -1}])
def test_numbers_below_one_are_refused(samples: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        run_benchmark(plan(samples, **wrong))  # type: ignore[arg-type]


def test_threads_that_are_no_numbers_are_refused(samples: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["benchmark", "--model", str(PROBE_MODEL), "--images", str(samples), "--threads", "one"]
    assert run(arguments) == ConfigError.exit_code
    assert "1,2" in capsys.readouterr().err


def test_a_file_that_is_no_model_is_refused(samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "no model.tflite"
    wrong.write_bytes(b"nothing")
    assert run(["benchmark", "--model", str(wrong), "--images", str(samples)]) == ModelError.exit_code
    assert "TFLite" in capsys.readouterr().err
    with pytest.raises(ModelError, match="fresh process"):
        measure_cold(wrong, next((samples / "chest_xray").rglob("*.jp*g")), threads=1)


def test_the_command_writes_json_ends_with_the_notice_and_loads_no_tensorflow(samples: Path, tmp_path: Path) -> None:
    report = tmp_path / "a folder" / "bench.json"
    arguments = ["benchmark", "--model", str(PROBE_MODEL), "--images", str(samples), "--no-naive", "--limit", "2"]
    code = (
        f"import sys; from toolkit.cli.main import run; code = run({[*arguments, '--json', str(report)]!r})\n"
        "sys.exit(code or 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "Not for diagnosis" in done.stdout.splitlines()[-1]
    assert json.loads(report.read_text())["images"] == 2


@pytest.mark.slow
def test_the_stock_file_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("tensorflow") is None:  # not imported here: that takes long
        pytest.skip("needs tensorflow: pip install 'cxr-edge[train]'")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = stock_file()
    made_at = first.stat().st_mtime_ns
    assert stock_file() == first
    assert first.stat().st_mtime_ns == made_at
    assert first.stat().st_size > 100_000


def test_without_tensorflow_the_naive_way_is_left_out_and_named(samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    benchmark = run_benchmark(replace(plan(samples, threads=(1,), limit=1, rounds=1), naive=True))
    assert [row.name for row in benchmark.rows] == [PROBE_MODEL.name]
    assert any("naive way is left out" in note for note in benchmark.notes)
