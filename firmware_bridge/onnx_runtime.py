"""ONNX Runtime behind the same interface as the TFLite runtimes: it runs the ONNX form of a bundle's model."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.errors import MissingExtraError, ModelError
from firmware_bridge.interpreter import ModelOutput, check_pixels, check_threads, one_line, wrong_form
from firmware_bridge.manifest import ONNX_RUNTIME

# The names that `toolkit.onnx_export` gives.
INPUT, PROBABILITY, FEATURES = "grey", "probability", "features"


def open_onnx(model: bytes, *, threads: int = 2, as_written: bool = False) -> OnnxInterpreter:
    """Load an ONNX file that `toolkit.onnx_export` wrote.

    Args:
        model: its bytes.
        threads: of ONNX Runtime's operators.
        as_written: run every node for itself, in float32: slow, and nothing but what the graph says.

    Raises:
        ConfigError: an impossible number of threads.
        MissingExtraError: ONNX Runtime is not installed.
        ModelError: it cannot be loaded, or is not of this project's form.
    """
    check_threads(threads)
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(
            "ONNX Runtime cannot be loaded here",
            expected="onnxruntime",
            came=one_line(error),
            do="pip install onnxruntime",
        ) from error

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if as_written:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4  # what fails is raised
    # On x86-64 without VNNI its int8 kernels add two products in 16 bits, which overflow: on such a machine an X-ray of
    # 0.52 came out as 0.14. This chooses kernels that do not.
    options.add_session_config_entry("session.x64quantprecision", "1")
    # Idle threads wait instead of spinning: the agent's other threads have work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(bytes(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own exceptions have no common base but this
        raise ModelError(
            "the ONNX model cannot be loaded",
            expected="an ONNX file that ONNX Runtime can run",
            came=one_line(error),
            do="build the bundle again, or update onnxruntime",
        ) from error
    return OnnxInterpreter(session, threads)


class OnnxInterpreter:
    """See `firmware_bridge.interpreter.Interpreter`."""

    runtime = ONNX_RUNTIME
    delegate = "CPU"
    partitions = 0

    def __init__(self, session: Any, threads: int) -> None:
        inputs = [(one.name, one.type, one.shape) for one in session.get_inputs()]
        outputs = {one.name: one.shape for one in session.get_outputs()}
        side_px = inputs[0][2][1] if len(inputs) == 1 and len(inputs[0][2]) == 4 else 0
        if inputs != [(INPUT, "tensor(float)", [1, side_px, side_px, 1])] or outputs.keys() != {PROBABILITY, FEATURES}:
            raise wrong_form(
                f"input {INPUT} (1, S, S, 1), outputs {PROBABILITY} and {FEATURES}", f"{inputs}, {outputs}"
            )
        self.size_px, self.threads = int(side_px), threads
        self._session = session
        self._lock = threading.Lock()

    def run(self, pixels: NDArray[np.uint8]) -> ModelOutput:
        """See `Interpreter.run`."""
        check_pixels(pixels, self.size_px)
        grey = pixels.astype(np.float32)[None, :, :, None]
        try:
            with self._lock:
                probability, features = self._session.run([PROBABILITY, FEATURES], {INPUT: grey})
        except Exception as error:
            raise ModelError(
                "the model failed while it ran", expected="an inference", came=one_line(error), do="try another runtime"
            ) from error
        return ModelOutput(probability=float(probability[0, 0]), features=features[0], scale=1.0, zero_point=0)
