"""An environment for each runtime: what its users must install, and what that takes on disk."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.remote import ROOT
from firmware_bridge.errors import ResourceError
from toolkit.extras import requirements
from toolkit.progress import progress

_PICTURES = ("numpy", "opencv-python-headless")
_PINS = ROOT / "constraints.txt"
_LIMIT_S = 900


@dataclass(frozen=True, slots=True)
class Wanted:
    """One environment.

    Attributes:
        packages: what is asked for; what they need comes along.
        pins: their exact versions.
        python: the version that it must have; empty for the one that runs this.
    """

    packages: Sequence[str]
    pins: Path = _PINS
    python: str = ""


def environments() -> Mapping[str, Wanted]:
    """All, by name. "device" is what a device gets; the others have their runtime, NumPy and OpenCV."""
    return {
        "device": Wanted(requirements()[""]),
        "litert": Wanted(("ai-edge-litert", *_PICTURES)),
        "tflite-runtime": Wanted(("tflite-runtime", *_PICTURES), ROOT / "constraints-tflite-runtime.txt", "3.11"),
        "onnxruntime": Wanted(("onnxruntime", *_PICTURES)),
        "openvino": Wanted(("openvino", *_PICTURES)),
        "tensorflow": Wanted(("tensorflow", *_PICTURES)),
    }


def build(names: Sequence[str], folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Make the environments that are not there yet.

    Returns:
        The Python of each, by name; and why one is left out, where this machine cannot have it.
    """
    pythons: dict[str, Path] = {}
    notes = []
    for name in progress(names, "environments"):
        try:
            pythons[name] = _build(environments()[name], folder / name)
        except ResourceError as error:
            notes.append(f"{name} is left out: {error.what} ({error.came})")
    return pythons, notes


def _build(wanted: Wanted, folder: Path) -> Path:
    python = folder / "bin" / "python"
    recipe = json.dumps([list(wanted.packages), wanted.pins.read_text(), wanted.python, sys.version])
    stamp, done = folder / ".recipe", hashlib.sha256(recipe.encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == done:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    _uv("venv", "--quiet", "--python", wanted.python or sys.executable, str(folder))
    _uv("pip", "install", "--quiet", "--python", str(python), "-c", str(wanted.pins), *wanted.packages)
    stamp.write_text(done)
    return python


def _uv(*arguments: str) -> None:
    from uv import find_uv_bin

    try:
        done = subprocess.run(
            [find_uv_bin(), *arguments], capture_output=True, text=True, timeout=_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise _cannot(f"no end within {_LIMIT_S} s") from error
    if done.returncode:
        raise _cannot(" ".join(done.stderr.split())[-300:])


def _cannot(came: str) -> ResourceError:
    return ResourceError(
        "an environment cannot be made",
        expected="uv to find that Python and those packages",
        came=came,
        do="check the network and the package index (UV_INDEX_URL)",
    )


def size_bytes(python: Path) -> int:
    """What the packages of an environment take, without byte code, which is made when it first runs."""
    site = next((python.parent.parent / "lib").glob("python*/site-packages"))
    files = (path for path in site.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files if "__pycache__" not in path.parts)
