"""The peers' files: the same float network in ONNX and OpenVINO's form, and int8 by the tools of each runtime.

int8 is made after training, from representative X-rays, as a user of those runtimes would: ONNX Runtime's static
quantization (QDQ, weights by channel) and NNCF. Our int8 file learned to live with its rounding; theirs did not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contenders import STOCK
from firmware_bridge.errors import ModelError
from firmware_bridge.onnx_runtime import INPUT
from toolkit.benchmark.stock import stock_file
from toolkit.lungs.asset import FILE as LUNGS_FILE
from toolkit.onnx_export import OPSET, to_onnx

LUNGS_ONNX = "lungs.int8.onnx"
Grey = NDArray[np.uint8]


def onnx_files(name: str, folder: Path, representative: Grey) -> None:
    """`name`.float.onnx and `name`.int8.onnx in `folder`, from `name`.float.tflite there.

    Args:
        name: of the network.
        folder: where the files are.
        representative: (N, S, S) uint8, preprocessed X-rays.

    Raises:
        MissingExtraError: tf2onnx or onnx is not installed.
        ModelError: a file cannot be made.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._items: Iterator[dict[str, Any]] = ({INPUT: one} for one in _batches(representative))

        def get_next(self) -> dict[str, Any] | None:
            return next(self._items, None)

    # "fp16" means: no integers to make symmetric; the arithmetic is float32.
    (folder / f"{name}.float.onnx").write_bytes(
        to_onnx((folder / f"{name}.float.tflite").read_bytes(), precision="fp16")
    )
    with tempfile.TemporaryDirectory() as scratch:
        prepared = Path(scratch) / "prepared.onnx"
        quant_pre_process(str(folder / f"{name}.float.onnx"), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(folder / f"{name}.int8.onnx"),
            Reader(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )


def openvino_files(name: str, folder: Path, representative: Grey) -> None:
    """`name`.float.xml and `name`.int8.xml in `folder`, from `name`.float.onnx there; arguments as `onnx_files`."""
    import nncf
    import openvino

    model = openvino.convert_model(str(folder / f"{name}.float.onnx"))
    openvino.save_model(model, str(folder / f"{name}.float.xml"), compress_to_fp16=False)
    batches = list(_batches(representative))
    quantized = nncf.quantize(model, nncf.Dataset(batches), subset_size=len(batches))
    openvino.save_model(quantized, str(folder / f"{name}.int8.xml"))


def lungs_onnx(folder: Path) -> None:
    """The lung network for ONNX Runtime, from its int8 file in `folder`. (OpenVINO reads that file itself.)

    Raises:
        ModelError: it cannot be converted.
    """
    from toolkit.tf import tf  # noqa: F401, I001 - chooses Keras 2 before tf2onnx imports TensorFlow
    import tf2onnx

    try:
        tf2onnx.convert.from_tflite(str(folder / LUNGS_FILE), opset=OPSET, output_path=str(folder / LUNGS_ONNX))
    except Exception as error:  # its mappers raise whatever a missing operator leads to
        raise ModelError(
            "the lung network cannot be converted to ONNX",
            expected="operators that tf2onnx knows",
            came=str(error)[:300],
            do="use the versions that constraints.txt names",
        ) from error


def stock_files(folder: Path) -> None:
    """The stock network as TFLite. (The script with `model.predict` builds its own.)

    Raises:
        MissingExtraError: TensorFlow is not installed.
        ModelError: it cannot be made.
    """
    (folder / f"{STOCK}.float.tflite").write_bytes(stock_file().read_bytes())


def _batches(pixels: Grey) -> Iterator[NDArray[np.float32]]:
    """(1, S, S, 1) float32 grey levels, one X-ray at a time."""
    for one in pixels:
        yield one.astype(np.float32)[None, :, :, None]
