"""From a TFLite file to ONNX, for TensorRT and ONNX Runtime: the deployed network itself, not a second export.

tf2onnx reads the file that was measured, calibrated and evaluated: the pruned float network with its FP16 weights, or
the integer network with a QuantizeLinear and a DequantizeLinear wherever it rounds. From Keras it would be another
network: there, batch normalisation is not folded yet, and the fake quantizers sit elsewhere than the file's.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from firmware_bridge.errors import MissingExtraError, ModelError
from firmware_bridge.onnx_runtime import FEATURES, INPUT, PROBABILITY
from toolkit.quiet import quiet

# What TensorRT 8.6 (JetPack 6.0) reads whole, with a scale for each output channel (opset 13 and later).
OPSET = 17


def to_onnx(tflite: bytes, *, precision: str) -> bytes:
    """The ONNX form of one of our TFLite files.

    Its input `grey` is (1, S, S, 1) float32, grey levels 0 to 255, whatever the precision; its outputs are
    `probability` (1, 1) and `features` (1, h, w, C), both float32.

    Args:
        tflite: the file.
        precision: "int8" (every zero point becomes 0, see `onnx_symmetric`) or "fp16" (float32 arithmetic on the
            FP16 weights; whoever runs it chooses the arithmetic).

    Raises:
        MissingExtraError: tf2onnx or onnx is not installed.
        ModelError: the file cannot be converted.
    """
    try:
        from toolkit.tf import tf  # noqa: F401, I001 - chooses Keras 2 before tf2onnx imports TensorFlow
        import onnx
        import tf2onnx
    except ModuleNotFoundError as error:
        raise MissingExtraError.for_module(error.name or "tf2onnx", "train,onnx") from error
    from toolkit.onnx_symmetric import symmetric

    with tempfile.TemporaryDirectory() as folder, _silence(), quiet():
        file = Path(folder) / "model.tflite"
        file.write_bytes(tflite)
        try:
            model, _ = tf2onnx.convert.from_tflite(str(file), opset=OPSET)
        except Exception as error:  # its mappers raise whatever a missing operator leads to
            raise _refused(f"{type(error).__name__}: {error}") from error
    if precision == "int8":
        model = symmetric(model)
    _rename(model)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # ValidationError and InferenceError have no common base
        raise _refused(str(error).splitlines()[0]) from error
    model.doc_string = model.graph.doc_string = ""
    model.graph.name = "cxr-edge"
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _rename(model: Any) -> None:
    """Give input and outputs the names that the TFLite file's signature has, and count all others.

    tf2onnx numbers its tensors by a counter that the process shares: equal files must give equal bytes.
    """
    graph = model.graph
    ranks = {len(one.type.tensor_type.shape.dim): one.name for one in graph.output}
    if len(graph.input) != 1 or sorted(ranks) != [2, 4] or len(graph.output) != 2:
        raise _refused(f"{len(graph.input)} inputs, outputs of ranks {sorted(ranks)}")
    names = {"": "", graph.input[0].name: INPUT, ranks[2]: PROBABILITY, ranks[4]: FEATURES}
    for i, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{i}"
        for tensors in (node.input, node.output):
            tensors[:] = [names.setdefault(name, f"t{len(names)}") for name in tensors]
    constants = {names[one.name]: one for one in graph.initializer if one.name in names}
    for name, one in constants.items():
        one.name = name
    kept = [
        constants[name]
        for name in dict.fromkeys(name for node in graph.node for name in node.input)
        if name in constants
    ]
    copies = [type(one).FromString(one.SerializeToString()) for one in kept]
    del graph.initializer[:], graph.value_info[:]
    graph.initializer.extend(copies)
    for end in (*graph.input, *graph.output):
        end.name = names[end.name]
    graph.output.sort(key=lambda end: end.name, reverse=True)


@contextmanager
def _silence() -> Iterator[None]:
    """tf2onnx tells its progress as warnings and log lines, and TensorFlow that its interpreter moved house."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _refused(came: str) -> ModelError:
    return ModelError(
        "the model cannot be converted to ONNX",
        expected="a TFLite file of this project, of operators that tf2onnx knows",
        came=came[:300],
        do="use a backbone of this project and the versions that constraints.txt names; deploy without ONNX meanwhile",
    )
