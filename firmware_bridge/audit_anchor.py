"""The head of the audit log, noted in the journal's file: what lies behind it was synced, and must be there."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from firmware_bridge.errors import ResourceError
from firmware_bridge.journal_salvage import checked, damaged, is_damage

_TABLE = """
CREATE TABLE IF NOT EXISTS audit_head (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  n INTEGER NOT NULL, hash TEXT NOT NULL, seq INTEGER NOT NULL, file TEXT NOT NULL, end_bytes INTEGER NOT NULL
)"""
QUERY = "SELECT n, hash, seq, file, end_bytes FROM audit_head"


@dataclass(frozen=True, slots=True)
class Anchor:
    """Where the log ends.

    Attributes:
        n: number of the last line.
        hash: of the last line.
        seq: the journal's number of the last result that is in the log.
        file: name of the file with the last line.
        end_bytes: where in it the last line ends.
    """

    n: int
    hash: str
    seq: int
    file: str
    end_bytes: int


class AnchorStore:
    """A connection of its own to the journal: reads results, notes the head.

    The head is committed without a sync of its own (SQLite, "PRAGMA synchronous", NORMAL in WAL mode): it reaches the
    disk with the next commit of the journal. An older head is no harm, a newer one would be: the log is synced first.

    Raises:
        ResourceError: (every method) the disk is full, broken, or the file is damaged.
    """

    def __init__(self, journal: Path) -> None:
        self._path = journal
        self._opened: sqlite3.Connection | None = None

    @property
    def _db(self) -> sqlite3.Connection:
        if self._opened is None:
            opened = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=5.0)
            try:
                opened.execute(_TABLE)
            except BaseException:
                opened.close()
                raise
            self._opened = opened
        return self._opened

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if is_damage(error):
                raise damaged(self._path, error) from error
            raise ResourceError(
                f"the journal {self._path} cannot be read or written for the audit log",
                expected="a state folder that this user can write, with some space, on a local disk",
                came=str(error),
                do="free some space or mend the disk; what was journaled before is safe",
            ) from error

    def read(self) -> Anchor | None:
        """The noted head, or None where none was ever noted."""
        with self._translated():
            row = self._db.execute(QUERY).fetchone()
        return Anchor(*row) if row else None

    def anchor(self, head: Anchor, *, durable: bool = False) -> None:
        """Note the head; `durable`: synced when it returns."""
        values = (head.n, head.hash, head.seq, head.file, head.end_bytes)
        with self._translated():
            self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._db.execute("INSERT OR REPLACE INTO audit_head VALUES (1, ?, ?, ?, ?, ?)", values)

    def last_seq(self) -> int:
        """The greatest number that the journal ever gave to a result."""
        with self._translated():
            row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name='result'").fetchone()
        return int(row[0]) if row else 0

    def results_after(self, seq: int, *, limit: int) -> list[tuple[int, str, bool]]:
        """(seq, record, whether it is of a deployment's golden X-ray) of later results, oldest first."""
        with self._translated():
            # As `Stored.is_selftest`.
            query = "SELECT seq, record, sent_s IS made_s FROM result WHERE seq>? ORDER BY seq LIMIT ?"
            rows = self._db.execute(query, (seq, limit)).fetchall()
            return [(seq, checked(record), bool(golden)) for seq, record, golden in rows]

    def following(self, seq: int) -> tuple[int, str] | None:
        """The first result behind that one."""
        rows = self.results_after(seq, limit=1)
        return rows[0][:2] if rows else None

    def damaged(self, error: Exception) -> ResourceError:
        """The error for a row that is not what was written."""
        return damaged(self._path, error)

    def close(self) -> None:
        """Close the connection."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None
