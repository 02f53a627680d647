"""An ONNX graph whose activations are quantized around a zero point, rewritten so that every zero point is 0.

TensorRT takes QuantizeLinear and DequantizeLinear with zero point 0 alone (NVIDIA/TensorRT issues 2774 and 4698: the
parser asserts it; only its DLA knows another). TFLite's activations have others, 8 bits over [min, max]; halving
their resolution would make another model. So each value is moved instead of rescaled: with x = s * (q - z), the
value x + s * z = s * q lies on the same 256 steps and has the zero point 0. What is added before one operator is taken
away after it: in a convolution by its bias, elsewhere by an addition. Rounding and saturation stay those of the
integer model.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from firmware_bridge.errors import ModelError

Array = npt.NDArray[Any]
_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
# Their weights are quantized too, and a constant added to their input is a constant added to their output.
_LINEAR = ("Conv", "Gemm", "MatMul")
_SHAPES = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity")


def symmetric(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same integer model with float inputs and outputs, zero points of 0, float weights with a pair of their own.

    Args:
        model: as tf2onnx writes it from an int8 TFLite file: one input of uint8, outputs of uint8.

    Raises:
        ModelError: something in it is not as expected.
    """
    return _Rewriter(model).run()


class _Rewriter:
    """One pass over the nodes, in order; tensors keep their names, constants are made as they are needed."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        graph = self._model.graph
        self._constants: dict[str, Array] = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
        self._users: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        self._maker: dict[str, onnx.NodeProto] = {}
        for node in graph.node:
            for name in node.input:
                self._users[name].append(node)
            for name in node.output:
                self._maker[name] = node
        self._nodes: list[onnx.NodeProto] = []
        self._count = 0

    def run(self) -> onnx.ModelProto:
        graph = self._model.graph
        self._float_ends()
        for node in list(graph.node):
            if node.op_type == _QUANTIZE:
                self._quantize(node)
            elif node.op_type == _DEQUANTIZE:
                self._dequantize(node)
            elif node.op_type in _LINEAR:
                self._linear(node)
            else:
                self._nodes.append(node)
        del graph.node[:], graph.initializer[:]
        graph.node.extend(self._needed())
        used = {name for node in graph.node for name in node.input}
        graph.initializer.extend(
            numpy_helper.from_array(np.ascontiguousarray(value), name)
            for name, value in self._constants.items()
            if name in used
        )
        del graph.value_info[:]
        return self._model

    def _float_ends(self) -> None:
        """Grey levels come as float32, outputs leave as real values: the bytes of both ends are the same numbers."""
        graph = self._model.graph
        self._last = {self._shaped(one.name) for one in graph.output}
        if len(graph.input) != 1 or any(self._maker[name].op_type != _QUANTIZE for name in self._last):
            raise _unknown(f"{len(graph.input)} inputs and other outputs", "one input, quantized outputs")
        for end in (*graph.input, *graph.output):
            end.type.tensor_type.elem_type = onnx.TensorProto.FLOAT

    def _shaped(self, name: str) -> str:
        """What a tensor is but for its shape."""
        while self._maker[name].op_type in _SHAPES:
            name = self._maker[name].input[0]
        return name

    def _quantize(self, node: onnx.NodeProto) -> None:
        """`Quantize(t)` to `Quantize(t + shift)` with the zero point 0; the last one of an output is left out."""
        source, shift = node.input[0], self._shift(node)
        if node.output[0] in self._last:
            self._add_node("Identity", [source], node.output[0])
            return
        self._add_node(_QUANTIZE, [self._plus(source, shift), *self._scale(node)], node.output[0])

    def _dequantize(self, node: onnx.NodeProto) -> None:
        """A constant becomes the real numbers; the graph's input is real already; the rest loses its zero point."""
        name, out = node.input[0], node.output[0]
        if name in self._constants:
            self._constants[out] = self._real(node)
            return
        if name == self._model.graph.input[0].name:
            # Bytes q to s * (q - z): the next pair quantizes that.
            scaled = self._new("grey")
            self._add_node("Mul", [name, self._constant(self._of(node, 1))], scaled)
            self._add_node("Sub", [scaled, self._constant(np.float32(self._shift(node)))], out)
            return
        if all(user.op_type in _LINEAR and user.input[0] == out for user in self._users[out]):
            return  # each makes a pair's second half of its own
        raw = self._new(out)
        self._add_node(_DEQUANTIZE, [name, *self._scale(node)], raw)
        self._add_node("Sub", [raw, self._constant(np.float32(self._shift(node)))], out)

    def _linear(self, node: onnx.NodeProto) -> None:
        """`W * (y - shift) + b` to `W * y + (b - shift * sum(W))`; the border is padded with what stands for 0."""
        source, weights = self._maker[node.input[0]], self._maker.get(node.input[1])
        if source.op_type != _DEQUANTIZE or weights is None or weights.op_type != _DEQUANTIZE:
            raise _unknown(f"{node.op_type} {node.name} without quantized inputs", "a fully quantized graph")
        shift = self._shift(source)
        value = self._new(source.output[0])
        self._add_node(_DEQUANTIZE, [source.input[0], *self._scale(source)], value)
        if shift and any(pads := _attribute(node, "pads", [])):
            value = self._padded(value, source, pads=list(pads), shift=shift)
            _set(node, "pads", [0] * len(pads))
        real = self._real(weights)
        axes = {"Conv": (1, 2, 3), "Gemm": (1,) if _attribute(node, "transB", 0) else (0,), "MatMul": (0,)}
        sums = real.sum(axis=axes[node.op_type], dtype=np.float64)
        bias = self._constants[node.input[2]].astype(np.float64) if len(node.input) > 2 else np.zeros(len(sums))
        quantized = self._weights(weights, real)
        moved = (bias - shift * sums).astype(np.float32)
        if node.op_type == "MatMul":
            plain = self._new(node.output[0])
            self._add_node("MatMul", [value, quantized], plain)
            self._add_node("Add", [plain, self._constant(moved)], node.output[0])
            return
        node.input[:] = [value, quantized, self._constant(moved)]
        self._nodes.append(node)

    def _padded(self, value: str, source: onnx.NodeProto, *, pads: list[int], shift: float) -> str:
        """`value` with a border of what stands for 0, quantized again: nothing is rounded, and the pair stays whole."""
        half = len(pads) // 2
        widths = np.array([0, 0, *pads[:half], 0, 0, *pads[half:]], np.int64)
        wide, quantized, again = (self._new(f"{value}_{part}") for part in ("wide", "quantized", "again"))
        self._add_node("Pad", [value, self._constant(widths), self._constant(np.float32(shift))], wide)
        self._add_node(_QUANTIZE, [wide, *self._scale(source)], quantized)
        self._add_node(_DEQUANTIZE, [quantized, *self._scale(source)], again)
        return again

    def _weights(self, node: onnx.NodeProto, real: Array) -> str:
        """Float weights with a pair of their own: what every TensorRT takes; int8 weights are for newer ones alone."""
        scale = self._of(node, 1)
        if (scale.size > 1 and _attribute(node, "axis", 1) != 0) or np.any(self._of(node, 2)):
            raise _unknown(f"weights {node.input[0]}", "symmetric weights, each output channel with its own scale")
        zeros = self._constant(np.zeros(scale.shape, np.int8))
        pair = [self._constant(scale), zeros]
        quantized, out = self._new(node.output[0]), self._new(node.output[0])
        axis = {"axis": 0} if scale.size > 1 else {}
        self._add_node(_QUANTIZE, [self._constant(real.astype(np.float32)), *pair], quantized, **axis)
        self._add_node(_DEQUANTIZE, [quantized, *pair], out, **axis)
        return out

    def _plus(self, name: str, shift: float) -> str:
        """`name + shift`; by the bias of the convolution that makes it, where nobody else uses that."""
        maker = self._maker.get(name)
        if not shift:
            return name
        if maker is not None and len(self._users[name]) == 1:
            if maker.op_type in ("Conv", "Gemm"):
                maker.input[2] = self._constant(self._constants[maker.input[2]] + np.float32(shift))
                return name
            if maker.op_type == "Clip":
                # An activation's cut moves with what it cuts.
                bounds = [
                    bound and self._constant(self._constants[bound] + np.float32(shift)) for bound in maker.input[1:]
                ]
                maker.input[:] = [self._plus(maker.input[0], shift), *bounds]
                return name
        moved = self._new(name)
        self._add_node("Add", [name, self._constant(np.float32(shift))], moved)
        return moved

    def _shift(self, node: onnx.NodeProto) -> float:
        """Scale times zero point, 0 where there is none; of the byte form, uint8's own."""
        scale, zero = self._of(node, 1), self._of(node, 2)
        if scale.size != 1:
            raise _unknown(f"{node.name} with {scale.size} scales", "one scale for an activation")
        return float(scale.reshape(())) * float(zero.reshape(()))

    def _real(self, node: onnx.NodeProto) -> Array:
        """The constant behind a DequantizeLinear, as real numbers: float32."""
        values, scale, zero = (self._of(node, i) for i in range(3))
        shape = [1] * values.ndim
        if scale.size > 1:
            shape[_attribute(node, "axis", 1)] = scale.size
            scale, zero = scale.reshape(shape), zero.reshape(shape)
        return ((values.astype(np.float64) - zero.astype(np.float64)) * scale).astype(np.float32)

    def _of(self, node: onnx.NodeProto, position: int) -> Array:
        try:
            return self._constants[node.input[position]]
        except (KeyError, IndexError) as error:
            raise _unknown(
                f"{node.op_type} {node.name} without constants", "constant scales and zero points"
            ) from error

    def _scale(self, node: onnx.NodeProto) -> list[str]:
        """Names of a pair's scale, and of the zero point 0."""
        return [self._constant(self._of(node, 1).reshape(()).astype(np.float32)), self._constant(np.int8(0))]

    def _constant(self, value: Any) -> str:
        array = np.asarray(value)
        name = self._new("constant")
        self._constants[name] = array
        return name

    def _new(self, name: str) -> str:
        self._count += 1
        return f"{name}__{self._count}"

    def _add_node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
        node = helper.make_node(operator, inputs, [output], name=self._new(operator), **attributes)
        self._nodes.append(node)

    def _needed(self) -> list[onnx.NodeProto]:
        """The nodes that an output needs, in order."""
        wanted, kept = {one.name for one in self._model.graph.output}, []
        for node in reversed(self._nodes):
            if wanted & set(node.output):
                wanted.update(node.input)
                kept.append(node)
        return kept[::-1]


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    for one in node.attribute:
        if one.name == name:
            return helper.get_attribute_value(one)
    return default


def _set(node: onnx.NodeProto, name: str, value: Any) -> None:
    kept = [one for one in node.attribute if one.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def _unknown(came: str, expected: str) -> ModelError:
    return ModelError(
        "the ONNX graph cannot be made symmetric",
        expected=expected,
        came=came,
        do="use a backbone of this project and the versions that constraints.txt names",
    )
