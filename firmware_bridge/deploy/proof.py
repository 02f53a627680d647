"""The proof of a release: run by its own Python and packages, as the service's user, before anything is switched.

`python3 -m firmware_bridge.deploy.proof BUNDLE TRUSTED_KEYS THREADS... [engines=FOLDER]` prints one JSON object; FOLDER
is of TensorRT engines. Releases with older code are called without it, which is all that they know.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from firmware_bridge.bundle import Bundle, open_bundle
from firmware_bridge.errors import BundleError, CxrEdgeError
from firmware_bridge.manifest import ONNX_RUNTIME, TENSORRT, TFLITE, TFLITE_RUNTIME, GoldenEntry, ModelEntry
from firmware_bridge.trust import read_trusted_keys

ENGINES = "engines="
# So many times each golden X-ray, after one round that warms up, and no longer than this for one file.
_ROUNDS = 5
_LIMIT_S = 10.0


def prove(bundle: Path, trusted_keys: Path, threads: list[int], *, engines: Path | None = None) -> dict[str, Any]:
    """Score the golden X-rays with every model file, runtime and number of threads; name the fastest that is right.

    ONNX files are tried with TensorRT where `engines` is given, and with ONNX Runtime where that is installed.

    Raises:
        BundleError: unsigned, without golden X-rays, or no model gives its own results here.
    """
    with open_bundle(bundle, trusted=read_trusted_keys(trusted_keys)) as opened:
        key = opened.require_trust(read_trusted_keys(trusted_keys))
        tried = [
            _try(opened, entry, cases, n, runtime=runtime, engines=engines)
            for entry in opened.manifest.models
            if (cases := [case for case in opened.manifest.golden if case.model == entry.file])
            for runtime in _runtimes(entry, engines)
            for n in (threads if runtime != TENSORRT else [1])
        ]
        name = opened.manifest.name
    if not tried:
        raise BundleError(
            f"bundle '{name}' has no golden X-rays",
            expected="at least one, by which it can be proven on this device",
            came="none",
            do="build it again with `cxr-edge bundle build RUN --golden 6`",
        )
    right = [one for one in tried if one["holds"]]
    if not right:
        worst = max(tried, key=lambda one: float(one["max_difference"] or 0))
        raise BundleError(
            f"bundle '{name}' does not give its own results on this device",
            expected="the golden X-rays' probabilities within their tolerance, from at least one model file",
            came=worst["error"] or f"a difference of {worst['max_difference']:.4f} from {worst['model']}",
            do="do not use it here; build the bundle again with this version of cxr-edge, or report the processor",
        )
    best = min(right, key=lambda one: (float(one["median_ms"]), one["threads"]))
    return {"signed_by": {"name": key.name, "id": key.id}, "tried": tried, "chosen": best}


def _runtimes(entry: ModelEntry, engines: Path | None) -> list[str]:
    if entry.kind == TFLITE:
        return [TFLITE_RUNTIME]
    return [*([TENSORRT] if engines else []), *([ONNX_RUNTIME] if find_spec(ONNX_RUNTIME) else [])]


def _try(
    bundle: Bundle, entry: ModelEntry, cases: list[GoldenEntry], threads: int, *, runtime: str, engines: Path | None
) -> dict[str, Any]:
    row = {"model": entry.file, "precision": entry.precision, "threads": threads, "holds": False, "error": ""}
    row.update(run_by=runtime, median_ms=None, max_difference=None, runtime="", delegate="")
    try:
        scorer = bundle.scorer(entry.precision, threads=threads, runtime=runtime, engines=engines)
        images = [bundle.read(case.file) for case in cases]
        differences = [
            abs(scorer.score(image).probability - case.probability) for image, case in zip(images, cases, strict=True)
        ]
        took_ms: list[float] = []
        end_s = time.monotonic() + _LIMIT_S
        for image in images * _ROUNDS:
            start_s = time.perf_counter()
            scorer.score(image)
            took_ms.append((time.perf_counter() - start_s) * 1e3)
            if time.monotonic() > end_s:
                break
    except CxrEdgeError as error:
        return {**row, "error": f"{error.what}: {error.came}"}
    return {
        **row,
        "holds": all(found <= case.tolerance for found, case in zip(differences, cases, strict=True)),
        "max_difference": round(max(differences), 6),
        "median_ms": round(statistics.median(took_ms), 3),
        "runtime": scorer.interpreter.runtime,
        "delegate": scorer.interpreter.delegate,
    }


def main(arguments: list[str]) -> int:
    """The exit code; the answer is on standard output, an error of ours too."""
    try:
        bundle, keys, *threads = arguments
        folder = Path(threads.pop().partition("=")[2]) if threads[-1].startswith(ENGINES) else None
        answer = prove(Path(bundle), Path(keys), [int(one) for one in threads], engines=folder)
    except CxrEdgeError as error:
        sys.stdout.write(json.dumps({"error": error.told()}) + "\n")
        return error.exit_code
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
