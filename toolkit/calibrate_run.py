"""The calibration stage of a run: temperature, bias and threshold of each file, on its own validation outputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from calibration.calibrate import calibrate
from toolkit.config import TrainConfig
from toolkit.export_run import ExportedModel
from toolkit.files import write_atomically
from toolkit.training_data import TrainingData


def calibrate_run(
    exported: Mapping[str, ExportedModel], data: TrainingData, config: TrainConfig, *, folder: Path
) -> None:
    """Fit temperature, bias and threshold of each file on its own validation outputs; write `calibration.json`.

    Raises:
        InputError: validation holds one class only.
    """
    patients = np.array([row.patient_id for row in data.validation_rows])
    fits = {
        model.file: calibrate(
            model.logits,
            data.validation.labels,
            patients=patients,
            sensitivity=config.sensitivity,
            with_bias=config.calibrate_bias,
            seed=config.seed,
        ).to_json()
        for model in exported.values()
    }
    write_atomically(folder / "calibration.json", json.dumps({"models": fits}, indent=1))
