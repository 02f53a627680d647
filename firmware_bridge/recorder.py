"""The last stage: results become durable, many in one commit, then their JSON lies beside the X-rays."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from firmware_bridge.errors import ResourceError
from firmware_bridge.filing import Drafted, Filed, Filing, sync
from firmware_bridge.health import Health
from firmware_bridge.journal import Journal, JournalDamaged, Outcome

_QUEUED_OUTCOMES = 64
_RETRY_S = 2.0
_IDLE_S = 0.5
# A commit, an audit line and the syncs of two folders cost the same for one result as for many: while more are on their
# way, so many are gathered, for so long at most.
_GATHERED = 32
_GATHERING_S = 0.25

Value = TypeVar("Value")
Item = TypeVar("Item")


class Stopped(Exception):
    """Asked to stop while waiting for a disk or for another thread."""


class Recorder:
    """Journals outcomes and writes their JSON files, in a thread of its own.

    Args:
        journal: open.
        health: told about a disk that is full.
        on_results: called after results became durable.
        on_done: called with each path that is accounted for.
        more_than: whether more files than so many are being worked on, those included whose outcome is here.
        filing: where X-rays and their JSON go.
        report_again: a picture that was reported before is reported once more, under the same id.
        patient: wait for a full disk to mend (a service), instead of raising (a single run).
        audit: called when results are durable; they are reported when it returns.
    """

    def __init__(
        self,
        journal: Journal,
        health: Health,
        *,
        on_results: Callable[[], None],
        on_done: Callable[[Path], None],
        more_than: Callable[[int], bool],
        filing: Filing,
        report_again: bool,
        patient: bool,
        audit: Callable[[], None] = lambda: None,
    ) -> None:
        self._journal = journal
        self._health = health
        self._on_results = on_results
        self._on_done = on_done
        self._more_than = more_than
        self._filing = filing
        self._report_again = report_again
        self._patient = patient
        self._audit = audit
        self.progress = health.progress
        self._outcomes: queue.Queue[Outcome | None] = queue.Queue(_QUEUED_OUTCOMES)
        self.stopping = threading.Event()
        self.broken = threading.Event()

    def put(self, outcome: Outcome | None) -> None:
        """Hand over an outcome; None ends the thread once everything before it is recorded."""
        self.put_into(self._outcomes, outcome)

    def put_into(self, target: queue.Queue[Item], item: Item) -> None:
        """Put, and wait while the queue is full.

        Raises:
            Stopped: a thread behind the queue broke, so that it will never empty.
        """
        while True:
            self.progress.beat()
            try:
                target.put(item, timeout=_IDLE_S)
                return
            except queue.Full:
                if self.broken.is_set():
                    raise Stopped from None

    def run(self) -> None:
        """Body of the thread."""
        written = _Written()
        try:
            self.insist(self._audit)
            self.insist(self._write_missing)
            retry_s = time.monotonic()
            ended = False
            while not ended:
                self.progress.beat()
                outcomes, ended = self._gather()
                if outcomes or written.seqs:
                    written = self._settle(outcomes, written)
                if self._health.has("json") and time.monotonic() - retry_s > 5 * _RETRY_S:
                    self.insist(self._write_missing)
                    retry_s = time.monotonic()
            noted = written
            self.insist(lambda: self._note([], noted))
        except Stopped:
            self.broken.set()
        except BaseException:
            self.broken.set()
            raise

    def insist(self, action: Callable[[], Value]) -> Value:
        """Do it, and when the disk is full, do it again until it works: nothing goes on without the journal.

        Raises:
            ResourceError: the disk is full, and we are not patient.
            Stopped: asked to stop meanwhile.
        """
        while True:
            self.progress.beat()
            try:
                value = action()
            except JournalDamaged:
                raise
            except ResourceError as error:
                self._health.report("journal", f"{error.what}: {error.came}")
                if not self._patient:
                    raise
                if self.stopping.wait(_RETRY_S):
                    raise Stopped from error
            else:
                self._health.report("journal", None)
                return value

    def _settle(self, outcomes: list[Outcome], written: _Written) -> _Written:
        """Results durable, then their JSON files, then the news; the next commit notes the files as written."""
        records = self.insist(lambda: self._note(outcomes, written))
        if outcomes:
            self.insist(self._audit)
        rows = [(outcome.seq, outcome.path, record) for outcome, record in zip(outcomes, records, strict=True)]
        done = self._file(rows)
        if outcomes:
            self._on_results()
        for outcome in outcomes:
            self._on_done(outcome.path)
        return done

    def _gather(self) -> tuple[list[Outcome], bool]:
        """Wait for an outcome, and for those that are about to come; and whether the end (None) came."""
        outcomes: list[Outcome] = []
        deadline_s = time.monotonic() + _IDLE_S
        while len(outcomes) < _GATHERED:
            waits = not outcomes or self._more_than(len(outcomes))
            try:
                outcome = self._outcomes.get(waits, max(0.0, deadline_s - time.monotonic()))
            except queue.Empty:
                break
            if outcome is None:
                return outcomes, True
            if not outcomes:
                deadline_s = time.monotonic() + _GATHERING_S
            outcomes.append(outcome)
        return outcomes, False

    def _note(self, outcomes: list[Outcome], written: _Written) -> list[str]:
        return self._journal.settle(
            outcomes,
            written=written.seqs,
            moved=written.moved,
            places=written.places,
            report_again=self._report_again,
        )

    def _file(self, rows: list[tuple[int, Path, str]]) -> _Written:
        """All JSON files first, then all syncs: the first sync writes most of what the others wait for."""
        drafts: list[Drafted] = []
        for seq, path, record in rows:
            with self._told("written"):
                drafts.append(self._filing.draft(seq, path, record))
        synced: list[Drafted] = []
        for drafted in drafts:
            with self._told("synced"):
                if drafted.draft is not None:
                    drafted.draft.sync()
                synced.append(drafted)
        filed: list[tuple[int, Filed]] = []
        for drafted in synced:
            with self._told("written"):
                filed.append((drafted.seq, self._filing.file(drafted)))
        try:
            sync(one for _, one in filed)
        except OSError as error:
            self._health.report("json", f"JSON beside the X-rays cannot be synced: {error.strerror}")
            return _Written()
        return _Written(
            [seq for seq, _ in filed],
            [seq for seq, one in filed if one.moved],
            {seq: one.place for seq, one in filed if one.place is not None},
        )

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """What goes wrong with one file is reported, and the next one has its turn; this one stays unwritten."""
        try:
            yield
        except ResourceError as error:
            self._health.report("spool", f"{error.what}: {error.came}")
        except OSError as error:
            self._health.report("json", f"JSON beside the X-rays cannot be {what}: {error.strerror}")

    def _write_missing(self) -> None:
        """File what a crash or a full disk left out. The first failure ends it: the rest would fail like it."""
        after, failed = 0, False
        while not failed and (rows := self._journal.unwritten(after=after)):
            after = rows[-1][0]
            # The agent cannot reach what it found in a folder that it watched before; that waits until it does again.
            rows = [row for row in rows if self._filing.is_ours(row[1])]
            # An X-ray that was moved away since has no place for its JSON any more.
            gone = [seq for seq, path, _ in rows if self._filing.is_gone(path)]
            here = [row for row in rows if row[0] not in gone]
            written = self._file(here)
            failed = len(written.seqs) < len(here)
            self._journal.settle(
                [], written=[*written.seqs, *gone], moved=[*written.moved, *gone], places=written.places
            )
            if self.stopping.is_set():
                return
        if not failed:
            self._health.report("json", None)


@dataclass(frozen=True, slots=True)
class _Written:
    """The rows whose files are filed, those of them that were moved, and where to."""

    seqs: list[int] = field(default_factory=list)
    moved: list[int] = field(default_factory=list)
    places: dict[int, Path] = field(default_factory=dict)
