"""The ways from an X-ray to a score that are measured against each other."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from firmware_bridge.decode import Decoded, decode
from firmware_bridge.errors import ImageError, UnreadableImage
from firmware_bridge.interpreter import open_interpreter
from firmware_bridge.preprocess import Preprocessing
from firmware_bridge.score import Calibration, Head, Scorer
from toolkit.benchmark.stopwatch import SCORE, TOTAL

STOCK_SIZE_PX = 224
# What TFLite's Interpreter takes when nobody says how many.
DEFAULT_THREADS = 1
_QUEUED_IMAGES = 2  # as in the agent's pipeline


class Ours:
    """The device's own line: the scorer that the agent runs, and the explanation after it."""

    def __init__(self, model: Path, *, threads: int) -> None:
        self.model = model
        self.name = model.name
        self.threads = threads
        self.interpreter = open_interpreter(model, threads=threads)
        preprocessing = Preprocessing.default(size_px=self.interpreter.size_px)
        head = Head(weights=self._head_weights(), bias=0.0)
        self._scorer = Scorer(
            self.interpreter, head, Calibration(temperature=1.0, bias=0.0, threshold=0.5), preprocessing
        )

    def _head_weights(self) -> NDArray[np.float32]:
        """(C,) float32. Their values do not change the time, so a file without its head is timed with ones."""
        black = np.zeros((self.interpreter.size_px, self.interpreter.size_px), dtype=np.uint8)
        return np.ones_like(self.interpreter.run(black).mean_features())

    def time(self, image: Path) -> Mapping[str, float]:
        """Decode, preprocess, infer, the three together, explain, total, in milliseconds."""
        cv2.setNumThreads(self.threads)
        start_s = time.perf_counter()
        score = self._scorer.score(image)
        scored_s = time.perf_counter()
        self._scorer.explain(score)
        end_s = time.perf_counter()
        stages = {stage: score.timings_ms[stage] for stage in ("decode", "preprocess", "infer")}
        return {
            **stages,
            SCORE: (scored_s - start_s) * 1000,
            "explain": (end_s - scored_s) * 1000,
            TOTAL: (end_s - start_s) * 1000,
        }

    def time_folder(self, images: Sequence[Path]) -> float:
        """Milliseconds for one X-ray: one thread decodes, this one infers, as the agent has it."""
        cv2.setNumThreads(self.threads)
        decoded: queue.Queue[Decoded | ImageError] = queue.Queue(_QUEUED_IMAGES)
        reader = threading.Thread(target=self._decode_all, args=(images, decoded), daemon=True)
        start_s = time.perf_counter()
        reader.start()
        for _ in images:
            one = decoded.get()
            if isinstance(one, ImageError):
                raise one
            self._scorer.score_decoded(one)
        end_s = time.perf_counter()
        reader.join()
        return (end_s - start_s) * 1000 / len(images)

    def _decode_all(self, images: Sequence[Path], decoded: queue.Queue[Decoded | ImageError]) -> None:
        for image in images:
            try:
                decoded.put(decode(image, min_side_px=self._scorer.preprocessing.decode_min_side_px))
            except ImageError as error:
                decoded.put(error)
                return


class Naive:
    """What everybody writes first: colour decode at full size, resize, three float channels, a stock model.

    OpenCV keeps its own number of threads, as a script leaves it.

    Args:
        stock: the model file.
        threads: of the interpreter; a script that does not say gets `DEFAULT_THREADS`.
        bilinear: resize as `cv2.resize` does when nobody says how. It skips most pixels of an X-ray, so it is quick and
            aliases: another picture. INTER_AREA, as in our own preprocessing, is the one to compare with.
    """

    def __init__(self, stock: Path, *, threads: int, bilinear: bool = False) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.name = "naive, bilinear" if bilinear else "naive"
        self._interpolation = cv2.INTER_LINEAR if bilinear else cv2.INTER_AREA
        self.threads = threads
        self._interpreter = Interpreter(model_path=str(stock), num_threads=threads)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]

    def time(self, image: Path) -> Mapping[str, float]:
        """Decode, preprocess, infer, the three together, in milliseconds. (It has nothing that explains.)"""
        cv2.setNumThreads(-1)
        start_s = time.perf_counter()
        pixels = cv2.imread(str(image), cv2.IMREAD_COLOR)  # (H, W, 3) uint8
        if pixels is None:
            raise UnreadableImage(
                f"{image.name} cannot be timed the naive way",
                expected="a JPEG or PNG that OpenCV reads",
                came="OpenCV gives up",
                do="leave it out of --images, or leave the naive way out with --no-naive",
            )
        decoded_s = time.perf_counter()
        small = cv2.resize(pixels, (STOCK_SIZE_PX, STOCK_SIZE_PX), interpolation=self._interpolation)
        small = small.astype(np.float32)[None]  # (1, 224, 224, 3) float32
        ready_s = time.perf_counter()
        self._interpreter.set_tensor(self._input, small)
        self._interpreter.invoke()
        self._interpreter.get_tensor(self._output)
        end_s = time.perf_counter()
        return {
            "decode": (decoded_s - start_s) * 1000,
            "preprocess": (ready_s - decoded_s) * 1000,
            "infer": (end_s - ready_s) * 1000,
            SCORE: (end_s - start_s) * 1000,
        }

    def time_folder(self, images: Sequence[Path]) -> float:
        """Milliseconds for one X-ray: one after the other, as a loop does it."""
        start_s = time.perf_counter()
        for image in images:
            self.time(image)
        return (time.perf_counter() - start_s) * 1000 / len(images)


class OnnxRuntime:
    """ONNX Runtime with its static int8 quantization (QDQ) of the same network. Inference alone."""

    name = "ONNX Runtime int8"

    def __init__(self, model: Path, *, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.threads = threads
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._pixels = _noise()

    def time(self, image: Path) -> Mapping[str, float]:
        """Inference, in milliseconds."""
        start_s = time.perf_counter()
        self._session.run(None, {self._input: self._pixels})
        return {"infer": (time.perf_counter() - start_s) * 1000}


class OpenVino:
    """OpenVINO with NNCF's int8 quantization of the same network. Inference alone."""

    name = "OpenVINO int8"

    def __init__(self, model: Path, *, threads: int) -> None:
        import openvino

        self.threads = threads
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        }
        compiled = openvino.Core().compile_model(str(model), "CPU", settings)
        self._request = compiled.create_infer_request()
        self._pixels = _noise()

    def time(self, image: Path) -> Mapping[str, float]:
        """Inference, in milliseconds."""
        start_s = time.perf_counter()
        self._request.infer([self._pixels])
        return {"infer": (time.perf_counter() - start_s) * 1000}


def _noise() -> NDArray[np.float32]:
    """(1, 224, 224, 1) float32 grey levels, as an X-ray has them."""
    levels = np.random.default_rng(0).integers(0, 256, (1, STOCK_SIZE_PX, STOCK_SIZE_PX, 1))
    return levels.astype(np.float32)
