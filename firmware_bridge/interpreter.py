"""Run a TFLite file, by whichever runtime the device has, and tell which delegate really runs it.

ai-edge-litert and tflite-runtime offer the same calls; both stand behind `Interpreter`, which is all that the rest
of the code knows. ONNX Runtime (`onnx_runtime`) and TensorRT (`tensorrt_runtime`) stand behind it too; `backends`
chooses.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from firmware_bridge.errors import ConfigError, MissingExtraError, ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["RUNTIMES", "Interpreter", "ModelOutput", "open_interpreter"]

# In order of preference: on x86-64, tflite-runtime was seen to run int8 without a delegate, twenty times slower.
RUNTIMES = {"ai-edge-litert": "ai_edge_litert.interpreter", "tflite-runtime": "tflite_runtime.interpreter"}
_TFLITE_IDENTIFIER = b"TFL3"  # bytes 4 to 7 of the flatbuffer
_MAX_THREADS = 256


@dataclass(frozen=True, slots=True, eq=False)
class ModelOutput:
    """What one inference gave.

    Attributes:
        probability: the file's own, 0 to 1; an int8 file has steps of 1/256, so decisions take the head instead.
        features: (h, w, C) as the file has them: int8, uint8 or float32; a copy, valid after the next inference.
        scale: real value = (features - zero_point) * scale; 1 for a float file.
        zero_point: 0 for a float file.
    """

    probability: float
    features: NDArray[Any]
    scale: float
    zero_point: int

    def mean_features(self) -> NDArray[np.float32]:
        """Global average pooling of the real values: (C,) float32."""
        # Integers are summed exactly and scaled once; dequantizing 62,720 values first would cost ten times as much.
        exact = np.int32 if self.features.dtype.itemsize == 1 else np.float64
        mean = self.features.sum(axis=(0, 1), dtype=exact) / (self.features.shape[0] * self.features.shape[1])
        return np.asarray((mean - self.zero_point) * self.scale, np.float32)

    def real_features(self) -> NDArray[np.float32]:
        """The real values of the feature maps: (h, w, C) float32."""
        return np.asarray((self.features.astype(np.float32) - self.zero_point) * self.scale, np.float32)


class Interpreter(Protocol):
    """A loaded model, safe to call from several threads (one runs at a time).

    Attributes:
        runtime: a key of `RUNTIMES`, "onnxruntime" or "tensorrt".
        delegate: what really runs the model; of a TFLite file "XNNPACK" or "none", read from its operators once loaded.
        partitions: into how many pieces the delegate cut the graph; 0 without one. More than 1 costs time.
        size_px: side of the square input.
        threads: as asked for.
    """

    @property
    def runtime(self) -> str: ...  # noqa: D102
    @property
    def delegate(self) -> str: ...  # noqa: D102
    @property
    def partitions(self) -> int: ...  # noqa: D102
    @property
    def size_px(self) -> int: ...  # noqa: D102
    @property
    def threads(self) -> int: ...  # noqa: D102

    def run(self, pixels: NDArray[np.uint8]) -> ModelOutput:
        """One inference over grey levels (S, S) uint8.

        Raises:
            ModelError: another shape or type, or the runtime failed.
        """


def open_interpreter(
    model: Path | bytes, *, threads: int = 2, runtime: str = "auto", delegate: bool = True
) -> Interpreter:
    """Load a TFLite file and prepare it to run.

    Args:
        model: the file (memory-mapped), or its bytes.
        threads: for the delegate's operators.
        runtime: a key of `RUNTIMES`, or "auto": the first that is installed.
        delegate: False: by the runtime's own kernels, which are slow, and round otherwise than XNNPACK.

    Raises:
        ConfigError: an unknown runtime, or an impossible number of threads.
        MissingExtraError: the runtime is not installed.
        ModelError: the file is no TFLite model, damaged, or not of the form that this project exports.
    """
    raw, name = load_tflite(model, threads=threads, runtime=runtime, delegate=delegate)
    try:
        return _TfliteInterpreter(raw, name, threads)
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError) as error:
        raise _cannot_load(name, error) from error


def load_tflite(model: Path | bytes, *, threads: int, runtime: str = "auto", delegate: bool = True) -> tuple[Any, str]:
    """A TFLite file of any form, its tensors allocated, and the name of the runtime that holds it.

    Raises:
        ConfigError, MissingExtraError, ModelError: as `open_interpreter`.
    """
    check_threads(threads)
    name, factory = _find_runtime(runtime)
    _check_identifier(model)
    options: dict[str, Any] = {"num_threads": threads}
    options |= {"model_path": str(model)} if isinstance(model, Path) else {"model_content": bytes(model)}
    if not delegate:
        kinds = importlib.import_module(RUNTIMES[name]).OpResolverType
        options["experimental_op_resolver_type"] = kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    try:
        raw = factory(**options)
        raw.allocate_tensors()
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError) as error:
        raise _cannot_load(name, error) from error
    return raw, name


def check_threads(threads: int) -> None:
    """Refuse an impossible number of threads.

    Raises:
        ConfigError: it is.
    """
    if not 1 <= threads <= _MAX_THREADS:
        raise ConfigError(
            "impossible number of threads",
            expected=f"1 to {_MAX_THREADS}",
            came=str(threads),
            do="give the number of cores, or less",
        )


def check_pixels(pixels: NDArray[np.uint8], size_px: int) -> None:
    """Refuse what no model of side `size_px` takes.

    Raises:
        ModelError: another shape or type.
    """
    if pixels.shape != (size_px, size_px) or pixels.dtype != np.uint8:
        raise ModelError(
            "the X-ray does not fit the model",
            expected=f"({size_px}, {size_px}) uint8",
            came=f"{pixels.shape} {pixels.dtype}",
            do="let the preprocessing of the bundle make it",
        )


def delegate_partitions(raw: Any) -> int:
    """Into how many pieces XNNPACK cut a loaded graph; 0 where it runs nothing.

    A delegate replaces the operators it takes by one named DELEGATE for each partition. None is asked for here, so the
    only one there can be is the runtime's own default, XNNPACK.
    """
    return sum(1 for op in raw._get_ops_details() if op["op_name"] == "DELEGATE")


def _cannot_load(runtime: str, error: Exception) -> ModelError:
    return ModelError(
        "the model cannot be loaded",
        expected="a TFLite file that this runtime can run",
        came=f"{runtime}: {one_line(error)}",
        do="export it again, or update the runtime",
    )


def _find_runtime(wanted: str) -> tuple[str, Callable[..., Any]]:
    if wanted != "auto" and wanted not in RUNTIMES:
        raise ConfigError(
            f"unknown runtime '{wanted}'", expected=f"auto, {', '.join(RUNTIMES)}", came=wanted, do="choose one of them"
        )
    names = tuple(RUNTIMES) if wanted == "auto" else (wanted,)
    reason = ""
    for name in names:
        try:
            factory: Callable[..., Any] = importlib.import_module(RUNTIMES[name]).Interpreter
        except ImportError as error:  # not installed, or built for another system
            reason = reason or one_line(error)
            continue
        return name, factory
    raise MissingExtraError(
        "no TFLite runtime can be loaded here",
        expected=" or ".join(names),
        came=reason,
        do="pip install ai-edge-litert; where that has no wheel: pip install 'cxr-edge[tflite-runtime]'",
    )


def _check_identifier(model: Path | bytes) -> None:
    """At least the file must say that it is one: tflite-runtime reads a flatbuffer unverified, and can crash on it."""
    try:
        if isinstance(model, Path):
            with model.open("rb") as file:
                head = file.read(8)
        else:
            head = bytes(model[:8])
    except OSError as error:
        raise ModelError(
            "the model cannot be opened",
            expected="a TFLite file that this user may read",
            came=f"{model!s}: {error.strerror}",
            do="check the path and the permissions",
        ) from error
    if head[4:8] != _TFLITE_IDENTIFIER:
        raise ModelError(
            "this is not a TFLite model",
            expected="a file with 'TFL3' at byte 4",
            came=repr(head[4:8]) if head else "an empty file",
            do="give a .tflite file as `cxr-edge train-qat` writes it",
        )


class _TfliteInterpreter:
    """`Interpreter` over the calls that ai-edge-litert and tflite-runtime share."""

    def __init__(self, raw: Any, runtime: str, threads: int) -> None:
        self._raw = raw
        self._lock = threading.Lock()  # tensors are written, run and read as one
        self.runtime, self.threads = runtime, threads
        self._input, self.size_px = _input_of(raw)
        self._probability, self._features = _outputs_of(raw)
        self.partitions = delegate_partitions(raw)
        self.delegate = "XNNPACK" if self.partitions else "none"

    def run(self, pixels: NDArray[np.uint8]) -> ModelOutput:
        check_pixels(pixels, self.size_px)
        try:
            with self._lock:
                # Straight into the tensor's memory, float32 models included: no copy in between. The view must be
                # gone before invoke(), which refuses to run while one is held.
                self._raw.tensor(self._input)()[0, :, :, 0] = pixels
                self._raw.invoke()
                probability = float(self._raw.tensor(self._probability.index)().item())
                features = np.array(self._raw.tensor(self._features.index)()[0])  # (h, w, C)
        except (RuntimeError, ValueError) as error:
            raise ModelError(
                "the model failed while it ran",
                expected="an inference",
                came=one_line(error),
                do="export the model again, or try another runtime",
            ) from error
        tensor = self._probability
        return ModelOutput(
            probability=(probability - tensor.zero_point) * tensor.scale,
            features=features,
            scale=self._features.scale,
            zero_point=self._features.zero_point,
        )


@dataclass(frozen=True, slots=True)
class _Tensor:
    index: int
    scale: float
    zero_point: int

    @classmethod
    def from_details(cls, details: dict[str, Any]) -> _Tensor:
        """The runtime says (0.0, 0) for a tensor that is not quantized."""
        scale, zero_point = details["quantization"]
        if details["dtype"] not in (np.uint8, np.int8, np.float32) or (details["dtype"] != np.float32 and scale <= 0):
            raise wrong_form("outputs of uint8, int8 (quantized) or float32", str(details["dtype"]))
        return cls(int(details["index"]), float(scale) or 1.0, int(zero_point))


def _input_of(raw: Any) -> tuple[int, int]:
    """Index and side of the one input."""
    inputs = raw.get_input_details()
    shapes = [tuple(int(side) for side in details["shape"]) for details in inputs]
    dtypes = [np.dtype(details["dtype"]).name for details in inputs]
    side_px = shapes[0][1] if len(inputs) == 1 and len(shapes[0]) == 4 else 0
    if side_px < 1 or shapes[0] != (1, side_px, side_px, 1):
        raise wrong_form("one input (1, S, S, 1): grey, batch of 1", str(shapes))
    if dtypes[0] not in ("uint8", "float32"):
        raise wrong_form("an input of uint8 or float32", dtypes[0])
    return int(inputs[0]["index"]), side_px


def _outputs_of(raw: Any) -> tuple[_Tensor, _Tensor]:
    """Probability and feature maps, told apart by rank: exporters do not keep the order."""
    outputs = raw.get_output_details()
    ranks = sorted(len(details["shape"]) for details in outputs)
    if ranks != [2, 4]:
        raise wrong_form("two outputs: a probability (1, 1) and feature maps (1, h, w, C)", f"ranks {ranks}")
    by_rank = {len(details["shape"]): details for details in outputs}
    if tuple(by_rank[2]["shape"]) != (1, 1) or int(by_rank[4]["shape"][0]) != 1:
        raise wrong_form("outputs of batch 1 with one probability", str([list(d["shape"]) for d in outputs]))
    return _Tensor.from_details(by_rank[2]), _Tensor.from_details(by_rank[4])


def wrong_form(expected: str, came: str) -> ModelError:
    """A model that is sound, but none of ours."""
    return ModelError(
        "this model is not of the form that cxr-edge runs",
        expected=expected,
        came=came,
        do="give a model that `cxr-edge train-qat` wrote",
    )


def one_line(error: BaseException) -> str:
    """What an error of somebody else's says, on one line."""
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
