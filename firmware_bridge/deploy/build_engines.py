"""TensorRT engines for the ONNX files of a bundle, built before the proof by the release's own code.

`python3 -m firmware_bridge.deploy.build_engines BUNDLE TRUSTED_KEYS FOLDER`, as the service's user, prints one JSON
object, whatever goes wrong: without engines the CPU scores.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from firmware_bridge.bundle import open_bundle
from firmware_bridge.engines import build_engine, this_platform
from firmware_bridge.errors import CxrEdgeError
from firmware_bridge.manifest import ONNX
from firmware_bridge.trust import read_trusted_keys


def build_all(bundle: Path, trusted_keys: Path, folder: Path) -> dict[str, Any]:
    """An engine for each ONNX file.

    Returns:
        "engines": a row for each, with "error" where there is none; "reason" why none could be tried, or empty.
    """
    rows: list[dict[str, Any]] = []
    try:
        with open_bundle(bundle, trusted=read_trusted_keys(trusted_keys)) as opened:
            entries = [entry for entry in opened.manifest.models if entry.kind == ONNX]
            if not entries:
                return {"engines": [], "reason": "the bundle has no ONNX file (`cxr-edge bundle add-onnx`)"}
            platform = this_platform()
            for entry in entries:
                try:
                    model = opened.read(entry.file)
                    row = build_engine(model, precision=entry.precision, platform=platform, folder=folder)
                    rows.append({"model": entry.file, **row, "error": ""})
                except CxrEdgeError as error:
                    rows.append({"model": entry.file, "error": f"{error.what}: {error.came}"})
    except CxrEdgeError as error:
        return {"engines": rows, "reason": f"{error.what}: {error.came}"}
    except OSError as error:
        return {"engines": rows, "reason": f"{error.filename or folder}: {error.strerror}"}
    return {"engines": rows, "reason": ""}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(build_all(*map(Path, sys.argv[1:4]))) + "\n")
