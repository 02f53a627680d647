"""The suitability stage of a run: what the device judges pictures by, from the run's own X-rays and int8 file."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from calibration.suitability import Observed, fit_suitability
from firmware_bridge.decode import decode
from firmware_bridge.errors import ImageError, InputError, UnsuitableImage
from firmware_bridge.lungs import square
from firmware_bridge.score import Scorer
from firmware_bridge.suitability import FILE, Judge, Statistics, contrast_of, measures_of
from toolkit.data.index import Index, Xray
from toolkit.data.load import stretch_back
from toolkit.files import write_atomically
from toolkit.model_files import from_run
from toolkit.progress import progress
from toolkit.under_test import ModelUnderTest

_MOST_TRAIN = 1500  # more X-rays change no mean and no axis that matters


def suitability_run(folder: Path, index: Index, *, workers: int, say: Callable[[str], None]) -> Statistics | None:
    """Fit on the training split, set limits on validation, measure on test; write `suitability.npz` and its figures.

    A run whose preprocessing does not cut to the lungs has no lung network to judge by; one with a handful of X-rays,
    or with a split that shows no lungs, has nothing to learn from. Both go without, and the run says so.

    Args:
        folder: of the run, with its exported models.
        index: with splits.
        workers: threads.
        say: told one line.
    """
    model = from_run(folder)[0]
    if model.lungs is None or model.head is None:
        say("suitability: left out, it needs the lung network (lungs = true)")
        return None
    try:
        parts = {
            name: observe(_spread(index.select(split=name).rows, _MOST_TRAIN), model, name=name, workers=workers)
            for name in ("train", "validation")
        }
        statistics = fit_suitability(parts["train"].observed, parts["validation"].observed)
    except InputError as error:
        say(f"suitability: left out, {error.what}: {error.came}")
        return None
    write_atomically(folder / FILE, statistics.to_bytes())
    test = index.select(split="test").rows
    held = index.select(split="validation").rows
    figures = {
        name: verdicts(rows, model, statistics, name=name, workers=workers)
        for name, rows in (("validation", held), ("test", test))
        if rows
    }
    write_atomically(folder / "suitability.json", json.dumps(figures, indent=1))
    for name, told in figures.items():
        say(f"suitability, {name}: {told['accepted']:.1%} accepted, {told['outside']:.1%} outside the population")
    return statistics


@dataclass(frozen=True, slots=True)
class Seen:
    """X-rays that gave something to observe."""

    rows: tuple[Xray, ...]
    observed: Observed


def observe(rows: Sequence[Xray], model: ModelUnderTest, *, name: str, workers: int) -> Seen:
    """What the deployed file and the lung network give for `rows`; those that cannot be read or have no lungs are out.

    Raises:
        InputError: not one X-ray is left.
    """
    good: list[Xray] = []
    found: list[tuple[float, Any, Any, Any]] = []
    for row, outcome in zip(rows, _scored(rows, model, None, name=name, workers=workers), strict=True):
        if isinstance(outcome, ImageError):
            continue
        small, lungs, features, _ = outcome
        good.append(row)
        found.append((contrast_of(small), lungs.kinds, measures_of(small, lungs), features))
    if not good:
        raise InputError(
            f"none of the X-rays of the {name} split shows lungs",
            expected="chest X-rays",
            came=f"{len(rows)} X-rays",
            do="look at them, or train with --no-lungs",
        )
    contrast, kinds, measures, features = (np.array(column, np.float64) for column in zip(*found, strict=True))
    return Seen(tuple(good), Observed(contrast, kinds, measures, features))


def verdicts(
    rows: Sequence[Xray], model: ModelUnderTest, statistics: Statistics, *, name: str, workers: int
) -> dict[str, Any]:
    """How `rows` are judged: shares accepted and outside the population, and refusals by reason and by label."""
    reasons: dict[str, int] = {}
    refused: dict[str, int] = {}
    labels: dict[str, int] = {}
    outside = 0
    for row, outcome in zip(rows, _scored(rows, model, statistics, name=name, workers=workers), strict=True):
        labels[row.label] = labels.get(row.label, 0) + 1
        if isinstance(outcome, ImageError):
            reason = outcome.reason if isinstance(outcome, UnsuitableImage) else "unreadable"
            reasons[reason] = reasons.get(reason, 0) + 1
            refused[row.label] = refused.get(row.label, 0) + 1
        else:
            outside += outcome[3]["population"] == "outside"
    return {
        "images": len(rows),
        "accepted": 1 - sum(reasons.values()) / len(rows),
        "outside": outside / len(rows),
        "reasons": reasons,
        # A refusal that falls on one class more than on the other would be a decision in disguise.
        "refused_by_label": {label: refused.get(label, 0) / n for label, n in sorted(labels.items())},
    }


def _scored(
    rows: Sequence[Xray], model: ModelUnderTest, statistics: Statistics | None, *, name: str, workers: int
) -> Any:
    local = threading.local()

    def attempt(row: Xray) -> Any:
        if not hasattr(local, "scorer"):
            local.scorer = model.scorer()
            local.scorer.judge = Judge(statistics) if statistics else None
        try:
            return _one(row, local.scorer)
        except ImageError as error:
            return error

    with ThreadPoolExecutor(max(1, workers)) as pool:
        yield from progress(pool.map(attempt, rows), f"suitability: {name}", total=len(rows))


def _one(row: Xray, scorer: Scorer) -> tuple[Any, Any, Any, Any]:
    seen = decode(row.path, min_side_px=scorer.preprocessing.decode_min_side_px)
    pixels = stretch_back(seen.pixels, row)
    score = scorer.score_decoded(replace(seen, pixels=pixels))
    return square(pixels), score.prepared.lungs, score.output.mean_features(), score.suitability


def _spread(rows: tuple[Xray, ...], most: int) -> tuple[Xray, ...]:
    return rows[:: max(1, -(-len(rows) // most))]
