"""Runs that are killed, interrupted, repeated and given what they cannot use; each is a process of its own."""

from __future__ import annotations

import json
import multiprocessing
import runpy
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from firmware_bridge.bundle import open_bundle
from firmware_bridge.golden import require_golden
from toolkit.data.index import Index

SCRIPT = Path(__file__).with_name("tiny_run.py")
EPOCHS = 2
PHASES = ("float", "prune", "qat")
# One server imports TensorFlow once; each run is a fresh process forked from it.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["toolkit.train", "toolkit.export_run", "toolkit.evaluate", "toolkit.report", "albumentations"]
)


class Run:
    """Starts the same command again and again in one folder."""

    def __init__(self, index: Path, out: Path) -> None:
        self.index, self.out, self.folder = index, out, out / "t"
        self.logs = 0

    def start(self, *arguments: str, stop: tuple[str, int] | None = None) -> tuple[int, str]:
        """Exit code and console of one start; `stop` is (line, signal), see tiny_run.py."""
        self.logs += 1
        log = self.out / f"{self.index.stem}.{self.logs}.log"
        given = ["train-qat", str(self.index), "--out", str(self.out), "--name", "t", "--backbone", "tiny"]
        given += ["--size-px", "32", "--batch-size", "8", "--augment", "light", "--allow-int8-loss", "--golden", "2"]
        given += [part for phase in PHASES for part in (f"--{phase}-epochs", str(EPOCHS))]
        variables = {"ARGUMENTS": [*given, *arguments], "LOG": str(log), "STOP": stop}
        process = SERVER.Process(
            target=runpy.run_path, args=(str(SCRIPT),), kwargs={"init_globals": variables, "run_name": "__main__"}
        )
        process.start()
        process.join(600)
        assert process.exitcode is not None, log.read_text()
        return process.exitcode, log.read_text()

    def parts(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if ".part" in path.name]


@pytest.fixture(scope="module")
def run(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on the samples and one damaged X-ray, killed in each phase, interrupted once, then finished."""
    folder = tmp_path_factory.mktemp("runs")
    index = Index.read(samples / "index.csv")
    damaged = folder / "damaged one.jpg"
    first = index.select(split="train").rows[0]
    damaged.write_bytes(first.path.read_bytes()[:3000])
    index.with_rows([*index.rows, replace(first, path=damaged, patient_id="nobody else")]).write(folder / "index.csv")
    return Run(folder / "index.csv", folder)


@pytest.fixture(scope="module")
def finished(run: Run) -> Run:
    """The same, finished: by the test that cuts it off, or where that was not chosen, in one go."""
    if not (run.folder / "done.json").exists():
        code, log = run.start()
        assert code == 0, log
    return run


def test_killed_in_each_phase_it_goes_on(run: Run) -> None:
    for phase in PHASES:
        code, log = run.start(stop=(f"{phase} 1/{EPOCHS}: loss", signal.SIGKILL))
        assert code == -signal.SIGKILL, log
        assert len(json.loads((run.folder / phase / "history.json").read_text())) == 1
        assert "left out: " in log
        assert "damaged one.jpg" in log
        assert not (run.folder / "models" / "model.int8.tflite").exists()
    code, log = run.start(stop=("qat: going on after epoch 1", signal.SIGINT))
    assert code == 130, log
    assert "interrupted" in log
    assert "Traceback" not in log
    assert not run.parts()
    code, log = run.start()
    assert code == 0, log
    assert "float: done before" in log
    assert "qat: going on after epoch 1" in log
    history = json.loads((run.folder / "history.json").read_text())["phases"]
    assert [phase["name"] for phase in history] == list(PHASES)
    for phase in history:
        assert [epoch["epoch"] for epoch in phase["epochs"]] == list(range(1, EPOCHS + 1))
    assert not run.parts()


def test_what_is_finished_is_complete(finished: Run) -> None:
    for precision in ("int8", "fp16", "ptq.int8"):
        assert (finished.folder / "models" / f"model.{precision}.tflite").stat().st_size > 1000
    for name in ("report.html", "export.json", "calibration.json", "evaluation.json", "audit.json", "config.toml"):
        assert (finished.folder / name).stat().st_size > 100, name
    with open_bundle(finished.folder / "t.cxr") as bundle:
        assert require_golden(bundle)


def test_a_second_start_changes_nothing(finished: Run) -> None:
    before = _times(finished.folder)
    code, log = finished.start()
    assert code == 0, log
    assert "finished before" in log
    assert "starting TensorFlow" not in log  # which is what takes time
    assert _times(finished.folder) == before


def test_what_was_lost_of_a_finished_run_is_made_again_without_training(finished: Run) -> None:
    weights = (finished.folder / "float" / "final.weights.h5").read_bytes()
    (finished.folder / "t.cxr").unlink()
    code, log = finished.start()
    assert code == 0, log
    assert log.count("done before") == len(PHASES)
    assert (finished.folder / "t.cxr").is_file()
    assert (finished.folder / "float" / "final.weights.h5").read_bytes() == weights


def test_another_configuration_or_other_xrays_are_refused(finished: Run) -> None:
    before = _times(finished.folder)
    code, log = finished.start("--seed", "2")
    assert (code, "other values of seed" in log) == (2, True), log
    other = Index.read(finished.index)
    swapped = [replace(row, label={"normal": "pneumonia"}.get(row.label, "normal")) for row in other.rows]
    other.with_rows(swapped).write(finished.out / "other.csv")
    code, log = Run(finished.out / "other.csv", finished.out).start()
    assert (code, "holds a run on other X-rays" in log) == (2, True), log
    assert _times(finished.folder) == before


def test_the_console_shows_our_lines_only(finished: Run) -> None:
    # The log of the longest run.
    text = max(finished.out.glob("*.log"), key=lambda path: len(path.read_text())).read_text()
    for chatter in ("XNNPACK", "fully_quantize", "absl::", "E0000", "W0000", "I0000", "Traceback"):
        assert chatter not in text, text


def _times(folder: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}
