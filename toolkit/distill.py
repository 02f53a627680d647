"""Knowledge distillation (Hinton 2015): what saved teachers say about the training X-rays, as targets of a student.

A teacher is any model that `cxr-edge evaluate` can score: a training run, a bundle or a `.tflite` file, of any backbone
and input size. Each X-ray is scored once, as it is, through the teacher's own preprocessing; a training epoch costs
nothing more.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from calibration.temperature import sigmoid
from firmware_bridge.errors import ConfigError
from firmware_bridge.shipped import bundle_path
from toolkit.data.index import Index, Xray
from toolkit.data.load import identity
from toolkit.files import replacing
from toolkit.model_files import from_bundle, from_file, from_run
from toolkit.score_index import NamedIndex, score_index
from toolkit.under_test import ModelUnderTest

Floats = npt.NDArray[np.float64]
_NEGATIVE, _POSITIVE = "0", "1"


def read_teachers(paths: str, *, positive: str) -> list[ModelUnderTest]:
    """The models named by `paths`: runs, bundles or `.tflite` files, separated by the system's path separator.

    Of a run, the most exact file it has; of a bundle, the FP16 model where it has one.

    Args:
        paths: as `--teacher` joins them.
        positive: the label that the student calls positive.

    Raises:
        BundleError, ModelError: one of them cannot be read.
        ConfigError: none is named, or one answers for another label.
    """
    named = [bundle_path(Path(part).expanduser()) for part in paths.split(os.pathsep) if part]
    if not named:
        raise ConfigError(
            "no teacher is named",
            expected=f"runs, bundles or .tflite files, separated by '{os.pathsep}'",
            came=repr(paths),
            do="name one with --teacher",
        )
    teachers = [_teacher(path) for path in named]
    for path, teacher in zip(named, teachers, strict=True):
        if teacher.labels and teacher.labels[1] != positive:
            raise ConfigError(
                f"the teacher {path} answers another question",
                expected=f"a model whose positive label is '{positive}'",
                came=f"'{teacher.labels[1]}'",
                do="choose another teacher, or index again with --label VALUE=LABEL in the teacher's words",
            )
    return teachers


def _teacher(path: Path) -> ModelUnderTest:
    if path.is_dir():
        models = {model.precision: model for model in from_run(path)}
    elif path.suffix == ".tflite":
        return from_file(path)
    else:
        models = {model.precision: model for model in from_bundle(path)}
    return next(models[name] for name in ("float", "fp16", *models) if name in models)


def teacher_logits(
    teachers: Sequence[ModelUnderTest], rows: Sequence[Xray], positive: str, *, cache: Path, workers: int
) -> Floats:
    """The mean calibrated logit of `teachers` for each of `rows`: (N,) float64, NaN where a teacher refuses the X-ray.

    Args:
        teachers: at least one.
        rows: the X-rays, of any labels.
        positive: the label that counts as positive.
        cache: folder in which the answer is kept, for the very same files.
        workers: threads that score.
    """
    digest = hashlib.sha256(b"".join(map(identity, rows)))
    for teacher in teachers:
        digest.update(teacher.content + f"{teacher.temperature} {teacher.bias}".encode())
    stored = cache / f"teacher-{digest.hexdigest()[:24]}.npy"
    if stored.is_file():
        # What cannot be read is asked again.
        with contextlib.suppress(OSError, ValueError, EOFError):
            found: Floats = np.load(stored)
            if found.shape == (len(rows),):
                return found
    as_two = Index(tuple(replace(row, label=_POSITIVE if row.label == positive else _NEGATIVE) for row in rows))
    named = NamedIndex("the teacher's X-rays", cache, "", as_two)
    by_path: list[dict[Path, float]] = []
    for teacher in teachers:
        scored = score_index(named, [teacher], labels=(_NEGATIVE, _POSITIVE), workers=workers)
        logits = scored.logits[teacher.name] / teacher.temperature + teacher.bias
        by_path.append({row.path: float(logit) for row, logit in zip(scored.rows, logits, strict=True)})
    out = np.array([np.mean([logits.get(row.path, np.nan) for logits in by_path]) for row in rows])
    with replacing(stored) as part:
        np.save(part, out)
    return out


def targets(
    logits: Floats, labels: npt.NDArray[np.int64], *, hard: bool, temperature: float
) -> npt.NDArray[np.float32]:
    """What the student is to answer the teacher: (N,) float32, 0 to 1; the label itself where the teacher is silent.

    Args:
        logits: (N,) float64, NaN where the teacher refused the X-ray.
        labels: (N,) of {0, 1}.
        hard: the class that the teacher holds the likelier (Touvron 2021, section 4) instead of its probability.
        temperature: that softens the probability.
    """
    said = (logits >= 0).astype(np.float64) if hard else sigmoid(np.nan_to_num(logits) / temperature)
    return np.where(np.isnan(logits), labels, said).astype(np.float32)
