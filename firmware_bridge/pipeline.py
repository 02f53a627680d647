"""From a finished file to a durable result with its JSON: three threads, so that decoding, inference and disk overlap.

    reader     reads, journals the intake, decodes                   (OpenCV releases the GIL)
    inferrer   preprocesses, runs the model                          (so does the interpreter)
    recorder   journals results, writes the JSON files               (`recorder.py`)

The queues between them are short: what is in them is read again after a crash.
"""

from __future__ import annotations

import logging
import queue
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firmware_bridge.beside import write_overlay
from firmware_bridge.claims import Claims, InUse, Lost
from firmware_bridge.decode import DEFAULT_LIMITS, Decoded, decode
from firmware_bridge.disk import Disk
from firmware_bridge.errors import CxrEdgeError, ImageError, ResourceError, UnreadableImage, UnsuitableImage
from firmware_bridge.explain import annotated_png, numbers_of
from firmware_bridge.filing import Filing
from firmware_bridge.intake import Candidate, Intake
from firmware_bridge.journal import Journal, Outcome, Taken
from firmware_bridge.reading import Contents, NoFile, NotFinished, read_file
from firmware_bridge.recorder import Recorder, Stopped
from firmware_bridge.result import BundleRef, ImageFacts, ModelRef, Refusal, Result, dump, image_id, result_id
from firmware_bridge.selftest import is_selftest
from firmware_bridge.suitability_settings import ExplainSettings

if TYPE_CHECKING:
    from firmware_bridge.score import Score, Scorer

_LOG = logging.getLogger(__name__)
_BATCH_FILES = 8
_BATCH_BYTES = 16 * 2**20
_QUEUED_IMAGES = 2  # decoded images can be large
_IDLE_S = 0.5
# A power cut can hit while a harmless file is being decoded; that it hits the same one so often, alone, cannot be.
_MOST_TRIES = 3


