"""Asks an interpreter, in a process of its own, which delegate runs a model: `python -m toolkit.doctor.probe FILE`.

A process of its own, because a library built for another processor, C library or page size ends the process that loads
it (SIGILL, SIGSEGV, SIGBUS), and the doctor must live to say so.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def probe(model: Path) -> dict[str, object]:
    """What really runs `model`, after one inference on black pixels: the fields of `toolkit.doctor.facts.Probe`."""
    import numpy as np

    from firmware_bridge.errors import CxrEdgeError
    from firmware_bridge.interpreter import open_interpreter

    try:
        interpreter = open_interpreter(model, threads=1)
        interpreter.run(np.zeros((interpreter.size_px, interpreter.size_px), dtype=np.uint8))
    except CxrEdgeError as error:
        return {"error": f"{error.what}: {error.came}"}
    return {
        "runtime": interpreter.runtime,
        "delegate": interpreter.delegate,
        "partitions": interpreter.partitions,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(probe(Path(sys.argv[1]))) + "\n")
