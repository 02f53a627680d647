"""ONNX Runtime as its users start it: all graph optimizations, threads that spin. (The agent's are told not to.)"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.peer_lungs import PeerLungs


def open_session(file: Path, *, threads: int) -> Any:
    """An `InferenceSession` on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


class OnnxLungs(PeerLungs):
    """The lung network in ONNX Runtime, one thread as everywhere."""

    def __init__(self, file: Path) -> None:
        session = open_session(file, threads=1)
        name = session.get_inputs()[0].name
        super().__init__(file, lambda pixels: session.run(None, {name: pixels}))
