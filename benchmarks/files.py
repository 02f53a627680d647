"""The work folder: every contender's model file and the prepared X-rays, made once for one index and these versions."""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import networks as networks_module
from benchmarks import peer_files as peer_files_module
from benchmarks.contenders import LITE0
from benchmarks.networks import SEED, lung_finder, networks, our_files
from benchmarks.peer_files import lungs_onnx, onnx_files, openvino_files, stock_files
from calibration.representative import representative_rows
from firmware_bridge.errors import InputError
from toolkit.data.index import Index, Xray
from toolkit.data.load import load
from toolkit.progress import progress

CALIBRATION_XRAYS = 128
HELD_OUT = "held-out.npz"
_TOOLS = ("tensorflow", "tf_keras", "tf2onnx", "onnx", "onnxruntime", "openvino", "nncf")

Grey = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The X-rays that the trained network is judged by.

    Attributes:
        file: `.npz`: `pixels` (N, S, S) uint8, prepared for it.
        positive: (N,) bool.
        patients: (N,) str.
    """

    file: Path
    positive: NDArray[np.bool_]
    patients: NDArray[np.str_]


def make_files(index: Path, positive: str, folder: Path) -> Path:
    """Make what is not there yet: minutes the first time.

    Args:
        index: its split `train` gives the X-rays that int8 is made with, `test` those that AUROC is measured on.
        positive: the label that means sick.
        folder: the work folder.

    Returns:
        The folder of files, named after the index and the tools' versions.

    Raises:
        InputError: a split is empty, or has one class alone.
        MissingExtraError, ModelError: a file cannot be made.
    """
    read = Index.read(index)
    made = folder / _fingerprint(read, positive)
    if made.is_dir():
        return made
    part = made.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    _held_out(read, positive, part / HELD_OUT)
    rows = _representative(read)
    steps: dict[str, Callable[[], Any]] = {"stock": lambda: stock_files(part)}
    for name, network in networks().items():
        pixels = load(rows, network.preprocessing, finder=lung_finder()).pixels
        for kind, make in (("ours", our_files), ("ONNX", onnx_files), ("OpenVINO", openvino_files)):
            first = network if make is our_files else name
            steps[f"{name}, {kind}"] = lambda make=make, first=first, pixels=pixels: make(first, part, pixels)  # type: ignore[misc]
    steps["lungs"] = lambda: lungs_onnx(part)
    for step in progress(list(steps.values()), "model files"):
        step()
    part.replace(made)
    return made


def read_held_out(folder: Path) -> HeldOut:
    """What `make_files` wrote."""
    file = folder / HELD_OUT
    with np.load(file, allow_pickle=False) as stored:
        return HeldOut(file, stored["positive"], stored["patients"])


def preprocessing_of() -> Mapping[str, Mapping[str, Any]]:
    """The steps of each network, as a manifest has them."""
    return {name: network.preprocessing.to_manifest() for name, network in networks().items()}


def _held_out(index: Index, positive: str, file: Path) -> None:
    rows = _of_split(index, "test")
    loaded = load(rows, networks()[LITE0].preprocessing, finder=lung_finder())
    sick = np.array([row.label == positive for row in loaded.rows])
    if sick.all() or not sick.any():
        raise InputError(
            "the split 'test' cannot tell good from bad",
            expected=f"rows with the label '{positive}' and rows with another one",
            came=", ".join(sorted({row.label for row in rows})),
            do="name the label with --positive",
        )
    np.savez(file, pixels=loaded.pixels, positive=sick, patients=np.array([row.patient_id for row in loaded.rows]))


def _representative(index: Index) -> list[Xray]:
    rows = _of_split(index, "train")
    labels, patients = [row.label for row in rows], [row.patient_id for row in rows]
    return [rows[i] for i in representative_rows(labels, patients=patients, n=CALIBRATION_XRAYS, seed=SEED)]


def _of_split(index: Index, split: str) -> list[Xray]:
    rows = list(index.select(split=split))
    if not rows:
        raise InputError(
            f"the index has no X-ray in its split '{split}'",
            expected="the splits train and test",
            came=f"{len(index)} X-rays in others",
            do="cxr-edge data split INDEX",
        )
    return rows


def _fingerprint(index: Index, positive: str) -> str:
    # The code shapes the files as much as the tools do.
    code = [Path(str(module.__file__)).read_bytes() for module in (networks_module, peer_files_module)]
    versions = ",".join(f"{name}=={importlib.metadata.version(name)}" for name in _TOOLS)
    splits = sorted(f"{row.path.name} {row.split}" for row in index)
    text = f"{index.fingerprint()} {splits} {positive} {CALIBRATION_XRAYS} {versions}".encode()
    return "files-" + hashlib.sha256(b"".join([text, *code])).hexdigest()[:12]
