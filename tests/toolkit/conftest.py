"""Scores made up with a known strength, and what an evaluation says about them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolkit.data.index import Index, Xray
from toolkit.differences import gaps, paired_differences
from toolkit.summary import Options, ScoredSet, summarise_set

DATA = Path(__file__).resolve().parent.parent / "data"
OPTIONS = Options(resamples=50)
THRESHOLDS = {"int8": 0.5, "fp16": 0.5}


def _scored_set(name: str, *, strength: float, n: int = 400, seed: int = 0, positive_share: float = 0.5) -> ScoredSet:
    """Two X-rays a patient; logits that carry the label with `strength`; the int8 ones are rounded."""
    rng = np.random.default_rng(seed)
    by_patient = rng.random(n // 2) < positive_share
    positive = np.repeat(by_patient, 2)
    fp16 = strength * (positive - 0.5) + rng.normal(size=n)
    logits = {"int8": np.round(fp16 * 8) / 8, "fp16": fp16}
    rows = tuple(
        Xray(
            Path(f"/x/{i}.png"),
            "pneumonia" if positive[i] else "normal",
            str(i // 2),
            source=name,
            view="AP" if i % 3 else "PA",
            age=float(i % 90) if i % 7 else None,
            sex="F" if i % 4 < 2 else "M",
        )
        for i in range(n)
    )
    attributes = rng.normal(size=(n, 5))
    attributes[:, 0] += positive
    return ScoredSet(
        name=name,
        rows=rows,
        positive=positive,
        attributes=attributes,
        logits=logits,
        probabilities={model: 1 / (1 + np.exp(-values)) for model, values in logits.items()},
        unreadable=((Path("/x/<bad>.png"), "not an image: 3 bytes"),),
        left_out={"Cardiomegaly": 3},
        index=f"{name}.csv:test",
        fingerprint="0" * 64,
    )


def _evaluation_of(sets: list[ScoredSet]) -> dict[str, Any]:
    """What `evaluate` would write about these scores."""
    summaries = [summarise_set(one, THRESHOLDS, OPTIONS) for one in sets]
    model = {
        "file": "models/model.int8.tflite",
        "sha256": "ab" * 32,
        "bytes": 4_890_000,
        "runtime": "ai-edge-litert",
        "delegate": "XNNPACK",
        "logit_from": "feature maps",
        "temperature": 1.3,
        "threshold": 0.5,
    }
    return {
        "notice": "Not for diagnosis.",
        "labels": {"negative": "normal", "positive": "pneumonia"},
        "prevalence": OPTIONS.prevalence,
        "resamples": OPTIONS.resamples,
        "models": [{"name": name, "precision": name, **model} for name in THRESHOLDS],
        "sets": summaries,
        "gaps": gaps(summaries, list(THRESHOLDS)),
        "paired": paired_differences(sets, baseline="fp16", options=OPTIONS),
    }


@pytest.fixture(scope="session")
def scored_set() -> Callable[..., ScoredSet]:
    """Makes a scored set of a given strength."""
    return _scored_set


@pytest.fixture(scope="session")
def evaluation_of() -> Callable[[list[ScoredSet]], dict[str, Any]]:
    """Makes the evaluation of scored sets, as `evaluation.json` holds it."""
    return _evaluation_of


@pytest.fixture
def run(tmp_path: Path, samples: Path) -> Path:
    """A run with the tiny int8 model, a calibration, and all samples as its validation split."""
    folder = tmp_path / "my run"
    (folder / "models").mkdir(parents=True)
    shutil.copy(DATA / "tiny.int8.tflite", folder / "models" / "model.int8.tflite")
    shutil.copy(DATA / "tiny.head.npy", folder / "models" / "head.int8.npy")
    fitted = {"temperature": 2.0, "bias": 0.0, "threshold": 0.4, "threshold_interval": [0.3, 0.5]}
    (folder / "calibration.json").write_text(json.dumps({"models": {"model.int8.tflite": fitted}}))
    index = Index.read(samples / "index.csv")
    index.with_rows([replace(row, split="validation") for row in index.rows]).write(folder / "index.csv")
    return folder
