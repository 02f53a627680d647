"""ONNX beside the TFLite files of a bundle, for devices that run TensorRT or ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from calibration.golden import MIN_TOLERANCE
from firmware_bridge.bundle import Bundle, open_bundle
from firmware_bridge.errors import BundleError
from firmware_bridge.interpreter import open_interpreter
from firmware_bridge.manifest import ONNX, TFLITE, GoldenEntry, ModelEntry
from firmware_bridge.onnx_runtime import open_onnx
from toolkit.bundle import made_now, write_bundle
from toolkit.onnx_export import to_onnx

# Other arithmetic rounds single values to the step beside, and the layers after it spread that: in the shipped int8
# model it moved the probability of an undecided X-ray by 0.05. Twice what is seen here is allowed on a device ...
_SAFETY = 2.0
# ... but no more than this may be seen here: then the graph is wrong, or the model so unsteady that it serves nobody.
_LIMIT = 0.1


def add_onnx(path: Path, out: Path | None = None) -> Path:
    """Put the ONNX form of each of its TFLite models into a bundle. What was signed is unsigned then.

    Heads, calibration and thresholds are those of the TFLite files: the network is the same one. The golden X-rays must
    give the TFLite file's results, by ONNX Runtime here and later on each device by whatever runs it there.

    Args:
        path: the bundle.
        out: where the new one goes; None: in its place, atomically.

    Raises:
        BundleError: it cannot be opened, has no golden X-rays, or ONNX gives other results.
        MissingExtraError: tf2onnx, onnx or onnxruntime is not installed.
        ModelError: a model cannot be converted.
        ResourceError: the new one cannot be written.
    """
    with open_bundle(path) as bundle:
        manifest = bundle.manifest
        plain = [entry for entry in manifest.models if entry.kind == TFLITE]
        replaced = {entry.file for entry in manifest.models if entry.kind != TFLITE}
        files: dict[str, bytes | Path] = {name: bundle.read(name) for name in manifest.files if name not in replaced}
        models = list(plain)
        golden = [case for case in manifest.golden if case.model not in replaced]
        for entry in plain:
            content = to_onnx(bundle.read(entry.file), precision=entry.precision)
            file = f"{entry.file.removesuffix('.tflite')}.onnx"
            files[file] = content
            cases, difference = _golden(bundle, entry, content)
            if not difference <= _LIMIT:
                raise _differs(path, entry, difference, own=_own_difference(bundle, entry, cases))
            golden += [replace(case, model=file) for case in cases]
            facts = {"made_from": entry.file, "largest_golden_difference": round(difference, 4)}
            models.append(replace(entry, file=file, kind=ONNX, metrics=facts))
        changed = replace(manifest, models=tuple(models), golden=tuple(golden), created=made_now())
        return write_bundle(out or path, changed, files)


def _golden(bundle: Bundle, entry: ModelEntry, content: bytes) -> tuple[Sequence[GoldenEntry], float]:
    """The golden cases of a TFLite file with the tolerance that its ONNX form gets, and the largest difference here."""
    cases = [case for case in bundle.manifest.golden if case.model == entry.file]
    if not cases:
        raise BundleError(
            f"bundle '{bundle.manifest.name}' has no golden X-rays for {entry.file}",
            expected="at least one, by which its ONNX form can be proven",
            came="none",
            do="build it again with `cxr-edge bundle build RUN --golden 6`",
        )
    scorer = bundle.scorer(entry.precision, threads=1)
    expected = np.array([case.probability for case in cases])
    came: list[npt.NDArray[np.float64]] = []
    for as_written in (False, True):
        scorer.interpreter = open_onnx(content, threads=1, as_written=as_written)
        came.append(np.array([scorer.score(bundle.read(case.file)).probability for case in cases]))
    difference = float(np.abs(np.array(came) - expected).max())
    tolerance = max(MIN_TOLERANCE, _SAFETY * difference)
    return [replace(case, tolerance=tolerance) for case in cases], difference


def _own_difference(bundle: Bundle, entry: ModelEntry, cases: Sequence[GoldenEntry]) -> float:
    """By how much TFLite's own kernels, without XNNPACK, miss the golden probabilities."""
    scorer = bundle.scorer(entry.precision, threads=1)
    scorer.interpreter = open_interpreter(bundle.read(entry.file), threads=1, delegate=False)
    return max(abs(scorer.score(bundle.read(case.file)).probability - case.probability) for case in cases)


def _differs(path: Path, entry: ModelEntry, difference: float, *, own: float) -> BundleError:
    """Says whose fault it is: the graph's, or that of a network whose probabilities hang on single roundings."""
    without = f"do without ONNX: {path} is whole without it (train-qat: give the same command again with --no-onnx)"
    if own > difference / 2:
        came = f"a difference of {difference:.4f}; without XNNPACK, TFLite itself differs by {own:.4f}: so unsteady is "
        came += "the network, as after little training"
        do = f"train it longer or on more X-rays, or start from --weights cxr-edge/kermany; or {without}"
    else:
        came = f"a difference of {difference:.4f}; without XNNPACK, TFLite itself differs by {own:.4f}"
        do = f"{without}, and report the backbone and the versions of tf2onnx and onnxruntime"
    return BundleError(
        f"the ONNX form of {entry.file} gives other results",
        expected=f"probabilities of the golden X-rays within {_LIMIT:g} of the TFLite file's",
        came=came,
        do=do,
    )
