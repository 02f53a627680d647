"""What a training would leave behind, from the tiny model files: for tests of what happens around trainings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from toolkit.config import TrainConfig
from toolkit.data.index import Index
from toolkit.train_qat import Finished

DATA = Path(__file__).resolve().parent.parent / "data"


def trained_run(source: Path, config: TrainConfig, *, out: Path, say: Any) -> Finished:
    """The folder of a finished run on `source`; its int8 and float files are the tiny ones."""
    folder = out / config.name
    say(f"trained {config.name}")
    (folder / "models").mkdir(parents=True, exist_ok=True)
    for precision in ("int8", "float"):
        shutil.copy(DATA / f"tiny.{precision}.tflite", folder / "models" / f"model.{precision}.tflite")
        shutil.copy(DATA / "tiny.head.npy", folder / "models" / f"head.{precision}.npy")
    fitted = {f"model.{precision}.tflite": {"temperature": 1.0, "threshold": 0.5} for precision in ("int8", "float")}
    (folder / "calibration.json").write_text(json.dumps({"models": fitted}))
    (folder / "history.json").write_text(json.dumps({"phases": [{"name": "float", "epochs": [{"seconds": 2.5}]}]}))
    Index.read(source).write(folder / "index.csv")
    return Finished(folder=folder, bundle=folder / "x.cxr", report=folder / "report.html")
