"""Who takes part. Light: the processes that are measured read it too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LITERT, TFLITE_RUNTIME, ONNX, OPENVINO, KERAS = "ai-edge-litert", "tflite-runtime", "onnxruntime", "openvino", "keras"
B0, LITE0, STOCK = "b0", "lite0", "stock"
OURS = "ours, int8"


@dataclass(frozen=True, slots=True)
class Contender:
    """One way from an X-ray to a score.

    Attributes:
        name: how the table calls it; the same for both networks.
        network: B0, LITE0, or STOCK, which is measured beside B0.
        precision: of its file: "float", "fp16" or "int8".
        runtime: what runs it.
        environment: a key of `environments.ENVIRONMENTS`: what is installed for it.
        arithmetic: what OpenVINO computes in where the file leaves it the choice; empty for its own choice.
    """

    name: str
    network: str
    precision: str
    runtime: str
    environment: str
    arithmetic: str = ""

    @property
    def group(self) -> str:
        """The network that it is compared within."""
        return B0 if self.network == STOCK else self.network

    @property
    def file(self) -> str:
        """Its model's name in the folder of files; Keras' own is built when it starts."""
        suffix = {ONNX: "onnx", OPENVINO: "xml"}.get(self.runtime, "tflite")
        return f"{self.network}.{self.precision}.{suffix}"


def contenders() -> Sequence[Contender]:
    """All of them; ours last in each group."""
    naive = [
        Contender("naive script, model.predict", STOCK, "float", KERAS, "tensorflow"),
        Contender("naive script, stock TFLite fp32", STOCK, "float", LITERT, "litert"),
    ]
    return [*naive, *_same_network(B0), *_same_network(LITE0)]


def _same_network(network: str) -> list[Contender]:
    return [
        Contender("tflite-runtime 2.14, fp32", network, "float", TFLITE_RUNTIME, "tflite-runtime"),
        Contender("tflite-runtime 2.14, int8", network, "int8", TFLITE_RUNTIME, "tflite-runtime"),
        Contender("ONNX Runtime, fp32", network, "float", ONNX, "onnxruntime"),
        Contender("ONNX Runtime, int8", network, "int8", ONNX, "onnxruntime"),
        Contender("OpenVINO, fp32", network, "float", OPENVINO, "openvino", arithmetic="f32"),
        Contender("OpenVINO, float as it chooses", network, "float", OPENVINO, "openvino"),
        Contender("OpenVINO, int8", network, "int8", OPENVINO, "openvino"),
        Contender("ours, FP16", network, "fp16", LITERT, "device"),
        Contender(OURS, network, "int8", LITERT, "device"),
    ]
