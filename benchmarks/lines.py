"""Each contender's line from an X-ray to a score, as its own process loads it.

Every runtime of the same network runs in our line (decoder, lungs, crop, CLAHE, head), so that what differs is the
runtime; the lung network runs in it too. The naive ways have a line of their own. What a contender does not need is
not imported: its start is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.contenders import KERAS, ONNX, OPENVINO, STOCK, Contender

if TYPE_CHECKING:
    from firmware_bridge.interpreter import Interpreter
    from firmware_bridge.lungs import LungFinder
    from toolkit.benchmark.contenders import Line
    from toolkit.benchmark.naive import Naive

LUNGS_TFLITE, LUNGS_ONNX = "lungs.int8.tflite", "lungs.int8.onnx"
_STOCK_SEED = 7


def open_line(one: Contender, folder: Path, preprocessing: Mapping[str, Any], *, threads: int) -> Line | Naive:
    """Load a contender.

    Args:
        one: which.
        folder: of all model files.
        preprocessing: of its network, as a manifest has it.
        threads: of the runtime.

    Raises:
        CxrEdgeError: it cannot be loaded.
    """
    if one.network == STOCK:
        return _naive(one, folder, threads)
    from firmware_bridge.preprocess import Preprocessing
    from firmware_bridge.score import Calibration, Head, Scorer
    from toolkit.benchmark.contenders import Line

    head = Head.from_bytes((folder / f"{one.network}.{one.precision}.npy").read_bytes())
    steps = Preprocessing.from_manifest(dict(preprocessing))
    scorer = Scorer(
        _interpreter(one, folder, threads),
        head,
        Calibration(temperature=1.0, bias=0.0, threshold=0.5),
        steps,
        finder=_lungs(one, folder) if steps.needs_lungs else None,
    )
    return Line(scorer, name=one.name)


def _naive(one: Contender, folder: Path, threads: int) -> Naive:
    from toolkit.benchmark.naive import Naive, stock_tflite

    if one.runtime != KERAS:
        return Naive(stock_tflite(folder / one.file, threads=threads), name=one.name, threads=threads)
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.keras.utils.set_random_seed(_STOCK_SEED)
    model = tf.keras.applications.EfficientNetB0(weights=None, classes=1, classifier_activation="sigmoid")
    return Naive(lambda pixels: model.predict(pixels, verbose=0), name=one.name, threads=threads)


def _interpreter(one: Contender, folder: Path, threads: int) -> Interpreter:
    file = folder / one.file
    if one.runtime == ONNX:
        from benchmarks.onnx_peer import open_session
        from firmware_bridge.onnx_runtime import OnnxInterpreter

        return OnnxInterpreter(open_session(file, threads=threads), threads)
    if one.runtime == OPENVINO:
        from benchmarks.openvino_peer import OpenVinoInterpreter

        return OpenVinoInterpreter(file, threads=threads, arithmetic=one.arithmetic)
    from firmware_bridge.interpreter import open_interpreter

    return open_interpreter(file, threads=threads, runtime=one.runtime)


def _lungs(one: Contender, folder: Path) -> LungFinder:
    if one.runtime == ONNX:
        from benchmarks.onnx_peer import OnnxLungs

        return OnnxLungs(folder / LUNGS_ONNX)
    if one.runtime == OPENVINO:
        from benchmarks.openvino_peer import OpenVinoLungs

        return OpenVinoLungs(folder / LUNGS_TFLITE)
    from firmware_bridge.lungs import LungFinder

    return LungFinder(folder / LUNGS_TFLITE, runtime=one.runtime)
