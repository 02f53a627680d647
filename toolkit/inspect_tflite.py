"""What really is in a written `.tflite` file: operators, zeros per kernel, float operators, partitions."""

from __future__ import annotations

import gzip
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from firmware_bridge.errors import ModelError
from firmware_bridge.interpreter import open_interpreter
from toolkit.quiet import quiet
from toolkit.tf import tf  # noqa: F401 - chooses Keras 2 before the schema imports TensorFlow

# Operators whose second input is a kernel that pruning zeroes. Depthwise kernels stay whole.
_PRUNED_OPERATORS = ("CONV_2D", "FULLY_CONNECTED")
_KERNEL_OPERATORS = (*_PRUNED_OPERATORS, "DEPTHWISE_CONV_2D")


@dataclass(frozen=True, slots=True)
class KernelZeros:
    """Zeros of one kernel in the file.

    Attributes:
        name: of the tensor.
        operator: that uses it.
        shape: of the tensor.
        zeros: weights that stand for exactly 0.
        size: all weights.
        pruned: whether pruning touches this kind of kernel.
    """

    name: str
    operator: str
    shape: tuple[int, ...]
    zeros: int
    size: int
    pruned: bool


@dataclass(frozen=True, slots=True)
class FileFacts:
    """Facts of one `.tflite` file.

    Attributes:
        bytes: of the file.
        gzip_bytes: of the file, compressed (level 9): what 30% zeros save, as no kernel runs faster for them.
        operators: count by name, delegates not applied.
        float_operators: operators with a float32 or float16 output.
        partitions: parts that the delegate takes; 1 is the whole graph.
        delegate: really in use here.
        kernels: zeros of each kernel.
    """

    bytes: int
    gzip_bytes: int
    operators: dict[str, int]
    float_operators: int
    partitions: int
    delegate: str
    kernels: tuple[KernelZeros, ...]

    @property
    def zero_share_pruned(self) -> float:
        """Share of zeros over the kernels that pruning touches, 0 to 1."""
        return _share([k for k in self.kernels if k.pruned])

    @property
    def zero_share_total(self) -> float:
        """Share of zeros over all kernels, 0 to 1."""
        return _share(list(self.kernels))

    def to_json(self) -> dict[str, Any]:
        """As in `export.json`."""
        facts = {key: value for key, value in asdict(self).items() if key != "kernels"}
        return facts | {"zero_share_pruned": self.zero_share_pruned, "zero_share_total": self.zero_share_total}


def _share(kernels: list[KernelZeros]) -> float:
    size = sum(k.size for k in kernels)
    return sum(k.zeros for k in kernels) / size if size else 0.0


def inspect_tflite(content: bytes) -> FileFacts:
    """Read the facts from the bytes of a `.tflite` file.

    Raises:
        ModelError: it is not a TFLite flatbuffer.
    """
    schema = _schema()
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(bytearray(content), 0))
        graph = model.subgraphs[0]
    except Exception as error:  # flatbuffers raises struct.error, IndexError, TypeError for damaged files.
        raise ModelError(
            "the model file cannot be read", expected="a .tflite file", came=str(error), do="export it again"
        ) from error
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    codes = [names[max(c.builtinCode, c.deprecatedBuiltinCode)] for c in model.operatorCodes]
    floats = (schema.TensorType.FLOAT32, schema.TensorType.FLOAT16)
    # FP16 kernels reach their operator through DEQUANTIZE; the zeros are in that one's input.
    source = {op.outputs[0]: op.inputs[0] for op in graph.operators if codes[op.opcodeIndex] == "DEQUANTIZE"}
    kernels = [
        _kernel(model, graph.tensors[source.get(op.inputs[1], op.inputs[1])], codes[op.opcodeIndex])
        for op in graph.operators
        if codes[op.opcodeIndex] in _KERNEL_OPERATORS
    ]
    with quiet():
        interpreter = open_interpreter(content, threads=1)
    return FileFacts(
        bytes=len(content),
        gzip_bytes=len(gzip.compress(content, 9, mtime=0)),
        operators=dict(Counter(codes[op.opcodeIndex] for op in graph.operators).most_common()),
        float_operators=sum(any(graph.tensors[t].type in floats for t in op.outputs) for op in graph.operators),
        partitions=interpreter.partitions,
        delegate=interpreter.delegate,
        kernels=tuple(kernels),
    )


def _schema() -> Any:
    """TensorFlow Lite's flatbuffer schema as Python classes."""
    from tensorflow.lite.python import schema_py_generated

    return schema_py_generated


def _kernel(model: Any, tensor: Any, operator: str) -> KernelZeros:
    schema = _schema()
    kinds: dict[int, npt.DTypeLike] = {
        schema.TensorType.INT8: np.int8,
        schema.TensorType.FLOAT16: np.float16,
        schema.TensorType.FLOAT32: np.float32,
    }
    raw = np.asarray(model.buffers[tensor.buffer].data, np.uint8).tobytes()
    # Kernels are quantized symmetrically: the byte 0 is the weight 0.
    values = np.frombuffer(raw, kinds[tensor.type])
    return KernelZeros(
        name=tensor.name.decode(),
        operator=operator,
        shape=tuple(int(n) for n in tensor.shape),
        zeros=int(np.count_nonzero(values == 0)),
        size=int(values.size),
        pruned=operator in _PRUNED_OPERATORS,
    )
