"""Scoring an index with the files that are deployed: the device's decoder, steps, interpreter and head."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from calibration.temperature import calibrated
from firmware_bridge.decode import Decoded, decode
from firmware_bridge.errors import ImageError, InputError
from toolkit.data.index import SEEN_SPLITS, Index, Xray, csv_text
from toolkit.data.load import stretch_back
from toolkit.data.shortcuts import file_attributes
from toolkit.progress import progress
from toolkit.summary import INSIDE, ScoredSet
from toolkit.under_test import ModelUnderTest, Opened

SCORE_COLUMNS = ("path", "patient", "label", "logit", "probability")
# File attributes (5,) and the logit of each model.
Outcome = tuple[npt.NDArray[np.float64], list[float]]
# X-rays handed to the pool at a time: bounds memory for indexes of any length.
_BATCH = 512


@dataclass(frozen=True, slots=True)
class NamedIndex:
    """An index under the name that the report gives it.

    Attributes:
        name: "inside..." for the training source, anything else for outside data.
        path: where it was read from.
        split: "train", "validation", "test", or empty for all rows.
        index: the rows, already of that split.
    """

    name: str
    path: Path
    split: str
    index: Index


def score_index(
    named: NamedIndex, models: Sequence[ModelUnderTest], *, labels: tuple[str, str], workers: int = 2
) -> ScoredSet:
    """Score one index with all models; each X-ray is decoded once for each size that a model asks for.

    Args:
        named: the X-rays.
        models: at least one.
        labels: (negative, positive); rows with any other label are left out and counted.
        workers: threads; decoding and inference release the interpreter lock, so two keep two cores busy.

    Raises:
        InputError: no row has one of the two labels, or none of them can be read.
        ModelError: a file cannot be loaded.
    """
    negative, positive = labels
    rows = [row for row in named.index if row.label in labels]
    left_out = Counter(row.label for row in named.index if row.label not in labels)
    if not rows:
        raise InputError(
            f"'{named.name}' holds nothing to score",
            expected=f"rows with the label '{negative}' or '{positive}' in {named.split or 'it'}",
            came=", ".join(f"{count} of '{label}'" for label, count in left_out.most_common(5)) or "no row",
            do="index again with --label VALUE=LABEL in the model's words, or name another split; "
            "evaluate also takes --positive and --negative as the index spells them",
        )
    good: list[Xray] = []
    bad: list[tuple[Path, str]] = []
    scores: list[Outcome] = []
    for row, outcome in zip(rows, _outcomes(rows, models, named.name, workers=workers), strict=True):
        if isinstance(outcome, ImageError):
            bad.append((row.path, f"{outcome.what}: {outcome.came}"))
        else:
            good.append(row)
            scores.append(outcome)
    if not good:
        raise InputError(
            f"none of the X-rays of '{named.name}' can be read",
            expected=f"{len(rows)} readable X-rays",
            came=f"first problem: {bad[0][0]}: {bad[0][1]}",
            do="check the paths in the index with: cxr-edge data audit",
        )
    table = np.array([logits_of_row for _, logits_of_row in scores])  # (N, models) float64
    logits = {model.name: table[:, column] for column, model in enumerate(models)}
    return ScoredSet(
        name=named.name,
        rows=tuple(good),
        positive=np.array([row.label == positive for row in good]),
        attributes=np.stack([attributes for attributes, _ in scores]),
        logits=logits,
        probabilities={m.name: calibrated(logits[m.name], temperature=m.temperature, bias=m.bias) for m in models},
        unreadable=tuple(bad),
        left_out=dict(left_out),
        index=f"{named.path}:{named.split}" if named.split else str(named.path),
        fingerprint=named.index.fingerprint(),
        seen=_seen(good, models, inside=named.name.startswith(INSIDE)),
    )


def _seen(rows: Sequence[Xray], models: Sequence[ModelUnderTest], *, inside: bool) -> int:
    """How many of `rows` a model was trained or chosen by, as its run tells; of a set inside, as the index tells."""
    known = frozenset[Path]().union(*(model.seen for model in models))
    return sum(row.path in known or (inside and row.split in SEEN_SPLITS) for row in rows)


def _outcomes(
    rows: Sequence[Xray], models: Sequence[ModelUnderTest], name: str, *, workers: int
) -> Iterator[Outcome | ImageError]:
    # An interpreter runs one X-ray at a time, so every thread opens its own.
    local = threading.local()

    def attempt(row: Xray) -> Outcome | ImageError:
        if not hasattr(local, "opened"):
            local.opened = [model.open() for model in models]
        try:
            return score_xray(row, models, local.opened)
        except ImageError as error:
            return error

    def all_of_them() -> Iterator[Outcome | ImageError]:
        with ThreadPoolExecutor(max(1, workers)) as pool:
            for start in range(0, len(rows), _BATCH):
                yield from pool.map(attempt, rows[start : start + _BATCH])

    return progress(all_of_them(), f"scoring {name}", total=len(rows))


def score_xray(row: Xray, models: Sequence[ModelUnderTest], opened: Sequence[Opened]) -> Outcome:
    """File attributes (5,) and the logit of each model for one X-ray.

    Raises:
        ImageError: it cannot be read.
    """
    decoded: dict[int, Decoded] = {}
    attributes: npt.NDArray[np.float64] | None = None
    logits: list[float] = []
    for model, one in zip(models, opened, strict=True):
        # What the decoder is asked for decides what it gives: each model sees what it would see on the device.
        min_side_px = model.preprocessing.decode_min_side_px
        if min_side_px not in decoded:
            seen = decode(row.path, min_side_px=min_side_px)
            if attributes is None:
                attributes = file_attributes(
                    seen.pixels, width_px=row.width_px or seen.width_px, height_px=row.height_px or seen.height_px
                )
            decoded[min_side_px] = replace(seen, pixels=stretch_back(seen.pixels, row))
        logits.append(one.logit(decoded[min_side_px]))
    assert attributes is not None  # there is at least one model
    return attributes, logits


def scores_csv(scored: ScoredSet, model: str) -> str:
    """One row for each X-ray, in the order of the index."""
    rows = (
        (row.path, row.patient_id, row.label, f"{logit:.6f}", f"{probability:.6f}")
        for row, logit, probability in zip(scored.rows, scored.logits[model], scored.probabilities[model], strict=True)
    )
    return csv_text(SCORE_COLUMNS, rows)
