"""TensorRT engines: built on the device by the system's `trtexec`, kept by GPU, TensorRT and model.

An engine holds for one GPU and one version of TensorRT, and TensorRT runs what stands in it: the folder must be
writable for nobody whom the agent does not trust (a deployment makes it so; the agent's sandbox only reads it).
Never run on a Jetson: only the building around a stand-in for `trtexec` is tested.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from firmware_bridge.errors import MissingExtraError, ModelError
from firmware_bridge.files import write_atomically

# Where the package libnvinfer-bin puts it; it is not on PATH.
_TRTEXEC = Path("/usr/src/tensorrt/bin/trtexec")
# Raised when the options below change: another engine comes out.
_RECIPE = 1
# FP16 beside INT8: what has no pair of quantizers around it runs in FP16, not in FP32.
_OPTIONS = {"fp16": ("--fp16",), "int8": ("--int8", "--fp16")}
_WORKSPACE_MB = 1024
LIMIT_S = 1200.0
_KEPT = 8


@dataclass(frozen=True, slots=True)
class Platform:
    """What an engine is built for.

    Attributes:
        gpu: name and compute capability, "Orin 8.7".
        tensorrt: version, "10.3.0".
    """

    gpu: str
    tensorrt: str


def this_platform() -> Platform:
    """This machine's.

    Raises:
        MissingExtraError: no TensorRT or no GPU.
    """
    from firmware_bridge.cuda import Cuda
    from firmware_bridge.tensorrt_runtime import import_tensorrt

    trt = import_tensorrt()
    return Platform(Cuda().name, str(trt.__version__))


def engine_key(platform: Platform, *, model_sha256: str, precision: str) -> str:
    """The engine's name: 32 hex digits that change with GPU, TensorRT, model file, precision, and how it is built."""
    facts = {**asdict(platform), "model": model_sha256, "precision": precision, "recipe": _RECIPE}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def find_engine(folder: Path, key: str) -> bytes | None:
    """The engine of that key; None where there is none, or not as it was built.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        told = json.loads((folder / f"{key}.json").read_bytes())
        plan = (folder / f"{key}.engine").read_bytes()
    except (FileNotFoundError, ValueError):
        return None
    except OSError as error:
        raise _failed(f"{folder}: {error.strerror}", expected="engines that this user may read") from error
    whole = isinstance(told, dict) and told.get("sha256") == hashlib.sha256(plan).hexdigest()
    return plan if whole else None


def load_engine(model: bytes, *, precision: str, folder: Path) -> bytes:
    """The engine of a model on this machine.

    Raises:
        MissingExtraError: no TensorRT or no GPU.
        ModelError: it was not built.
    """
    platform = this_platform()
    key = engine_key(platform, model_sha256=hashlib.sha256(model).hexdigest(), precision=precision)
    plan = find_engine(folder, key)
    if plan is None:
        raise ModelError(
            "there is no TensorRT engine for this model here",
            expected=f"{key}.engine, for {platform.gpu} and TensorRT {platform.tensorrt}",
            came=f"none in {folder}",
            do="deploy again: it is built then (after an update of TensorRT it must be)",
        )
    return plan


def build_engine(
    model: bytes,
    *,
    precision: str,
    platform: Platform,
    folder: Path,
    trtexec: Path = _TRTEXEC,
    limit_s: float = LIMIT_S,
) -> dict[str, Any]:
    """Have an engine in `folder`: the one that is there, or a new one.

    Args:
        model: the ONNX file.
        precision: "fp16" or "int8".
        platform: this machine's.
        folder: of engines.
        trtexec: the program.
        limit_s: it takes minutes on a Jetson; after this long it is ended.

    Returns:
        "key", "precision", "built" (False: it was there), "seconds".

    Raises:
        MissingExtraError: there is no `trtexec`.
        ModelError: it fails, or takes too long.
        OSError: the disk is full.
    """
    key = engine_key(platform, model_sha256=hashlib.sha256(model).hexdigest(), precision=precision)
    if find_engine(folder, key) is not None:
        return {"key": key, "precision": precision, "built": False, "seconds": 0.0}
    if not os.access(trtexec, os.X_OK):
        raise MissingExtraError(
            "there is no trtexec, which builds TensorRT engines",
            expected=str(trtexec),
            came="no such program",
            do="on a Jetson: sudo apt-get install libnvinfer-bin",
        )
    start_s = time.monotonic()
    with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as scratch:
        source, out = Path(scratch) / "model.onnx", Path(scratch) / "model.engine"
        source.write_bytes(model)
        command = [str(trtexec), f"--onnx={source}", f"--saveEngine={out}", "--skipInference"]
        command += [*_OPTIONS[precision], f"--memPoolSize=workspace:{_WORKSPACE_MB}"]
        _run(command, limit_s=limit_s)
        try:
            plan = out.read_bytes()
        except OSError as error:
            raise _failed("it ended well and wrote no engine", expected="an engine") from error
    seconds = round(time.monotonic() - start_s, 1)
    told = {**asdict(platform), "precision": precision, "sha256": hashlib.sha256(plan).hexdigest(), "seconds": seconds}
    write_atomically(folder / f"{key}.engine", plan, mode=0o644)
    # Last: an engine without it does not count.
    write_atomically(folder / f"{key}.json", json.dumps(told, indent=1).encode(), mode=0o644)
    _tidy(folder)
    return {"key": key, "precision": precision, "built": True, "seconds": seconds}


def _run(command: Sequence[str], *, limit_s: float) -> None:
    """Run to the end, or end it and all that it started.

    Raises:
        ModelError: it failed or took too long.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(timeout=limit_s)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise _failed(f"no end within {limit_s:.0f} s", expected="an engine by then") from error
            raise
        if code:
            log.seek(0)
            lines = [line for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
            told = [line for line in lines if "[E]" in line] or lines[-1:] or [f"exit code {code}"]
            raise _failed(told[0][:300], expected="an engine")


def _tidy(folder: Path) -> None:
    """Keep the newest engines; older ones are built again where a rollback needs them."""
    found = sorted(folder.glob("*.engine"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in found[_KEPT:]:
        old.with_suffix(".json").unlink(missing_ok=True)
        old.unlink()
    for left in folder.glob(".build-*"):
        if time.time() - left.stat().st_mtime > LIMIT_S * 2:  # of a build that was cut off
            shutil.rmtree(left, ignore_errors=True)


def _failed(came: str, *, expected: str) -> ModelError:
    return ModelError(
        "trtexec built no TensorRT engine", expected=expected, came=came, do="the CPU scores; report what trtexec said"
    )
