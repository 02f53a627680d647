"""Which runtime runs a bundle's model: TFLite on the CPU, ONNX Runtime, or TensorRT; and the way back to the CPU.

TFLite is what was measured and calibrated. The others run the same network with other arithmetic, so they count only
once they gave the golden X-rays' results here; else the TFLite file of the same precision runs, and the reason is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from firmware_bridge.bundle import Bundle
from firmware_bridge.errors import BundleError, ConfigError, CxrEdgeError
from firmware_bridge.interpreter import Interpreter, open_interpreter
from firmware_bridge.manifest import MODEL_RUNTIMES, ONNX_RUNTIME, TENSORRT, TFLITE_RUNTIME, ModelEntry, kind_of
from firmware_bridge.score import Scorer


def open_backend(
    model: bytes, runtime: str, *, threads: int, precision: str, engines: Path | None = None
) -> Interpreter:
    """Load a model file for one of `MODEL_RUNTIMES`.

    Args:
        model: a TFLite file for "tflite", else an ONNX file.
        runtime: which one.
        threads: of the CPU.
        precision: of the model; TensorRT has an engine for each.
        engines: folder of TensorRT engines.

    Raises:
        ConfigError: an unknown runtime, an impossible number of threads, or TensorRT without its folder.
        MissingExtraError: the runtime is not installed.
        ModelError: it cannot load the model.
    """
    if runtime == TFLITE_RUNTIME:
        return open_interpreter(model, threads=threads)
    if runtime == ONNX_RUNTIME:
        from firmware_bridge.onnx_runtime import open_onnx

        return open_onnx(model, threads=threads)
    if runtime != TENSORRT or engines is None:
        raise ConfigError(
            f"the runtime '{runtime}' cannot be used",
            expected=f"one of {', '.join(MODEL_RUNTIMES)}; for {TENSORRT} a folder of engines",
            came=runtime if engines or runtime not in MODEL_RUNTIMES else "no folder",
            do="mend [agent] runtime and engines",
        )
    from firmware_bridge.engines import load_engine
    from firmware_bridge.tensorrt_runtime import TensorRtInterpreter

    return TensorRtInterpreter(load_engine(model, precision=precision, folder=engines), precision=precision)


@dataclass(frozen=True, slots=True)
class Opened:
    """A scorer that runs here.

    Attributes:
        scorer: of the bundle.
        entry: which of its models.
        fallback: why the wished runtime does not run; empty where it does.
    """

    scorer: Scorer
    entry: ModelEntry
    fallback: str = ""


def open_scorer(
    bundle: Bundle, precision: str | None, *, threads: int, runtime: str, engines: Path | None = None
) -> Opened:
    """The scorer with the wished runtime if that gives the bundle's own results here, else with TFLite.

    Raises:
        BundleError: no such model.
        ModelError, MissingExtraError: not even TFLite can load it.
    """
    fallback = ""
    if runtime != TFLITE_RUNTIME:
        try:
            entry = bundle.manifest.model(precision, kind=kind_of(runtime))
            scorer = bundle.scorer(precision, threads=threads, runtime=runtime, engines=engines)
            require_golden_of(bundle, entry, scorer)
            return Opened(scorer, entry)
        except CxrEdgeError as error:
            fallback = f"{runtime} does not run here, TFLite on the CPU does: {error.what} ({error.came})"
    return Opened(bundle.scorer(precision, threads=threads), bundle.manifest.model(precision), fallback)


def require_golden_of(bundle: Bundle, entry: ModelEntry, scorer: Scorer) -> None:
    """Whether one loaded model gives the golden X-rays' results.

    Raises:
        BundleError: it does not, or the bundle has none for it.
        ImageError, ModelError: one cannot be scored.
    """
    cases = [case for case in bundle.manifest.golden if case.model == entry.file]
    if not cases:
        raise BundleError(
            f"bundle '{bundle.manifest.name}' has no golden X-rays for {entry.file}",
            expected="at least one, by which another runtime can be proven",
            came="none",
            do="build the bundle again with golden X-rays",
        )
    for case in cases:
        came = scorer.score(bundle.read(case.file)).probability
        if not abs(came - case.probability) <= case.tolerance:
            raise BundleError(
                f"{scorer.interpreter.runtime} does not give the bundle's results here",
                expected=f"{case.probability:.4f} ± {case.tolerance:.4f} for {case.file} from {entry.file}",
                came=f"{came:.4f} for {case.probability:.4f} ± {case.tolerance:.4f}",
                do="use TFLite here; report the GPU and the runtime's version",
            )
