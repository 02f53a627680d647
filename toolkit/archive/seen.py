"""Which paths are done or under way: a set that holds tens of millions and still fits into little memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from firmware_bridge.errors import ResourceError
from toolkit.archive.names import key_of

_CACHE_KIB = 65_536


class Seen:
    """A set of paths. It lives in a temporary file that nobody else sees and that vanishes with the process.

    What is done stands in the results alone; this set is filled from them at each start, so the two cannot disagree.

    Raises:
        ResourceError: from any call: the disk of temporary files is full.
    """

    def __init__(self) -> None:
        # SQLite's name for a database of its own on the temporary disk (sqlite.org/inmemorydb.html, "Temporary").
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("CREATE TABLE seen (key BLOB PRIMARY KEY) WITHOUT ROWID")
        self._database.execute("BEGIN")  # one transaction for ever: nothing here is to be durable
        self.count = 0

    def add(self, path: str) -> bool:
        """Add a path; whether it is new."""
        try:
            new = self._database.execute("INSERT OR IGNORE INTO seen VALUES (?)", (key_of(path),)).rowcount == 1
        except sqlite3.Error as error:
            raise _no_room(error) from error
        self.count += new
        return new

    def update(self, paths: Iterable[str]) -> int:
        """Add many; how many of them are new."""
        return sum(self.add(path) for path in paths)

    def close(self) -> None:
        """Give the space back."""
        self._database.close()


def _no_room(error: sqlite3.Error) -> ResourceError:
    return ResourceError(
        "the list of what is done does not fit",
        expected="about 50 bytes of temporary disk for each X-ray",
        came=str(error),
        do="free some space, or set SQLITE_TMPDIR to a folder that has it, then give the same command again",
    )
