"""Reports on their way: made once, kept on the disk until they are where they belong. `STATE/reports/`, `STATE/fhir/`.

A row goes `made` → `sent` or `failed`; its objects are files until then. How far the results were looked through is in
the same database and the same commit, so that after a crash none is missed and none is made twice.
"""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from firmware_bridge.database import open_database, transaction, translated
from firmware_bridge.files import sync_folder, write_atomically

FOLDER = "reports"
_KEPT_S = 90 * 86400.0  # rows of what was sent: for people who look
BEHIND_AFTER = 5  # tries
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
CREATE INDEX IF NOT EXISTS object_sent ON object (sent_s) WHERE sent_s IS NOT NULL;
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
        folder: its name in the state folder.
        suffix: of the files in it.

    Raises:
        ResourceError: (every method) the disk is full or broken.
    """

    def __init__(self, state: Path, *, first_seq: int, folder: str = FOLDER, suffix: str = ".dcm") -> None:
        self.folder = state / folder
        self._suffix = suffix
        self._mutex = threading.Lock()
        self._counted: tuple[int, dict[str, int]] = (-1, {})  # at so many changes of the database
        with self._translated():
            self._db = open_database(self.folder / "outbox.sqlite", _TABLES)
            self._db.execute("INSERT OR IGNORE INTO progress VALUES (1, ?)", (first_seq,))

    def _translated(self) -> AbstractContextManager[None]:
        return translated(f"the reports in {self.folder}", safe="what was made before is safe")

    @property
    def progress(self) -> int:
        """The last result that was looked at."""
        with self._mutex, self._translated():
            return int(self._db.execute("SELECT result_seq FROM progress").fetchone()[0])

    def add(self, result_seq: int, objects: dict[str, bytes]) -> None:
        """Make the objects of a result durable (none, where it has none), and go on to the next.

        Args:
            result_seq: of the result.
            objects: SOP Instance UID, or another name that is the same every time -> file content.
        """
        with self._mutex, self._translated():
            for uid, content in objects.items():
                write_atomically(self.folder / f"{uid}{self._suffix}", content, mode=0o600)
            if objects:
                sync_folder(self.folder)
            with transaction(self._db):
                self._db.executemany(
                    "INSERT INTO object (uid, file, made_s) VALUES (?, ?, ?) ON CONFLICT (uid) DO NOTHING",
                    [(uid, f"{uid}{self._suffix}", time.time()) for uid in objects],
                )
                self._db.execute("UPDATE progress SET result_seq=?", (result_seq,))

    def waiting(self, *, limit: int = 20) -> list[Waiting]:
        """What is to be sent, oldest first; but what failed again and again lets others go before it."""
        query = f"""SELECT seq, uid, file, tries FROM object WHERE sent_s IS NULL AND failure IS NULL
                    ORDER BY tries / {BEHIND_AFTER}, seq LIMIT ?"""  # noqa: S608 - a number of ours
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

    def offer_again(self) -> int:
        """What was given up is tried once more: whoever started us anew may have mended why. How many these are."""
        with self._mutex, self._translated():
            update = "UPDATE object SET tries=0, failure=NULL WHERE sent_s IS NULL AND failure IS NOT NULL"
            return self._db.execute(update).rowcount

    def counts(self) -> dict[str, int]:
        """How many wait, were given up, and were sent in the last 90 days; and the last result that was looked at."""
        query = """SELECT coalesce(sum(sent_s IS NULL AND failure IS NULL), 0),
                   coalesce(sum(sent_s IS NULL AND failure IS NOT NULL), 0),
                   coalesce(sum(sent_s IS NOT NULL), 0), (SELECT result_seq FROM progress) FROM object"""
        with self._mutex, self._translated():
            # Asked for every second, and a look at months of rows each time is much for a small device.
            if self._counted[0] != self._db.total_changes:
                waiting, parked, sent, made_to = self._db.execute(query).fetchone()
                found = {"waiting": waiting, "parked": parked, "sent": sent, "made_to": made_to}
                self._counted = (self._db.total_changes, found)
            return dict(self._counted[1])

    def close(self) -> None:
        """Close the file."""
        with self._mutex:
            self._db.close()
