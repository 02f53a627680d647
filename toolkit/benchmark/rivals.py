"""The files that the naive way and the peers run, made once in a process of their own and kept in the user's cache.

A process of their own, because TensorFlow's memory and threads must not be in the process that measures. The weights
are random: time does not hang on them. Other versions of the tools make other files.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.errors import MissingExtraError, ModelError

SEED = 7
SIZE_PX = 224
CALIBRATION_IMAGES = 32


def _stock_float(out: Path) -> None:
    """`keras.applications`' EfficientNetB0, converted as its guide says."""
    from toolkit.tf import keras, tf

    keras.utils.set_random_seed(SEED)
    model = keras.applications.EfficientNetB0(weights=None, classes=1, classifier_activation="sigmoid")
    out.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())


def _onnx(out: Path) -> None:
    """Our one-channel B0 before pruning and quantization: the peers get the same network, not the stock one."""
    from toolkit.input_scale import InputScale
    from toolkit.model import Architecture, build_classifier
    from toolkit.tf import keras, tf

    keras.utils.set_random_seed(SEED)
    import tf2onnx  # after toolkit.tf: it imports TensorFlow, and Keras 2 must be chosen before that

    classifier = build_classifier(Architecture(size_px=SIZE_PX), trainable_drop=False)
    grey = keras.Input((SIZE_PX, SIZE_PX, 1), batch_size=1, name="grey_levels")
    model = keras.Model(grey, classifier(InputScale().normalise(grey)))
    tf2onnx.convert.from_keras(model, (tf.TensorSpec(grey.shape, tf.float32),), opset=17, output_path=str(out))


def _onnx_int8(out: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            self._items: Iterator[dict[str, Any]] = ({name: pixels} for pixels in _calibration())

        def get_next(self) -> dict[str, Any] | None:
            return next(self._items, None)

    import onnx

    source = out.with_name("float.onnx")
    _onnx(source)
    prepared = out.with_name("prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(out),
        Reader(onnx.load(str(prepared)).graph.input[0].name),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )


def _openvino_int8(out: Path) -> None:
    import nncf
    import openvino

    source = out.with_name("float.onnx")
    _onnx(source)
    quantized = nncf.quantize(openvino.convert_model(str(source)), nncf.Dataset(list(_calibration())))
    openvino.save_model(quantized, str(out))


def _calibration() -> Iterator[NDArray[np.float32]]:
    """(1, S, S, 1) float32 grey levels."""
    rng = np.random.default_rng(SEED)
    for _ in range(CALIBRATION_IMAGES):
        yield rng.integers(0, 256, (1, SIZE_PX, SIZE_PX, 1)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a rival's file is made and what that needs."""

    make: Callable[[Path], None]
    modules: tuple[str, ...]
    extra: str


RECIPES: Mapping[str, Recipe] = {
    "stock-b0.float.tflite": Recipe(_stock_float, ("tensorflow", "tf_keras"), "train"),
    "b0.int8.onnx": Recipe(_onnx_int8, ("tensorflow", "tf_keras", "tf2onnx", "onnx", "onnxruntime"), "train,bench"),
    "b0.int8.xml": Recipe(_openvino_int8, ("tensorflow", "tf_keras", "tf2onnx", "openvino", "nncf"), "train,bench"),
}


def rival_file(name: str) -> Path:
    """The rival's file, from the cache or made now (half a minute to two).

    Args:
        name: a key of `RECIPES`.

    Raises:
        MissingExtraError: a package that makes it is not installed.
        ModelError: making it failed.
    """
    recipe = RECIPES[name]
    for module in recipe.modules:
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError.for_module(module, recipe.extra)
    folder = _cache_folder() / f"{name}-{_fingerprint(recipe)}"
    file = folder / name
    if file.is_file():
        return file
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        command = [sys.executable, "-m", "toolkit.benchmark.rivals", name, str(made / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not (made / name).is_file():
            raise ModelError(
                f"the benchmark could not make {name}",
                expected=f"a file made by {', '.join(recipe.modules)}",
                came="\n".join(done.stderr.strip().splitlines()[-3:]) or f"exit code {done.returncode}",
                do="pip install -c constraints.txt 'cxr-edge[train,bench]', or leave --peers out",
            )
        shutil.rmtree(folder, ignore_errors=True)
        made.replace(folder)
    return file


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "cxr-edge" / "benchmark"


def _fingerprint(recipe: Recipe) -> str:
    # The code here shapes the file as much as the tools do.
    owners = importlib.metadata.packages_distributions()
    names = sorted({owner for module in recipe.modules for owner in owners.get(module, ())})
    versions = ",".join(f"{name}=={importlib.metadata.version(name)}" for name in names)
    return hashlib.sha256(versions.encode() + Path(__file__).read_bytes()).hexdigest()[:12]


if __name__ == "__main__":
    RECIPES[sys.argv[1]].make(Path(sys.argv[2]))
