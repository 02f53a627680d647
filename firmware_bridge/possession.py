"""Which files are ours to work on: claimed, put off, let go, or lost to another agent."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from firmware_bridge.claims import Claims, InUse, Lost
from firmware_bridge.filing import Filing
from firmware_bridge.intake import Intake
from firmware_bridge.journal import Journal, Taken
from firmware_bridge.reading import Contents
from firmware_bridge.recorder import Recorder

_LOG = logging.getLogger(__name__)


class Possession:
    """Claims, intake and journal kept in step, for the threads that work on files.

    Args:
        journal: open.
        intake: where files come from.
        recorder: waits out a full disk.
        claims: keep other agents off what this one works on.
        filing: knows what another agent has scored.
        on_known: called for each file that another agent has scored.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        intake: Intake,
        recorder: Recorder,
        claims: Claims,
        filing: Filing,
        on_known: Callable[[], None],
    ) -> None:
        self._journal = journal
        self._intake = intake
        self._recorder = recorder
        self.claims = claims
        self.filing = filing
        self._on_known = on_known

    def have(self, row: Taken, contents: Contents, *, result_id: str) -> bool:
        """Claim the file, unless that was done before; False when it is not ours to score."""
        if not self.claims.holds(row.path):
            try:
                if not contents.is_at(self.claims.claim(row.path)):
                    raise InUse  # it changed since it was read
            except Lost:
                self.lost(row.path)
                return False
            except InUse:
                self.put_off(row.path, decoded=True)
                return False
        # Only whoever has the file may look: before, another agent might have been about to finish it.
        if not self.filing.known_elsewhere(row.path, result_id):
            return True
        self.known(row)
        return False

    def known(self, row: Taken) -> None:
        """Another agent has scored the file."""
        self._on_known()
        self._recorder.insist(lambda: self._journal.close_row(row.seq))
        self.let_go(row.path)

    def lost(self, path: Path) -> None:
        """Another agent has the file, or it went away before it ever was a whole image."""
        self._recorder.insist(lambda: self._journal.supersede(path))
        self._intake.done(path)

    def put_off(self, path: Path, *, decoded: bool) -> None:
        """The file is not finished: see `Intake.later`."""
        self.release(path)
        self._intake.later(path, decoded=decoded)

    def let_go(self, path: Path) -> None:
        """Nothing is left to do about the file."""
        self.release(path)
        self._intake.done(path)

    def release(self, path: Path) -> None:
        """Put the file back where it was, now or later."""
        try:
            self.claims.release(path)
        except OSError as error:
            _LOG.warning("a claimed file cannot be put back now: %s", error.strerror)
