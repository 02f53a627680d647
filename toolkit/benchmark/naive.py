"""What everybody writes first: the other way from an X-ray to a score. Imports no more than such a script does."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from firmware_bridge.errors import UnreadableImage
from toolkit.benchmark.stopwatch import SCORE

STOCK_SIZE_PX = 224
# What TFLite's Interpreter takes when nobody says how many.
DEFAULT_THREADS = 1
# (1, 224, 224, 3) float32 grey levels to whatever the model says.
Infer = Callable[[NDArray[np.float32]], Any]


def stock_tflite(stock: Path, *, threads: int) -> Infer:
    """Runs a stock TFLite file as a script does."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(stock), num_threads=threads)
    interpreter.allocate_tensors()
    taken, given = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def infer(pixels: NDArray[np.float32]) -> Any:
        interpreter.set_tensor(taken, pixels)
        interpreter.invoke()
        return interpreter.get_tensor(given)

    return infer


class Naive:
    """Colour decode at full size, resize, three float channels, a stock model.

    OpenCV keeps its own number of threads, as a script leaves it.

    Args:
        infer: runs the model, such as `stock_tflite`.
        name: how the table calls it.
        threads: of the model's runtime; a script that does not say gets `DEFAULT_THREADS`.
        bilinear: resize as `cv2.resize` does when nobody says how. It skips most pixels of an X-ray, so it is quick and
            aliases: another picture. INTER_AREA, as in our own preprocessing, is the one to compare with.
    """

    def __init__(self, infer: Infer, *, name: str = "naive", threads: int, bilinear: bool = False) -> None:
        self.name = f"{name}, bilinear" if bilinear else name
        self.threads = threads
        self._infer = infer
        self._interpolation = cv2.INTER_LINEAR if bilinear else cv2.INTER_AREA

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
        self._infer(small)
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
