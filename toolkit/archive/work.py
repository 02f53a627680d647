"""What one worker does: loads the bundle once, then scores X-rays by the agent's own scorer, each to one row."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2

from firmware_bridge.backends import require_golden_of
from firmware_bridge.bundle import open_bundle
from firmware_bridge.decode import decode
from firmware_bridge.errors import BundleError, ImageError, UnreadableImage, UnsuitableImage
from firmware_bridge.result import result_id
from toolkit.archive.names import Item
from toolkit.archive.read import Read, Reader
from toolkit.archive.rows import REFUSED, SCORED, Row

if TYPE_CHECKING:
    from firmware_bridge.decode import Decoded
    from firmware_bridge.score import Scorer

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Setup:
    """All that a worker needs; it travels to processes and to other machines.

    Attributes:
        bundle: the bytes of the bundle's file: every worker has the same, also where the file is replaced meanwhile.
        bundle_id: that those bytes must have.
        precision: of the model; None: the bundle's default.
        refuse_outside: whether X-rays outside the training population get no score.
        storage: options of the fsspec file system.
    """

    bundle: bytes = field(repr=False)
    bundle_id: str
    precision: str | None = None
    refuse_outside: bool = False
    storage: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Scored:
    """What came of one item: a row of the results, or one of what cannot be read."""

    row: Row
    readable: bool


class Worker:
    """Scores items, one at a time, with one interpreter of one thread.

    Raises:
        BundleError, ModelError: the bundle cannot be loaded here, or does not give its golden X-rays' results.
    """

    def __init__(self, setup: Setup) -> None:
        # Processes share the cores; threads of OpenCV's own would only wait for each other.
        cv2.setNumThreads(1)
        self._bundle_id = setup.bundle_id
        self._reader = Reader(setup.storage)
        self._scorer = _scorer(setup)
        self._told = False

    def score(self, items: Sequence[Item]) -> list[Scored]:
        """Score `items`; the answers have their order.

        Raises:
            InputError: the place that they come from does not answer.
            ModelError: the model failed.
        """
        return [self._one(item, read) for item, read in self._reader.read_all(items)]

    def _one(self, item: Item, read: Read) -> Scored:
        try:
            if read.error is not None:
                raise read.error
            return Scored(self._result(item, read), readable=True)
        except ImageError as error:
            return unreadable(item, error, sha256=read.sha256 or None)

    def _result(self, item: Item, read: Read) -> Row:
        interpreter = self._scorer.interpreter
        row: Row = {
            "path": item.path,
            "sha256": read.sha256,
            "result_id": result_id(read.sha256, self._bundle_id),
            "runtime": interpreter.runtime,
            "delegate": interpreter.delegate,
            "read_ms": read.read_ms,
        }
        decoded, decode_ms = self._decode(read.data)
        row |= {
            "width_px": decoded.width_px,
            "height_px": decoded.height_px,
            "format": decoded.format,
            "decode_ms": decode_ms,
        }
        try:
            score = self._scorer.score_decoded(decoded, decode_ms=decode_ms)
        except UnsuitableImage as error:
            return row | {"status": REFUSED, "reason": error.reason, "scored_at": _now()}
        return row | {
            "status": SCORED,
            "probability": score.probability,
            "positive": score.decision,
            "logit": score.logit,
            "population": (score.suitability or {}).get("population"),
            "scored_at": _now(),
            **{f"{name}_ms": value for name, value in score.timings_ms.items()},
        }

    def _decode(self, data: bytes) -> tuple[Decoded, float]:
        start_s = time.perf_counter()
        try:
            decoded = decode(data, min_side_px=self._scorer.preprocessing.decode_min_side_px)
        except (ImageError, MemoryError):  # the latter is not the X-ray's fault: the worker ends, and it is tried again
            raise
        except Exception as error:  # a decoder's bug must not end a run of days
            if not self._told:  # once: where the installation is at fault, it is every X-ray
                _LOG.exception("the decoder failed in an unknown way")
            self._told = True
            raise UnreadableImage(
                "the image cannot be decoded",
                expected="an image that its decoder reads",
                came=f"the decoder failed ({type(error).__name__})",
                do="export it again, as PNG or uncompressed DICOM",
            ) from error
        return decoded, (time.perf_counter() - start_s) * 1e3


def unreadable(item: Item, error: ImageError, *, sha256: str | None = None) -> Scored:
    """The row of an item that cannot be read."""
    row = {"path": item.path, "what": error.what, "expected": error.expected, "came": error.came, "do": error.do}
    return Scored({**row, "sha256": sha256, "tried_at": _now()}, readable=False)


def _scorer(setup: Setup) -> Scorer:
    # In memory: a disk of temporary files that is full must not end workers.
    with os.fdopen(os.memfd_create("cxr-edge-bundle"), "wb") as file:
        file.write(setup.bundle)
        file.flush()
        with open_bundle(Path(f"/proc/self/fd/{file.fileno()}")) as bundle:
            if bundle.id != setup.bundle_id:
                raise BundleError(
                    "a worker has another bundle",
                    expected=setup.bundle_id,
                    came=bundle.id,
                    do="give the same command again",
                )
            scorer = bundle.scorer(setup.precision, threads=1)
            entry = bundle.manifest.model(setup.precision)
            # A cluster's nodes differ: a processor on which the model says something else must not score unnoticed.
            if any(case.model == entry.file for case in bundle.manifest.golden):
                require_golden_of(bundle, entry, scorer)
    if scorer.judge is not None:
        scorer.judge = replace(scorer.judge, refuse_outside=setup.refuse_outside)
    return scorer


def _now() -> datetime:
    return datetime.now(timezone.utc)
