"""The law of the rooms: who may import whom, read from the source and tried in a fresh interpreter."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
ROOMS = "toolkit", "calibration", "firmware_bridge"
WORKSTATION_ONLY = "tensorflow", "keras", "tf_keras", "tensorflow_model_optimization", "albumentations"
# What each room may not import, at any depth of a function.
FORBIDDEN = {
    "firmware_bridge": {"toolkit", "calibration", *WORKSTATION_ONLY},
    "calibration": {"toolkit", *WORKSTATION_ONLY},
}
# Calibration computes with NumPy and the standard library, so that it can run wherever numbers are.
CALIBRATION_MAY = {"numpy", "calibration", "firmware_bridge", *sys.stdlib_module_names}
# TensorFlow comes in through one door, which chooses Keras 2 before anything else can.
THE_DOOR = Path("toolkit/tf.py")


def _sources(room: str) -> list[Path]:
    return sorted(path.relative_to(REPOSITORY) for path in (REPOSITORY / room).rglob("*.py"))


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level name of every absolute import in a file, those inside functions included."""
    tree = ast.parse((REPOSITORY / path).read_text(encoding="utf-8"), filename=str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module.partition(".")[0]


def _module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_modules(room: str) -> None:
    assert _sources(room)


@pytest.mark.parametrize("room", FORBIDDEN)
def test_no_source_imports_what_its_room_may_not(room: str) -> None:
    broken = [f"{path}:{line} imports {name}" for path in _sources(room) for line, name in _imports(path)]
    assert [line for line in broken if line.rpartition(" ")[2] in FORBIDDEN[room]] == []


def test_the_package_does_not_need_the_benchmarks() -> None:
    imports = [(path, name) for room in ROOMS for path in _sources(room) for _, name in _imports(path)]
    assert [path for path, name in imports if name == "benchmarks"] == []


def test_calibration_needs_numpy_alone() -> None:
    imports = [(path, line, name) for path in _sources("calibration") for line, name in _imports(path)]
    assert [f"{path}:{line} imports {name}" for path, line, name in imports if name not in CALIBRATION_MAY] == []


def test_tensorflow_comes_in_through_one_door() -> None:
    """What the door does not hand out (a submodule) may be imported below an import of the door, never before it."""
    through = {"tensorflow", "keras", "tf_keras", "tensorflow_model_optimization"}
    broken = []
    for path in _sources("toolkit"):
        if path != THE_DOOR:
            source = (REPOSITORY / path).read_text(encoding="utf-8").splitlines()
            door = next((line for line, text in enumerate(source, 1) if "toolkit.tf import" in text), len(source) + 1)
            broken += [
                f"{path}:{line} imports {name}" for line, name in _imports(path) if name in through and line < door
            ]
    assert broken == []


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_fresh_interpreter_stays_free_of_the_workstation(room: str) -> None:
    modules = [_module_name(path) for path in _sources(room) if path.name != "__main__.py"]
    code = (
        f"import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\n"
        f"print([name for name in {sorted(FORBIDDEN[room])!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
