"""From nothing to the first inference, in a fresh process that holds what a device's would, and no more."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from firmware_bridge.errors import ModelError
from toolkit.memory import resident_bytes

_LIMIT_S = 120.0


@dataclass(frozen=True, slots=True)
class Cold:
    """What one fresh process needed.

    Attributes:
        start_ms: from the start of the process to the first score, imports and loading included.
        first_inference_ms: the first run of the interpreter alone.
        rss_bytes: resident memory after the first score; 0 where the system does not tell.
    """

    start_ms: float
    first_inference_ms: float
    rss_bytes: int


def measure_cold(model: Path, image: Path, *, threads: int) -> Cold:
    """Start a process that scores one X-ray, and hand back what it needed.

    Raises:
        ModelError: the process failed.
    """
    command = [sys.executable, "-m", "toolkit.benchmark.cold", str(model), str(image), str(threads)]
    start_s = time.time()
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    if done.returncode:
        raise ModelError(
            f"{model.name} cannot be run in a fresh process",
            expected="a score",
            came="\n".join(done.stderr.strip().splitlines()[-5:]) or f"exit code {done.returncode}",
            do="cxr-edge doctor --model FILE",
        )
    said = json.loads(done.stdout.splitlines()[-1])
    return Cold(
        start_ms=(said["scored_at_s"] - start_s) * 1000,
        first_inference_ms=said["first_inference_ms"],
        rss_bytes=said["rss_bytes"],
    )


def _score_once(model: Path, image: Path, threads: int) -> dict[str, float]:
    from firmware_bridge.decode import decode
    from firmware_bridge.interpreter import open_interpreter
    from firmware_bridge.preprocess import Preprocessing

    interpreter = open_interpreter(model, threads=threads)
    preprocessing = Preprocessing.default(size_px=interpreter.size_px)
    pixels = preprocessing.apply(decode(image, min_side_px=preprocessing.decode_min_side_px).pixels)
    start_s = time.perf_counter()
    interpreter.run(pixels)
    first_s = time.perf_counter() - start_s
    return {"scored_at_s": time.time(), "first_inference_ms": first_s * 1000, "rss_bytes": resident_bytes() or 0}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_score_once(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))) + "\n")
