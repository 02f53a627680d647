"""The device's own line from an X-ray to a score, timed stage by stage. (`naive` is the other way.)"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from firmware_bridge.decode import Decoded, decode
from firmware_bridge.errors import ImageError
from firmware_bridge.interpreter import open_interpreter
from firmware_bridge.preprocess import Preprocessing
from firmware_bridge.score import Calibration, Head, Scorer
from toolkit.benchmark.stopwatch import SCORE, TOTAL

_QUEUED_IMAGES = 2  # as in the agent's pipeline


class Line:
    """A scorer as the agent runs it, whatever runtime is inside, and the explanation after the score."""

    def __init__(self, scorer: Scorer, *, name: str) -> None:
        self.name = name
        self.threads = scorer.interpreter.threads
        self.scorer = scorer

    def time(self, image: Path) -> Mapping[str, float]:
        """Decode, lungs where they are looked for, preprocess, infer, all of these, explain, total, in milliseconds."""
        cv2.setNumThreads(self.threads)
        start_s = time.perf_counter()
        score = self.scorer.score(image)
        scored_s = time.perf_counter()
        self.scorer.explain(score)
        end_s = time.perf_counter()
        return {
            **score.timings_ms,
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
            self.scorer.score_decoded(one)
        end_s = time.perf_counter()
        reader.join()
        return (end_s - start_s) * 1000 / len(images)

    def _decode_all(self, images: Sequence[Path], decoded: queue.Queue[Decoded | ImageError]) -> None:
        for image in images:
            try:
                decoded.put(decode(image, min_side_px=self.scorer.preprocessing.decode_min_side_px))
            except ImageError as error:
                decoded.put(error)
                return


class Ours(Line):
    """A bare `.tflite` file of this project, with the steps that its size alone tells."""

    def __init__(self, model: Path, *, threads: int) -> None:
        self.model = model
        self.interpreter = open_interpreter(model, threads=threads)
        preprocessing = Preprocessing.default(size_px=self.interpreter.size_px)
        head = Head(weights=self._head_weights(), bias=0.0)
        uncalibrated = Calibration(temperature=1.0, bias=0.0, threshold=0.5)
        super().__init__(Scorer(self.interpreter, head, uncalibrated, preprocessing), name=model.name)

    def _head_weights(self) -> NDArray[np.float32]:
        """(C,) float32. Their values do not change the time, so a file without its head is timed with ones."""
        black = np.zeros((self.interpreter.size_px, self.interpreter.size_px), dtype=np.uint8)
        return np.ones_like(self.interpreter.run(black).mean_features())
