"""What the DICOM receiver has written and the agent has not looked at yet: so much of it may wait, and no more."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from firmware_bridge.journal import Journal

_MOST = 1000
_LOOK_EVERY_S = 1.0


class Waiting:
    """Counts the receiver's own files alone: a backlog of the watched folder is no reason to send a modality away.

    Thread-safe. What an earlier run had received does not count.

    Args:
        journal: open.
        most: so many may wait.
    """

    def __init__(self, journal: Journal, *, most: int = _MOST) -> None:
        self._journal = journal
        self._most = most
        self._paths: set[Path] = set()
        self._looked_s = -_LOOK_EVERY_S
        self._mutex = threading.Lock()

    def add(self, path: Path) -> None:
        """One more."""
        with self._mutex:
            self._paths.add(path)

    def are_too_many(self) -> bool:
        """Whether nothing more should be taken for now.

        Raises:
            ResourceError: the journal cannot be read.
        """
        with self._mutex:
            # Only when it may matter, and not for each sender that is sent away: it is a look at every file.
            if len(self._paths) >= self._most and time.monotonic() - self._looked_s >= _LOOK_EVERY_S:
                self._paths = {path for path in self._paths if self._waits(path)}
                self._looked_s = time.monotonic()
            return len(self._paths) >= self._most

    def _waits(self, path: Path) -> bool:
        try:
            status = path.lstat()
        except OSError:
            return False  # claimed by the agent, or filed away
        return not self._journal.knows(path, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns)
