"""The file that the naive way runs, made once in a process of its own and kept in the user's cache.

A process of its own, because TensorFlow's memory and threads must not be in the process that measures. The weights
are random: time does not hang on them. Other versions of TensorFlow make another file.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from firmware_bridge.errors import ModelError
from toolkit.extras import require_modules
from toolkit.progress import waiting

SEED = 7
NAME = "stock-b0.float.tflite"


def make_stock(out: Path) -> None:
    """`keras.applications`' EfficientNetB0, converted as its guide says."""
    from toolkit.tf import keras, tf

    keras.utils.set_random_seed(SEED)
    model = keras.applications.EfficientNetB0(weights=None, classes=1, classifier_activation="sigmoid")
    out.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())


def stock_file() -> Path:
    """The file, from the cache or made now (half a minute).

    Raises:
        MissingExtraError: TensorFlow is not installed.
        ModelError: making it failed.
    """
    require_modules("tensorflow", "tf_keras", extra="train")
    folder = _cache_folder() / f"{NAME}-{_fingerprint()}"
    file = folder / NAME
    if file.is_file():
        return file
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch, waiting(f"making {NAME}"):
        made = Path(scratch) / "made"
        made.mkdir()
        command = [sys.executable, "-m", "toolkit.benchmark.stock", str(made / NAME)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not (made / NAME).is_file():
            raise ModelError(
                f"the benchmark could not make {NAME}",
                expected="a file made by TensorFlow",
                came="\n".join(done.stderr.strip().splitlines()[-3:]) or f"exit code {done.returncode}",
                do="pip install -c constraints.txt 'cxr-edge[train]', or leave the naive way out with --no-naive",
            )
        shutil.rmtree(folder, ignore_errors=True)
        made.replace(folder)
    return file


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "cxr-edge" / "benchmark"


def _fingerprint() -> str:
    # The code here shapes the file as much as TensorFlow does.
    versions = ",".join(f"{name}=={importlib.metadata.version(name)}" for name in ("tensorflow", "tf_keras"))
    return hashlib.sha256(versions.encode() + Path(__file__).read_bytes()).hexdigest()[:12]


if __name__ == "__main__":
    make_stock(Path(sys.argv[1]))
