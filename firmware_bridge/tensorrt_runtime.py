"""TensorRT behind the same interface as the TFLite runtimes: it runs an engine that was built on this very device.

Written against the documented Python API that TensorRT 8.6 (JetPack 6.0) and 10.3 (JetPack 6.1 and later) share. Never
run on a Jetson. TensorRT is the system's: the packages of that name on the index fetch another one.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.cuda import Cuda
from firmware_bridge.errors import MissingExtraError, ModelError
from firmware_bridge.interpreter import ModelOutput, check_pixels, one_line, wrong_form
from firmware_bridge.manifest import TENSORRT
from firmware_bridge.onnx_runtime import FEATURES, INPUT, PROBABILITY


def import_tensorrt() -> Any:
    """The system's module.

    Raises:
        MissingExtraError: there is none.
    """
    try:
        import tensorrt
    except (ImportError, OSError) as error:  # OSError: one of its libraries is not there
        raise MissingExtraError(
            "TensorRT cannot be loaded here",
            expected="the system's Python module `tensorrt`",
            came=one_line(error),
            do="on a Jetson: sudo apt-get install nvidia-jetpack (or python3-libnvinfer and libnvinfer-bin)",
        ) from error
    return tensorrt


class TensorRtInterpreter:
    """See `firmware_bridge.interpreter.Interpreter`.

    Args:
        plan: the engine's bytes, from `engines.build_engine` on this device: TensorRT runs what is in them.
        precision: that it was built with.

    Raises:
        MissingExtraError: no TensorRT or no GPU.
        ModelError: TensorRT refuses it, or it is not of this project's form.
    """

    runtime = TENSORRT
    partitions = 0
    threads = 1

    def __init__(self, plan: bytes, *, precision: str) -> None:
        trt = import_tensorrt()
        self._cuda = Cuda()
        self._lock = threading.Lock()
        self.delegate = f"{self._cuda.name}, {precision}"
        self._logger = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        context: Any = self._engine.create_execution_context() if self._engine else None
        if context is None:
            raise ModelError(
                "the TensorRT engine cannot be loaded",
                expected="an engine that this TensorRT built on this GPU",
                came=f"TensorRT {trt.__version__} refuses it",
                do="deploy again: it is built anew",
            )
        self._context = context
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        shapes = {name: tuple(int(side) for side in self._engine.get_tensor_shape(name)) for name in names}
        real = all(self._engine.get_tensor_dtype(name) == trt.float32 for name in names)
        if not real or shapes.keys() != {INPUT, PROBABILITY, FEATURES} or min(map(min, shapes.values())) < 1:
            raise wrong_form(f"{INPUT}, {PROBABILITY} and {FEATURES} of float32, fixed shapes", f"{shapes}")
        self.size_px = shapes[INPUT][1]
        self._arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        self._addresses = {name: self._cuda.allocate(array.nbytes) for name, array in self._arrays.items()}
        for name, address in self._addresses.items():
            self._context.set_tensor_address(name, address)

    def run(self, pixels: NDArray[np.uint8]) -> ModelOutput:
        """See `Interpreter.run`."""
        check_pixels(pixels, self.size_px)
        with self._lock:
            self._cuda.enter()
            self._arrays[INPUT][0, :, :, 0] = pixels
            self._cuda.copy_in(self._addresses[INPUT], self._arrays[INPUT])
            if not self._context.execute_async_v3(self._cuda.stream):
                raise ModelError(
                    "the model failed while it ran",
                    expected="an inference by TensorRT",
                    came="it says no more than that",
                    do='look into the system\'s log (dmesg); set [agent] runtime = "tflite" meanwhile',
                )
            self._cuda.wait()
            for name in (PROBABILITY, FEATURES):
                self._cuda.copy_out(self._arrays[name], self._addresses[name])
            probability = float(self._arrays[PROBABILITY][0, 0])
            features = self._arrays[FEATURES][0].copy()
        return ModelOutput(probability=probability, features=features, scale=1.0, zero_point=0)