@dataclass(slots=True)
class Tally:
    """What this run did."""

    scored: int = 0
    refused: int = 0
    known: int = 0
    by_decision: dict[str, int] = field(default_factory=lambda: {"positive": 0, "negative": 0})


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
    """The reader and the inference thread, in front of a recorder.

    Args:
        scorer: of the bundle that `labels` names.
        labels: see there.
        journal: open.
        intake: where files come from.
        recorder: where outcomes go.
        claims: keep other agents off what this one works on.
        filing: knows what another agent has scored.
        disk: nothing is read while it is nearly full.
        patient: wait for room on the disk (a service), instead of raising (a single run).
        grace_s: a younger file that cannot be decoded may be half-written still.
    """

    def __init__(
        self,
        scorer: Scorer,
        labels: Labels,
        *,
        journal: Journal,
        intake: Intake,
        recorder: Recorder,
        claims: Claims,
        filing: Filing,
        disk: Disk,
        patient: bool,
        grace_s: float,
    ) -> None:
        self._scorer = scorer
        self._labels = labels
        self._journal = journal
        self._intake = intake
        self._recorder = recorder
        self._claims = claims
        self._filing = filing
        self._disk = disk
        self._patient = patient
        self._grace_s = grace_s
        self._images: queue.Queue[tuple[Taken, Decoded, float] | None] = queue.Queue(_QUEUED_IMAGES)
        self.tally = Tally()

    # --- reader

    def read(self) -> None:
        """Body of the reader thread."""
        try:
            while not self._recorder.stopping.is_set():
                self._recorder.progress.beat()
                if not self._has_room():
                    continue
                self._read_batch(self._intake.batch(_BATCH_FILES, timeout_s=_IDLE_S))
        except Stopped:
            return
        finally:
            self._recorder.put_into(self._images, None)

    def _has_room(self) -> bool:
        """Whether the disk has room for more; otherwise wait a little, for whoever makes some."""
        if self._disk.has_room:
            return True
        if not self._patient:
            raise ResourceError(
                "the disk is nearly full",
                expected="as much free space as [retention] reserve_mb says",
                came="less",
                do="free some space and run again; what was scored is safe",
            )
        self._recorder.stopping.wait(_IDLE_S)
        return False

    def _read_batch(self, candidates: list[Candidate]) -> None:
        files: list[tuple[Candidate, Contents]] = []
        for candidate in candidates:
            contents = self._open(candidate)
            if contents is not None and candidate.recovered:
                self._try_alone(candidate, contents)
            elif contents is not None:
                files.append((candidate, contents))
            if sum(len(contents.data) for _, contents in files) > _BATCH_BYTES:
                self._take(files)
                files = []
        self._take(files)

    def _open(self, candidate: Candidate) -> Contents | None:
        self._recorder.progress.beat()
        path = candidate.path
        try:
            # Its writer is long done: claimed before the work, so that agents share it. A young one may be written
            # piece by piece by its name, and must not move before it has proved to be whole.
            where = self._claims.claim(path) if self._is_old(path) else path
            return read_file(where, max_bytes=DEFAULT_LIMITS.max_bytes, name=path)
        except (NotFinished, InUse):
            self._put_off(path, decoded=True)
        except Lost:
            self._lost(path)
        except NoFile:
            self._release(path)
            if candidate.recovered and not self._claims.held_by_others(path):
                self._vanished(path)
            else:
                self._lost(path)
        return None

    def _is_old(self, path: Path) -> bool:
        try:
            age_s = time.time() - path.lstat().st_mtime
        except OSError as error:
            raise NoFile from error
        return abs(age_s) > self._grace_s  # a clock set back makes files of the future

    def _lost(self, path: Path) -> None:
        """Another agent has the file, or it went away before it ever was a whole image."""
        self._recorder.insist(lambda: self._journal.supersede(path))
        self._intake.done(path)

    def _put_off(self, path: Path, *, decoded: bool) -> None:
        self._release(path)
        self._intake.later(path, decoded=decoded)

    def _release(self, path: Path) -> None:
        try:
            self._claims.release(path)
        except OSError as error:
            _LOG.warning("a claimed file cannot be put back now: %s", error.strerror)

    def _have(self, row: Taken, contents: Contents) -> bool:
        """Claim the file, unless that was done before; False when it is not ours to score."""
        if not self._claims.holds(row.path):
            try:
                if not contents.is_at(self._claims.claim(row.path)):
                    raise InUse  # it changed since it was read
            except Lost:
                self._lost(row.path)
                return False
            except InUse:
                self._put_off(row.path, decoded=True)
                return False
        # Only whoever has the file may look: before, another agent might have been about to finish it.
        if not self._filing.known_elsewhere(row.path, result_id(row.sha256, self._labels.bundle.id)):
            return True
        self.tally.known += 1
        self._recorder.insist(lambda: self._journal.close_row(row.seq))
        self._let_go(row.path)
        return False

    def _let_go(self, path: Path) -> None:
        self._release(path)
        self._intake.done(path)

    def _take(self, files: list[tuple[Candidate, Contents]]) -> None:
        if not files:
            return
        arrivals = [contents.arrival for _, contents in files]
        rows = self._recorder.insist(lambda: self._journal.take(arrivals))
        for (candidate, contents), row in zip(files, rows, strict=True):
            if self._recorder.stopping.is_set():
                return  # the rows are there; the next run reads them again
            self._decode(candidate, contents, row)

    def _try_alone(self, candidate: Candidate, contents: Contents) -> None:
        """A file that was being worked on when an earlier run died: perhaps of it.

        Nothing else is worked on meanwhile, so that a second death can be laid at its door and at no other's.
        """
        (row,) = self._recorder.insist(lambda: self._journal.take([contents.arrival]))
        if row.state == "taken" and self._recorder.insist(lambda: self._journal.begin(row.seq)) >= _MOST_TRIES:
            if self._have(row, contents):
                self._refuse(row, _DEADLY)
        else:
            self._decode(candidate, contents, row)
        while not self._intake.wait_done(candidate.path, timeout_s=_IDLE_S):
            self._recorder.progress.beat()
            if self._recorder.stopping.is_set() or self._recorder.broken.is_set():
                return

    def _decode(self, candidate: Candidate, contents: Contents, row: Taken) -> None:
        if row.state != "taken":
            self.tally.known += 1
            if row.result_id is None:
                self._let_go(row.path)
            else:
                self._recorder.put(Outcome(row.seq, row.path, row.result_id, None))
            return
        id = result_id(row.sha256, self._labels.bundle.id)
        if self._recorder.insist(lambda: self._journal.has_result(id)):
            self.tally.known += 1
            self._recorder.put(Outcome(row.seq, row.path, id, None))
            return
        try:
            if contents.error:
                raise contents.error
            start_s = time.perf_counter()
            decoded = decode(contents.data, min_side_px=self._scorer.preprocessing.decode_min_side_px)
            decode_ms = (time.perf_counter() - start_s) * 1e3
        except ImageError as error:
            self._refuse_or_wait(candidate, contents, row, error)
        except (
            Exception
        ) as error:  # a decoder's bug must not end a service; the file is refused and the trace is logged
            _LOG.exception("image %s: the decoder failed in an unknown way", self._short(row))
            if self._have(row, contents):
                self._refuse(row, _unknown_failure(error))
        else:
            if self._have(row, contents):
                self._recorder.put_into(self._images, (row, decoded, decode_ms))

    def _refuse_or_wait(self, candidate: Candidate, contents: Contents, row: Taken, error: ImageError) -> None:
        age_s = time.time() - contents.arrival.mtime_ns / 1e9
        # A file that cannot be read may be half-written still. What is too large or of a wrong kind stays so.
        if isinstance(error, UnreadableImage) and not candidate.last_chance and abs(age_s) < self._grace_s:
            if candidate.recovered:
                self._recorder.insist(lambda: self._journal.survived(row.seq))
            self._put_off(candidate.path, decoded=False)
        elif self._have(row, contents):
            self._refuse(row, error)

    def _refuse(self, row: Taken, error: CxrEdgeError, decoded: Decoded | None = None) -> None:
        refusal = Refusal.from_error(
            error,
            id=result_id(row.sha256, self._labels.bundle.id),
            image=self._facts(row, decoded),
            bundle=self._labels.bundle,
        )
        self.tally.refused += 1
        _LOG.warning("image %s refused: %s (%s)", self._short(row), error.what, error.came)
        self._recorder.put(Outcome(row.seq, row.path, refusal.id, dump(refusal.to_json())))

    def _vanished(self, path: Path) -> None:
        """A file that an earlier run took is gone: its row is closed with a refusal, so that somebody hears of it."""
        gone = UnreadableImage(
            "the file went away before it was scored",
            expected="the file that was taken before the agent was interrupted",
            came="no such file",
            do="copy it again",
        )
        rows = [row for row in self._journal.open_intakes(limit=-1) if row.path == path]
        for row in rows:
            # An id of its own: the picture itself may come again and must then be scored.
            self._refuse(Taken(row.seq, row.path, f"gone:{row.sha256}:{row.seq}", row.state), gone)
        if not rows:
            self._intake.done(path)

    # --- inferrer

    def infer(self) -> None:
        """Body of the inference thread."""
        try:
            while (item := self._next_image()) is not None:
                row, decoded, decode_ms = item
                try:
                    score = self._scorer.score_decoded(decoded, decode_ms=decode_ms)
                except UnsuitableImage as error:
                    self._refuse(row, error, decoded)
                    continue
                self.tally.scored += 1
                self.tally.by_decision["positive" if score.decision else "negative"] += 1
                self._recorder.put(self._outcome(row, score))
        finally:
            self._recorder.put(None)

    def _next_image(self) -> tuple[Taken, Decoded, float] | None:
        self._recorder.progress.rest()
        item = self._images.get()
        self._recorder.progress.beat()
        return item

    def _outcome(self, row: Taken, score: Score) -> Outcome:
        facts = self._facts(row, score.decoded)
        result = Result(
            id=result_id(row.sha256, self._labels.bundle.id),
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
        _LOG.info("image %s: %s, %.3f", facts.id[:12], result.decision, result.probability)
        reported = not is_selftest(row.path, row.sha256)
        return Outcome(row.seq, row.path, result.id, dump(result.to_json()), reported)

    def _explained(self, row: Taken, score: Score) -> dict[str, Any] | None:
        """The numbers of the heat map and, where wished, the overlay beside the X-ray."""
        wished = self._labels.explain
        if not (wished.numbers or wished.overlay):
            return None
        start_s = time.perf_counter()
        cam = self._scorer.explain(score)
        told = numbers_of(cam, score.prepared)
        if wished.overlay and not self._filing.holds(row.path):
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


_DEADLY = UnreadableImage(
    "the image was given up",
    expected="an image that can be decoded and scored",
    came=f"the agent ended {_MOST_TRIES + 1} times while it worked on this file",
    do="export it again, as PNG or uncompressed DICOM; free memory, if there was too little of it",
)


def _unknown_failure(error: Exception) -> CxrEdgeError:
    return UnreadableImage(
        "the image cannot be decoded",
        expected="an image that its decoder reads",
        came=f"the decoder failed ({type(error).__name__})",
        do="export it again, as PNG or uncompressed DICOM; the agent's log has the details",
    )
