"""The first stage: finished files are claimed, read, hashed and journaled, while those before them are being decoded.

A batch is one commit. At most one batch waits for the decoder, so that few bytes are held.
"""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from firmware_bridge.claims import InUse, Lost
from firmware_bridge.decode import DEFAULT_LIMITS
from firmware_bridge.disk import Disk
from firmware_bridge.errors import CxrEdgeError, ResourceError, UnreadableImage
from firmware_bridge.intake import Intake
from firmware_bridge.intake_line import Candidate
from firmware_bridge.journal import Journal, Taken
from firmware_bridge.possession import Possession
from firmware_bridge.reading import Contents, NoFile, NotFinished, read_file
from firmware_bridge.recorder import Recorder, Stopped

_BATCH_FILES = 8
_BATCH_BYTES = 8 * 2**20
_QUEUED_BATCHES = 1
_IDLE_S = 0.5
# A power cut can hit while a harmless file is being decoded. Of 600 random kills, three were the third in a row to hit
# the same file, alone; so often is no chance.
_MOST_TRIES = 7


@dataclass(frozen=True, slots=True)
class Work:
    """One journaled file for the decoder."""

    candidate: Candidate
    contents: Contents
    row: Taken


class Taker:
    """The thread in front of the decoder.

    Args:
        journal: open.
        intake: where files come from.
        recorder: waits out a full disk.
        possession: see there.
        disk: nothing is read while it is nearly full.
        patient: wait for room on the disk (a service), instead of raising (a single run).
        grace_s: a younger file may be half-written still.
        refuse: called for a row whose file went away.
        identify: the id of a row's result.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        intake: Intake,
        recorder: Recorder,
        possession: Possession,
        disk: Disk,
        patient: bool,
        grace_s: float,
        refuse: Callable[[Taken, CxrEdgeError], None],
        identify: Callable[[Taken], str],
    ) -> None:
        self._journal = journal
        self._intake = intake
        self._recorder = recorder
        self._possession = possession
        self._disk = disk
        self._patient = patient
        self._grace_s = grace_s
        self._refuse = refuse
        self._identify = identify
        self.batches: queue.Queue[list[Work] | None] = queue.Queue(_QUEUED_BATCHES)

    def run(self) -> None:
        """Body of the thread."""
        try:
            while not self._recorder.stopping.is_set():
                self._recorder.progress.beat()
                if self._has_room():
                    self._take_all(self._intake.batch(_BATCH_FILES, timeout_s=_IDLE_S))
        except Stopped:
            return
        finally:
            self._recorder.put_into(self.batches, None)

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

    def _take_all(self, candidates: list[Candidate]) -> None:
        recovered = [candidate for candidate in candidates if candidate.recovered]
        fresh = [candidate for candidate in candidates if not candidate.recovered]
        for done, candidate in enumerate(recovered):
            # Nothing else is worked on meanwhile, so that a second death can be laid at its door and at no other's.
            self._until_at_rest(besides=len(candidates) - done)
            contents = self._open(candidate)
            if contents is not None:
                self._try_alone(candidate, contents)
        files: list[tuple[Candidate, Contents]] = []
        for candidate in fresh:
            contents = self._open(candidate)
            if contents is not None:
                files.append((candidate, contents))
            if sum(len(contents.data) for _, contents in files) > _BATCH_BYTES:
                self._hand_over(files)
                files = []
        self._hand_over(files)

    def _open(self, candidate: Candidate) -> Contents | None:
        self._recorder.progress.beat()
        path, claims = candidate.path, self._possession.claims
        try:
            # Its writer is long done: claimed before the work, so that agents share it. A young one may be written
            # piece by piece by its name, and must not move before it has proved to be whole.
            where = claims.claim(path) if self._is_old(path) else path
            return read_file(where, max_bytes=DEFAULT_LIMITS.max_bytes, name=path)
        except (NotFinished, InUse):
            self._possession.put_off(path, decoded=True)
        except Lost:
            self._possession.lost(path)
        except NoFile:
            self._possession.release(path)
            if candidate.recovered and not claims.held_by_others(path):
                self._vanished(path)
            else:
                self._possession.lost(path)
        return None

    def _is_old(self, path: Path) -> bool:
        try:
            age_s = time.time() - path.lstat().st_mtime
        except OSError as error:
            raise NoFile from error
        return abs(age_s) > self._grace_s  # a clock set back makes files of the future

    def _hand_over(self, files: list[tuple[Candidate, Contents]]) -> None:
        if not files:
            return
        arrivals = [contents.arrival for _, contents in files]
        rows = self._recorder.insist(lambda: self._journal.take(arrivals))
        work = [Work(candidate, contents, row) for (candidate, contents), row in zip(files, rows, strict=True)]
        self._recorder.put_into(self.batches, work)

    def _try_alone(self, candidate: Candidate, contents: Contents) -> None:
        """A file that was being worked on when an earlier run died: perhaps of it."""
        (row,) = self._recorder.insist(lambda: self._journal.take([contents.arrival]))
        if row.state == "taken" and self._recorder.insist(lambda: self._journal.begin(row.seq)) >= _MOST_TRIES:
            candidate, contents = replace(candidate, last_chance=True), replace(contents, data=b"", error=_DEADLY)
        self._recorder.put_into(self.batches, [Work(candidate, contents, row)])
        self._until(lambda: self._intake.wait_done(candidate.path, timeout_s=_IDLE_S))

    def _until_at_rest(self, *, besides: int) -> None:
        self._until(lambda: self._intake.at_rest(besides, timeout_s=_IDLE_S))

    def _until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            self._recorder.progress.beat()
            if self._recorder.stopping.is_set() or self._recorder.broken.is_set():
                raise Stopped

    def _vanished(self, path: Path) -> None:
        """A file that an earlier run took is gone: its row is closed with a refusal, so that somebody hears of it."""
        if os.path.lexists(path):  # another agent had it, and put it back just now
            self._possession.put_off(path, decoded=True)
            return
        rows = [row for row in self._journal.open_intakes(limit=-1) if row.path == path]
        for row in rows:
            if self._possession.filing.known_elsewhere(path, self._identify(row)):
                self._possession.known(row)  # another agent scored it and filed it away
            else:
                # An id of its own: the picture itself may come again and must then be scored.
                self._refuse(Taken(row.seq, row.path, f"gone:{row.sha256}:{row.seq}", row.state), _GONE)
        if not rows:
            self._intake.done(path)


_GONE = UnreadableImage(
    "the file went away before it was scored",
    expected="the file that was taken before the agent was interrupted",
    came="no such file",
    do="copy it again",
)
_DEADLY = UnreadableImage(
    "the image was given up",
    expected="an image that can be decoded and scored",
    came=f"the agent ended {_MOST_TRIES + 1} times while it worked on this file",
    do="export it again, as PNG or uncompressed DICOM; free memory, if there was too little of it",
)
