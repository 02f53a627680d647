"""The X-rays of a run in memory: training and validation, with labels, masks, and what a teacher says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from firmware_bridge.errors import InputError
from firmware_bridge.lungs import LungFinder
from firmware_bridge.preprocess import Preprocessing
from toolkit.config import TrainConfig
from toolkit.data.index import Index, Xray
from toolkit.data.load import Grey, Loaded, geometric_and_tonal, load
from toolkit.distill import read_teachers, targets, teacher_logits
from toolkit.phase import Validation


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What training and export see of the X-rays.

    Attributes:
        train: the training split, pixels after the geometric steps.
        train_labels: (N,) int64, 0 or 1.
        validation: fully preprocessed.
        validation_rows: the X-rays of `validation`, in its order.
        tonal: the steps between `train.pixels` and the network, None when there are none.
        unreadable: path and reason of X-rays that are left out.
        teacher: (N,) float32, what the teacher says about `train`; None without one.
        lungs: (N, S, S) uint8 masks in the geometry of `train`, 0 outside; None where nothing finds lungs.
    """

    train: Loaded
    train_labels: npt.NDArray[np.int64]
    validation: Validation
    validation_rows: tuple[Xray, ...]
    tonal: Preprocessing | None
    unreadable: tuple[tuple[Path, str], ...]
    lungs: Grey | None = None
    teacher: npt.NDArray[np.float32] | None = None


def read_data(index: Index, config: TrainConfig, *, cache: Path, finder: LungFinder | None = None) -> TrainingData:
    """Load the training and validation splits of `index`; with `config.lungs`, cut to what `finder` finds.

    Raises:
        BundleError: `config.lungs` without `finder`.
        InputError: a split is empty, holds one class only, or none of it can be read.
    """
    preprocessing = Preprocessing.from_manifest(config.preprocessing())
    geometric, tonal = geometric_and_tonal(preprocessing)
    train = load(index.select(split="train").rows, geometric, finder=finder, workers=config.workers, cache=cache)
    held = load(index.select(split="validation").rows, geometric, finder=finder, workers=config.workers, cache=cache)
    labels = _binary(train.rows, config.positive, "training")
    pixels: Grey = np.stack([tonal.apply(p) for p in held.pixels]) if tonal else held.pixels
    teacher = _teacher(train.rows, labels, config, cache=cache) if config.teacher != "none" else None
    return TrainingData(
        teacher=teacher,
        train=train,
        train_labels=labels,
        validation=Validation(pixels=pixels, labels=_binary(held.rows, config.positive, "validation")),
        validation_rows=held.rows,
        tonal=tonal,
        unreadable=train.unreadable + held.unreadable,
        lungs=train.masks,
    )


def _teacher(
    rows: tuple[Xray, ...], labels: npt.NDArray[np.int64], config: TrainConfig, *, cache: Path
) -> npt.NDArray[np.float32]:
    teachers = read_teachers(config.teacher, positive=config.positive)
    logits = teacher_logits(teachers, rows, config.positive, cache=cache, workers=config.workers or 1)
    return targets(logits, labels, hard=config.distill == "hard", temperature=config.distill_temperature)


def _binary(rows: tuple[Xray, ...], positive: str, split: str) -> npt.NDArray[np.int64]:
    labels = np.array([row.label == positive for row in rows], np.int64)
    if labels.all() or not labels.any():
        raise InputError(
            f"the {split} split holds one class only",
            expected=f"X-rays labelled '{positive}' and others",
            came=", ".join(sorted({row.label for row in rows})) or "no X-ray",
            do="add the missing class, or name the positive label with --positive",
        )
    return labels
