"""From a finished file to a durable result with its JSON: five threads, so that decoding, inference and disk overlap.

    taker      claims, reads, hashes, journals the intake            (`taking.py`)
    decoder    decodes; OpenCV releases the GIL meanwhile, as the interpreter does
    inference  preprocesses, runs the model; nothing else, for it is the slowest
    explainer  the heat map's numbers, its picture, the record
    recorder   journals results, writes the JSON files               (`recorder.py`)

The queues between them are short: what is in them is read again after a crash.
"""

from __future__ import annotations

import logging
import queue
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from firmware_bridge.beside import write_overlay
from firmware_bridge.decode import Decoded, decode
from firmware_bridge.errors import CxrEdgeError, ImageError, UnreadableImage, UnsuitableImage
from firmware_bridge.explain import annotated_png, numbers_of
from firmware_bridge.journal import Journal, Outcome, Taken
from firmware_bridge.possession import Possession
from firmware_bridge.recorder import Recorder, Stopped
from firmware_bridge.result import BundleRef, ImageFacts, ModelRef, Refusal, Result, dump, image_id, result_id
from firmware_bridge.selftest import is_selftest
from firmware_bridge.suitability_settings import ExplainSettings
from firmware_bridge.taking import Work

if TYPE_CHECKING:
    from firmware_bridge.score import Score, Scorer

_LOG = logging.getLogger(__name__)
_QUEUED_IMAGES = 2  # decoded images can be large
_QUEUED_SCORES = 2
_NO_PIXELS = np.empty((0, 0), np.uint8)
Item = TypeVar("Item")


@dataclass(slots=True)
class Tally:
    """What this run did."""

    scored: int = 0
    refused: int = 0
    known: int = 0
    by_decision: dict[str, int] = field(default_factory=lambda: {"positive": 0, "negative": 0})

    def note_known(self) -> None:
        """A file that had been scored before."""
        self.known += 1


@dataclass(frozen=True, slots=True)
class Labels:
    """What every record of this run says about bundle, model and device."""

    bundle: BundleRef
    model: ModelRef
    positive: str
    threshold: float
    device_key: bytes
    send_names: bool = False
    explain: ExplainSettings = field(default_factory=ExplainSettings)


