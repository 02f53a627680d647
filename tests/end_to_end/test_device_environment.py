"""The device part in environments of its own, as a device has them: no TensorFlow, one of the two runtimes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from firmware_bridge.errors import MissingExtraError

REPOSITORY = Path(__file__).resolve().parent.parent.parent
ROOMS = "toolkit", "calibration", "firmware_bridge"
PROJECT_FILES = "pyproject.toml", "README.md", "LICENSE"
PYTHON_OF_TFLITE_RUNTIME = (3, 11)
PROBABILITY_TOLERANCE = 2 / 256  # two steps of the int8 output: the runtimes round differently inside
WORKSTATION_ONLY = "tensorflow,keras,tf_keras,tensorflow_model_optimization,albumentations"
LIMIT_S = 300

pytestmark = [pytest.mark.device_env, pytest.mark.slow]

SCORE = """
import importlib.util, json, sys
from pathlib import Path
import numpy as np
from firmware_bridge.interpreter import open_interpreter
from firmware_bridge.preprocess import Preprocessing
from firmware_bridge.score import Calibration, Head, Scorer
import toolkit.doctor.facts

interpreter = open_interpreter(toolkit.doctor.facts.PROBE_MODEL, threads=1)
channels = interpreter.run(np.zeros((interpreter.size_px, interpreter.size_px), np.uint8)).mean_features().size
head = Head(weights=np.linspace(-1, 1, channels, dtype=np.float32), bias=0.0)
scorer = Scorer(interpreter, head, Calibration(1.0, 0.0, 0.5), Preprocessing.default(size_px=interpreter.size_px))
scores = [scorer.score(Path(name)) for name in sys.argv[2:]]
print(json.dumps({
    "runtime": interpreter.runtime,
    "numpy": np.__version__,
    "workstation": [name for name in sys.argv[1].split(",") if importlib.util.find_spec(name)],
    "pixels": [score.pixels.tolist() for score in scores],
    "probabilities": [score.probability for score in scores],
    "own": [score.output.probability for score in scores],
    "explained": [bool(scorer.explain(score).shape) for score in scores],
}))
"""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([*command], capture_output=True, text=True, timeout=LIMIT_S, check=False, cwd=cwd)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def install(python: Path, *what: str | Path, cwd: Path) -> None:
    """With uv, or with pip where uv finds no index (a mirror that only pip's configuration names)."""
    uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(python), *map(str, what)]
    done = subprocess.run(uv, capture_output=True, text=True, timeout=LIMIT_S, check=False, cwd=cwd)
    if done.returncode:
        run(python, "-m", "pip", "install", "--quiet", *what, cwd=cwd)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is packaged: building in the tree itself would leave folders behind."""
    copy = tmp_path_factory.mktemp("source")
    for room in ROOMS:
        shutil.copytree(REPOSITORY / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in PROJECT_FILES:
        shutil.copy(REPOSITORY / name, copy / name)
    return copy


def python_3_11() -> str | None:
    if sys.version_info[:2] == PYTHON_OF_TFLITE_RUNTIME:
        return sys.executable
    found = shutil.which("python3.11")
    # A version manager's stand-in exists on PATH even where the version itself is not there.
    works = (
        found and subprocess.run([found, "-c", "import ensurepip"], capture_output=True, check=False).returncode == 0
    )
    return found if works else None


@pytest.fixture(scope="module")
def litert_python(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("litert")
    run(sys.executable, "-m", "venv", folder / "env", cwd=folder)
    python = folder / "env" / "bin" / "python"
    install(python, "-c", REPOSITORY / "constraints.txt", source, cwd=folder)
    return python


@pytest.fixture(scope="module")
def tflite_runtime_python(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    interpreter = python_3_11()
    if interpreter is None:
        pytest.skip("needs Python 3.11, the last one that tflite-runtime 2.14 was built for")
    folder = tmp_path_factory.mktemp("tflite-runtime")
    run(interpreter, "-m", "venv", folder / "env", cwd=folder)
    python = folder / "env" / "bin" / "python"
    install(python, "-r", REPOSITORY / "constraints-tflite-runtime.txt", cwd=folder)
    # Without its dependencies: they name ai-edge-litert, in whose place tflite-runtime stands here.
    install(python, "--no-deps", source, cwd=folder)
    return python


def score(python: Path, images: list[Path]) -> dict[str, Any]:
    answer = run(python, "-W", "error", "-c", SCORE, WORKSTATION_ONLY, *images, cwd=python.parent)
    said = json.loads(answer.splitlines()[-1])
    assert isinstance(said, dict)
    return said


@pytest.fixture(scope="module")
def images(samples: Path) -> list[Path]:
    found = sorted((samples / "chest_xray").rglob("*.jp*g"))
    assert len(found) >= 4
    return found[:: len(found) // 4]


def test_base_install_scores_without_the_workstation(litert_python: Path, images: list[Path]) -> None:
    said = score(litert_python, images)
    assert said["runtime"] == "ai-edge-litert"
    assert said["workstation"] == []
    assert all(said["explained"])


def test_tflite_runtime_scores_alike_without_the_workstation(
    litert_python: Path, tflite_runtime_python: Path, images: list[Path]
) -> None:
    said = score(tflite_runtime_python, images)
    other = score(litert_python, images)
    assert said["runtime"] == "tflite-runtime"
    assert said["numpy"].startswith("1.")
    assert said["workstation"] == []
    assert said["pixels"] == other["pixels"]
    assert said["probabilities"] == pytest.approx(other["probabilities"], abs=PROBABILITY_TOLERANCE)
    assert said["own"] == pytest.approx(other["own"], abs=PROBABILITY_TOLERANCE)


def test_commands_answer_in_the_base_install(litert_python: Path) -> None:
    command = litert_python.with_name("cxr-edge")
    assert "Not for diagnosis" in run(command, "--help", cwd=litert_python.parent)
    doctor = subprocess.run(
        [command, "doctor", "--json"],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        cwd=litert_python.parent,
    )
    findings = {finding["check"]: finding for finding in json.loads(doctor.stdout)["findings"]}
    assert findings["extra train"]["status"] == "note"
    assert findings["inference (probe.int8.tflite)"]["status"] == "ok"


def test_training_says_which_extra_it_needs(litert_python: Path, samples: Path, tmp_path: Path) -> None:
    command = list(
        map(str, (litert_python.with_name("cxr-edge"), "train-qat", samples / "index.csv", "--out", tmp_path))
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False, cwd=tmp_path)
    assert done.returncode == MissingExtraError.exit_code, done.stderr
    assert "pip install '.[train]'" in done.stderr
    assert "Traceback" not in done.stderr
