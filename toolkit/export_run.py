"""The export stage of a run: model files, heads, what is really in them, and the gate on what int8 lost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.metrics import auroc
from calibration.representative import representative_rows
from calibration.temperature import calibrated
from firmware_bridge.errors import ExportGateError
from firmware_bridge.interpreter import open_interpreter
from firmware_bridge.score import Head
from toolkit.config import TrainConfig
from toolkit.export import to_float, to_int8, to_int8_post_training
from toolkit.files import write_atomically
from toolkit.inspect_tflite import FileFacts, inspect_tflite
from toolkit.model import HEAD_LAYER, Architecture
from toolkit.phase import predict
from toolkit.progress import progress
from toolkit.qat import float_head
from toolkit.train import Trained
from toolkit.training_data import TrainingData

Grey = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
INT8, FP16, FLOAT, PTQ = "int8", "fp16", "float", "ptq.int8"
# Below this, ten swapped pairs are more than 0.01 AUROC.
_TELLING_PAIRS = 1_000


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """One written file and how it does on the validation split.

    Attributes:
        precision: "int8", "fp16", "float" or "ptq.int8".
        content: the file's bytes.
        head: its last layer in floating point.
        logits: (N,) float64, from the file's feature maps and the head, uncalibrated.
        facts: what is in the file.
        row: its entry in `export.json`.
    """

    precision: str
    content: bytes
    head: Head
    logits: Floats
    facts: FileFacts
    row: dict[str, Any]

    @property
    def file(self) -> str:
        """Name below `models/` in the run and in the bundle."""
        return f"model.{self.precision}.tflite"


def export_run(
    trained: Trained, data: TrainingData, config: TrainConfig, *, arch: Architecture, folder: Path
) -> dict[str, ExportedModel]:
    """Write `models/` and `export.json`.

    Returns:
        The files by precision.

    Raises:
        ExportGateError: int8 lost more validation AUROC than `config.max_int8_loss`; the files and the table are there.
        ModelError: the converter refuses.
    """
    files = _convert_all(trained, data, config, arch)
    float_probabilities = predict(trained.float_model, data.validation.pixels, arch.input_scale).astype(np.float64)
    float_auroc = float(auroc(data.validation.labels, float_probabilities))
    pruned = predict(trained.pruned, data.validation.pixels, arch.input_scale)
    references = {
        INT8: predict(trained.quantized, data.validation.pixels, arch.input_scale),
        FP16: pruned,
        FLOAT: float_probabilities,
        PTQ: pruned,
    }
    exported = {
        precision: _measure(
            precision, *files[precision], data=data, graph=references[precision], plain=float_probabilities
        )
        for precision in progress(list(files), "scoring the written files")
    }
    for model in exported.values():
        write_atomically(folder / "models" / model.file, model.content)
        write_atomically(folder / "models" / f"head.{model.precision}.npy", model.head.to_bytes())
    table = {
        "float_auroc_validation": float_auroc,
        "validation_images": len(data.validation.labels),
        "models": [model.row for model in exported.values()],
        "layers": [
            {
                "name": k.name,
                "operator": k.operator,
                "shape": list(k.shape),
                "zeros": k.zeros,
                "share": k.zeros / k.size,
                "pruned": k.pruned,
            }
            for k in exported[INT8].facts.kernels
        ],
    }
    write_atomically(folder / "export.json", json.dumps(table, indent=1))
    positives = int(data.validation.labels.sum())
    pairs = positives * (len(data.validation.labels) - positives)
    _gate(float_auroc, exported[INT8].row["auroc_validation"], config, folder, pairs=pairs)
    return exported


def export_float(model: Any, data: TrainingData, *, arch: Architecture, folder: Path) -> dict[str, ExportedModel]:
    """Write the float file alone, of a variant that is not for a device, and `export.json`.

    Raises:
        ModelError: the converter refuses.
    """
    content = to_float(model, half=False, scale=arch.input_scale, size_px=arch.size_px)
    head = _head(*model.get_layer(HEAD_LAYER).get_weights())
    probabilities = predict(model, data.validation.pixels, arch.input_scale).astype(np.float64)
    exported = _measure(FLOAT, content, head, data=data, graph=probabilities, plain=probabilities)
    write_atomically(folder / "models" / exported.file, content)
    write_atomically(folder / "models" / f"head.{FLOAT}.npy", head.to_bytes())
    table = {
        "float_auroc_validation": float(auroc(data.validation.labels, probabilities)),
        "validation_images": len(data.validation.labels),
        "models": [exported.row],
        "layers": [],
    }
    write_atomically(folder / "export.json", json.dumps(table, indent=1))
    return {FLOAT: exported}


def _convert_all(
    trained: Trained, data: TrainingData, config: TrainConfig, arch: Architecture
) -> Mapping[str, tuple[bytes, Head]]:
    options: dict[str, Any] = {"scale": arch.input_scale, "size_px": arch.size_px}
    rows = representative_rows(
        data.train_labels,
        patients=np.array([row.patient_id for row in data.train.rows]),
        n=config.representative,
        seed=config.seed,
    )
    pixels = data.train.pixels[rows]
    representative: Grey = np.stack([data.tonal.apply(p) for p in pixels]) if data.tonal else pixels
    plain_head = _head(*trained.pruned.get_layer(HEAD_LAYER).get_weights())
    work = {
        INT8: lambda: (to_int8(trained.quantized, **options), _head(*float_head(trained.quantized, HEAD_LAYER))),
        FP16: lambda: (to_float(trained.pruned, half=True, **options), plain_head),
        # Never deployed: what the others are measured against, before pruning and as a file like them.
        FLOAT: lambda: (
            to_float(trained.float_model, half=False, **options),
            _head(*trained.float_model.get_layer(HEAD_LAYER).get_weights()),
        ),
    }
    if arch.attention == "none":
        # On attention's poolings TensorFlow 2.21's post-training quantizer aborts the whole process.
        work[PTQ] = lambda: (to_int8_post_training(trained.pruned, representative, **options), plain_head)
    return {precision: work[precision]() for precision in progress(list(work), "writing TFLite files")}


def _head(kernel: Any, bias: Any) -> Head:
    return Head(np.asarray(kernel, np.float32)[:, 0].copy(), float(bias[0]))


def _measure(
    precision: str, content: bytes, head: Head, *, data: TrainingData, graph: Any, plain: Floats
) -> ExportedModel:
    """Facts and figures of one file; `graph` and `plain` are (N,) probabilities of its own Keras graph and of float."""
    facts = inspect_tflite(content)
    logits, own = score_pixels(content, head, data.validation.pixels)
    probabilities = calibrated(logits, temperature=1.0)
    difference = np.abs(probabilities - graph.astype(np.float64))
    from_float = np.abs(probabilities - plain)
    row = {
        "file": f"model.{precision}.tflite",
        "precision": precision,
        **facts.to_json(),
        # Against the Keras graph that the file was made from, on real X-rays: what conversion alone changes.
        "max_abs_diff": float(difference.max()),
        "mean_abs_diff": float(difference.mean()),
        "max_abs_diff_own_output": float(np.abs(own - graph).max()),
        # Against the float model before pruning: all that compression changes.
        "max_abs_diff_float": float(from_float.max()),
        "mean_abs_diff_float": float(from_float.mean()),
        "auroc_validation": float(auroc(data.validation.labels, logits)),
    }
    return ExportedModel(precision=precision, content=content, head=head, logits=logits, facts=facts, row=row)


def score_pixels(content: bytes, head: Head, pixels: Grey) -> tuple[Floats, Floats]:
    """Logits from feature maps and head, and the file's own probabilities, of preprocessed X-rays.

    Args:
        content: a `.tflite` file.
        head: its head.
        pixels: (N, S, S) uint8.

    Returns:
        (N,) and (N,) float64.
    """
    interpreter = open_interpreter(content, threads=2)
    outputs = [interpreter.run(image) for image in pixels]
    logits = np.array([head.logit(output.mean_features()) for output in outputs])
    return logits, np.array([output.probability for output in outputs])


def _gate(float_auroc: float, int8_auroc: float, config: TrainConfig, folder: Path, *, pairs: int) -> None:
    """Refuse an int8 file that lost too much; `pairs` is how many pairs of a sick and a well X-ray were compared."""
    lost = float_auroc - int8_auroc
    if lost <= config.max_int8_loss or config.allow_int8_loss:
        return
    # Few X-rays move AUROC in steps above the limit: then the gate cannot tell a bad file from a single swapped pair.
    coarse = (
        f"; one of its {pairs} pairs alone is {1 / pairs:.4f}: too few X-rays to tell" if pairs < _TELLING_PAIRS else ""
    )
    raise ExportGateError(
        "the int8 file is worse than the float model",
        expected=f"at most {config.max_int8_loss:g} AUROC lost on validation{coarse}",
        came=f"{lost:.4f} lost (float {float_auroc:.4f}, int8 {int8_auroc:.4f}), table in {folder / 'export.json'}",
        do="accept it with --allow-int8-loss (nothing is trained again; the report will say so), "
        "or train longer with --qat-epochs under another --name",
    )