class Pipeline:
    """The decoder's, the inference and the explainer's thread, behind a taker and in front of a recorder.

    Args:
        scorer: of the bundle that `labels` names.
        labels: see there.
        journal: open.
        recorder: where outcomes go.
        possession: see there.
        batches: what the taker has journaled; None ends the threads.
        grace_s: a younger file that cannot be decoded may be half-written still.
        tally: counted here.
    """

    def __init__(
        self,
        scorer: Scorer,
        labels: Labels,
        *,
        journal: Journal,
        recorder: Recorder,
        possession: Possession,
        batches: queue.Queue[list[Work] | None],
        grace_s: float,
        tally: Tally,
    ) -> None:
        self._scorer = scorer
        self._labels = labels
        self._journal = journal
        self._recorder = recorder
        self._possession = possession
        self._batches = batches
        self._grace_s = grace_s
        self.tally = tally
        self._images: queue.Queue[tuple[Taken, Decoded, float] | None] = queue.Queue(_QUEUED_IMAGES)
        self._scores: queue.Queue[tuple[Taken, Score] | None] = queue.Queue(_QUEUED_SCORES)

    # --- decoder

    def decode(self) -> None:
        """Body of the decoder's thread."""
        try:
            while (batch := self._next(self._batches)) is not None:
                # On a stop the rest is passed over until the taker's end: the rows are there, the next run reads again.
                while batch and not self._recorder.stopping.is_set():
                    self._decode(batch.pop(0))  # its bytes may go once it is decoded
        except Stopped:
            return
        finally:
            self._recorder.put_into(self._images, None)

    def _next(self, source: queue.Queue[Item]) -> Item:
        self._recorder.progress.rest()
        item = source.get()
        self._recorder.progress.beat()
        return item

    def _decode(self, work: Work) -> None:
        contents, row = work.contents, work.row
        if row.state != "taken":
            self.tally.note_known()
            if row.result_id is None:
                self._possession.let_go(row.path)
            else:
                self._recorder.put(Outcome(row.seq, row.path, row.result_id, None))
            return
        id = self.identify(row)
        if self._recorder.insist(lambda: self._journal.has_result(id)):
            self.tally.note_known()
            self._recorder.put(Outcome(row.seq, row.path, id, None))
            return
        try:
            if contents.error:
                raise contents.error
            start_s = time.perf_counter()
            decoded = decode(contents.data, min_side_px=self._scorer.preprocessing.decode_min_side_px)
            decode_ms = (time.perf_counter() - start_s) * 1e3
        except ImageError as error:
            self._refuse_or_wait(work, error)
        except Exception as error:  # a decoder's bug must not end a service
            _LOG.exception("image %s: the decoder failed in an unknown way", self._short(row))
            if self._possession.have(row, contents, result_id=id):
                self.refuse(row, _unknown_failure(error))
        else:
            if self._possession.have(row, contents, result_id=id):
                self._recorder.put_into(self._images, (row, decoded, decode_ms))

    def _refuse_or_wait(self, work: Work, error: ImageError) -> None:
        candidate, row = work.candidate, work.row
        age_s = time.time() - work.contents.arrival.mtime_ns / 1e9
        # A file that cannot be read may be half-written still. What is too large or of a wrong kind stays so.
        if isinstance(error, UnreadableImage) and not candidate.last_chance and abs(age_s) < self._grace_s:
            if candidate.recovered:
                self._recorder.insist(lambda: self._journal.survived(row.seq))
            self._possession.put_off(candidate.path, decoded=False)
        elif self._possession.have(row, work.contents, result_id=self.identify(row)):
            self.refuse(row, error)

    def identify(self, row: Taken) -> str:
        """The id that the row's result has."""
        return result_id(row.sha256, self._labels.bundle.id)

    def refuse(self, row: Taken, error: CxrEdgeError, decoded: Decoded | None = None) -> None:
        """Record that a file gets no score, and why."""
        refusal = Refusal.from_error(
            error,
            id=self.identify(row),
            image=self._facts(row, decoded),
            bundle=self._labels.bundle,
        )
        self.tally.refused += 1
        _LOG.warning("image %s refused: %s (%s)", self._short(row), error.what, error.came)
        self._recorder.put(Outcome(row.seq, row.path, refusal.id, dump(refusal.to_json())))

    # --- inference

    def infer(self) -> None:
        """Body of the inference thread."""
        try:
            while (item := self._next(self._images)) is not None:
                row, decoded, decode_ms = item
                try:
                    score = self._scorer.score_decoded(decoded, decode_ms=decode_ms)
                except UnsuitableImage as error:
                    self.refuse(row, error, decoded)
                    continue
                if not is_selftest(row.path, row.sha256):
                    self.tally.scored += 1
                    self.tally.by_decision["positive" if score.decision else "negative"] += 1
                if not self._labels.explain.overlay:  # they can be large, and nothing else needs them any more
                    score = replace(score, decoded=replace(decoded, pixels=_NO_PIXELS))
                self._recorder.put_into(self._scores, (row, score))
        except Stopped:
            return
        finally:
            self._recorder.put_into(self._scores, None)

    # --- explainer

    def explain(self) -> None:
        """Body of the explainer's thread."""
        try:
            while (item := self._next(self._scores)) is not None:
                self._recorder.put(self._outcome(*item))
        except Stopped:
            return
        finally:
            self._recorder.put(None)

    def _outcome(self, row: Taken, score: Score) -> Outcome:
        facts = self._facts(row, score.decoded)
        result = Result(
            id=self.identify(row),
            image=facts,
            bundle=self._labels.bundle,
            model=self._labels.model,
            label_positive=self._labels.positive,
            probability=score.probability,
            logit=score.logit,
            threshold=self._labels.threshold,
            positive=score.decision,
            timings_ms=score.timings_ms,
            explanation=self._explained(row, score),
            suitability=score.suitability,
        )
        reported = not is_selftest(row.path, row.sha256)
        whose = "" if reported else " (golden, of a deployment)"
        _LOG.info("image %s: %s, %.3f%s", self._short(row), result.decision, result.probability, whose)
        return Outcome(row.seq, row.path, result.id, dump(result.to_json()), reported)

    def _explained(self, row: Taken, score: Score) -> dict[str, Any] | None:
        """The numbers of the heat map and, where wished, the overlay beside the X-ray."""
        wished = self._labels.explain
        if not (wished.numbers or wished.overlay):
            return None
        start_s = time.perf_counter()
        cam = self._scorer.explain(score)
        told = numbers_of(cam, score.prepared)
        if wished.overlay and not self._possession.filing.holds(row.path):
            try:
                png = annotated_png(score.decoded.pixels, cam, score.prepared.field)
                write_overlay(row.path, png)
                told["overlay"] = True
            except OSError as error:  # a picture less; the result itself must not wait for it
                _LOG.warning("image %s: the overlay cannot be written: %s", self._short(row), error.strerror)
        score.timings_ms["explain"] = (time.perf_counter() - start_s) * 1e3
        return told

    def _facts(self, row: Taken, decoded: Decoded | None) -> ImageFacts:
        id, name = image_id(row.sha256, self._labels.device_key), self._name(row.path)
        if decoded is None:
            return ImageFacts(id, name=name)
        return ImageFacts(id, decoded.width_px, decoded.height_px, decoded.format, name)

    def _name(self, path: Path) -> str:
        # A name that is not text is shown with its odd bytes escaped: JSON is UTF-8.
        return path.name.encode("utf-8", "backslashreplace").decode() if self._labels.send_names else ""

    def _short(self, row: Taken) -> str:
        return self._name(row.path) or image_id(row.sha256, self._labels.device_key)[:12]


def _unknown_failure(error: Exception) -> CxrEdgeError:
    return UnreadableImage(
        "the image cannot be decoded",
        expected="an image that its decoder reads",
        came=f"the decoder failed ({type(error).__name__})",
        do="export it again, as PNG or uncompressed DICOM; the agent's log has the details",
    )
