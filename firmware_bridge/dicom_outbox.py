"""Reports on their way: made once, kept on the disk until they are where they belong. `STATE/reports/`.

A row goes `made` → `sent` or `failed`; its objects are files until then. How far the results were looked through is in
the same database and the same commit, so that after a crash none is missed and none is made twice.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from firmware_bridge.errors import ResourceError
from firmware_bridge.files import sync_folder, write_atomically

FOLDER = "reports"
_KEPT_S = 90 * 86400.0  # rows of what was sent: for people who look
_TABLES = """
CREATE TABLE IF NOT EXISTS progress (only INTEGER PRIMARY KEY CHECK (only = 1), result_seq INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS object (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  uid TEXT NOT NULL UNIQUE,
  file TEXT NOT NULL,          -- below the folder
  made_s REAL NOT NULL,
  tries INTEGER NOT NULL DEFAULT 0,
  sent_s REAL,                 -- NULL until the receiver answered Success
  failure TEXT                 -- why it was given up
);
CREATE INDEX IF NOT EXISTS object_unsent ON object (seq) WHERE sent_s IS NULL AND failure IS NULL;
"""


@dataclass(frozen=True, slots=True)
class Waiting:
    """An object that is not sent yet."""

    seq: int
    uid: str
    path: Path
    tries: int


class ReportOutbox:
    """See the module. Thread-safe.

    Args:
        state: the state folder.
        first_seq: results up to this one are none of ours, if the outbox is new.

    Raises:
        ResourceError: (every method) the disk is full or broken.
    """

    def __init__(self, state: Path, *, first_seq: int) -> None:
        self.folder = state / FOLDER
        self._mutex = threading.Lock()
        with self._translated():
            self.folder.mkdir(mode=0o700, exist_ok=True)
            self._db = sqlite3.connect(
                self.folder / "outbox.sqlite", isolation_level=None, check_same_thread=False, timeout=5.0
            )
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_TABLES)
            self._db.execute("INSERT OR IGNORE INTO progress VALUES (1, ?)", (first_seq,))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise ResourceError(
                f"the reports in {self.folder} cannot be read or written",
                expected="a state folder that this user can write, with some space, on a local disk",
                came=getattr(error, "strerror", None) or str(error),
                do="free some space or mend the disk; what was made before is safe",
            ) from error

    @property
    def progress(self) -> int:
        """The last result that was looked at."""
        with self._mutex, self._translated():
            return int(self._db.execute("SELECT result_seq FROM progress").fetchone()[0])

    def add(self, result_seq: int, objects: dict[str, bytes]) -> None:
        """Make the objects of a result durable (none, where it has none), and go on to the next.

        Args:
            result_seq: of the result.
            objects: SOP Instance UID -> file content.
        """
        with self._mutex, self._translated():
            for uid, content in objects.items():
                write_atomically(self.folder / f"{uid}.dcm", content, mode=0o600)
            if objects:
                sync_folder(self.folder)
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany(
                    "INSERT INTO object (uid, file, made_s) VALUES (?, ?, ?) ON CONFLICT (uid) DO NOTHING",
                    [(uid, f"{uid}.dcm", time.time()) for uid in objects],
                )
                self._db.execute("UPDATE progress SET result_seq=?", (result_seq,))
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def waiting(self, *, limit: int = 20) -> list[Waiting]:
        """What is to be sent, oldest first."""
        query = "SELECT seq, uid, file, tries FROM object WHERE sent_s IS NULL AND failure IS NULL ORDER BY seq LIMIT ?"
        with self._mutex, self._translated():
            rows = self._db.execute(query, (limit,)).fetchall()
        return [Waiting(seq, uid, self.folder / file, tries) for seq, uid, file, tries in rows]

    def sent(self, one: Waiting) -> None:
        """The receiver has it: the file goes."""
        with self._mutex, self._translated():
            now_s = time.time()
            self._db.execute("UPDATE object SET sent_s=? WHERE seq=?", (now_s, one.seq))
            self._db.execute("DELETE FROM object WHERE sent_s<?", (now_s - _KEPT_S,))
            one.path.unlink(missing_ok=True)

    def refused(self, one: Waiting, reason: str, *, most_tries: int) -> bool:
        """The receiver does not want it; after so many tries it is given up (True), and its file stays for a person."""
        with self._mutex, self._translated():
            failure = reason if one.tries + 1 >= most_tries else None
            self._db.execute("UPDATE object SET tries=tries+1, failure=? WHERE seq=?", (failure, one.seq))
        return failure is not None

    def close(self) -> None:
        """Close the file."""
        with self._mutex:
            self._db.close()
