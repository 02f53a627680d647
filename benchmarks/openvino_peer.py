"""OpenVINO behind the interface of `firmware_bridge.interpreter.Interpreter`, set for one X-ray at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contenders import OPENVINO
from benchmarks.peer_lungs import PeerLungs
from firmware_bridge.interpreter import ModelOutput, check_pixels


def _compiled(file: Path, *, threads: int, arithmetic: str = "") -> Any:
    import openvino

    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        **({"INFERENCE_PRECISION_HINT": arithmetic} if arithmetic else {}),
    }
    core = openvino.Core()
    return core.compile_model(core.read_model(str(file)), "CPU", settings)


class OpenVinoInterpreter:
    """See `firmware_bridge.interpreter.Interpreter`.

    Args:
        file: the `.xml`, with the names that `toolkit.onnx_export` gives.
        threads: of the one stream.
        arithmetic: "f32", or empty: where the processor has bfloat16, OpenVINO then computes in that.
    """

    runtime = OPENVINO
    delegate = "CPU"
    partitions = 0

    def __init__(self, file: Path, *, threads: int, arithmetic: str = "") -> None:
        compiled = _compiled(file, threads=threads, arithmetic=arithmetic)
        self.size_px, self.threads = int(compiled.input(0).shape[1]), threads
        self.arithmetic = str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
        self._request = compiled.create_infer_request()

    def run(self, pixels: NDArray[np.uint8]) -> ModelOutput:
        """See `Interpreter.run`."""
        check_pixels(pixels, self.size_px)
        self._request.infer([pixels.astype(np.float32)[None, :, :, None]])
        return ModelOutput(
            probability=float(self._request.get_tensor("probability").data[0, 0]),
            features=np.array(self._request.get_tensor("features").data[0]),
            scale=1.0,
            zero_point=0,
        )


class OpenVinoLungs(PeerLungs):
    """The lung network in OpenVINO, one thread as everywhere; OpenVINO reads the TFLite file itself."""

    def __init__(self, file: Path) -> None:
        request = _compiled(file, threads=1).create_infer_request()
        super().__init__(file, lambda pixels: request.infer([pixels]).values())
