"""How far Orthanc's changes were read, and what became of each instance in them. `STATE/orthanc/feed.sqlite`.

An instance goes `seen` → `fetched` → `stored`; or ends `refused` (no score), `gone` (deleted in Orthanc) or `failed`.
Cursor and instances are one commit: after a crash no change is missed, and none is read as new a second time.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from firmware_bridge.database import open_database, transaction, translated

_LOG = logging.getLogger(__name__)
FOLDER = "orthanc"
SEEN, FETCHED, STORED, REFUSED, GONE, FAILED = "seen", "fetched", "stored", "refused", "gone", "failed"
_MOST_TRIES, _MOST_PASSING_TRIES = 5, 50
_KEPT_S = 90 * 86400.0
_TABLES = """
CREATE TABLE IF NOT EXISTS cursor (
  only INTEGER PRIMARY KEY CHECK (only = 1),
  seq INTEGER NOT NULL,
  mark TEXT NOT NULL           -- of the change with that number: another one there means another database
);
CREATE TABLE IF NOT EXISTS instance (
  id TEXT PRIMARY KEY,         -- Orthanc's
  mark TEXT NOT NULL,          -- of the change that announced it
  state TEXT NOT NULL,
  tries INTEGER NOT NULL DEFAULT 0,
  why TEXT,                    -- how it ended, where not well
  path BLOB,                   -- where our copy was put; NULL: none, or removed
  sha256 TEXT,
  changed_s REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS instance_state ON instance (state, tries, changed_s);
CREATE INDEX IF NOT EXISTS instance_changed ON instance (changed_s);
"""


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last change that was read, and its mark ("": not known)."""

    seq: int
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance that is worked on."""

    id: str
    state: str
    tries: int
    path: Path | None
    sha256: str
    changed_s: float


class Feed:
    """See the module. Not thread-safe.

    Args:
        state: the state folder.

    Raises:
        ResourceError: (every method) the disk is full or broken.
    """

    def __init__(self, state: Path) -> None:
        self.folder = state / FOLDER
        self._counted: tuple[int, dict[str, int]] = (-1, {})  # at so many changes of the database
        with self._translated():
            self._db = open_database(self.folder / "feed.sqlite", _TABLES)

    def _translated(self) -> AbstractContextManager[None]:
        return translated(f"what is known of Orthanc, in {self.folder},", safe="Orthanc keeps its X-rays meanwhile")

    @property
    def cursor(self) -> Cursor | None:
        """None before the first look."""
        with self._translated():
            row = self._db.execute("SELECT seq, mark FROM cursor").fetchone()
        return Cursor(*row) if row else None

    def read(self, cursor: Cursor, announced: Sequence[tuple[str, str]]) -> None:
        """Changes were read.

        Args:
            cursor: the last of them.
            announced: (id, mark) of new instances. One that was announced by the very same change is as it was.
        """
        now_s = time.time()
        upsert = """INSERT INTO instance (id, mark, state, changed_s) VALUES (?, ?, 'seen', ?)
                    ON CONFLICT (id) DO UPDATE SET mark=excluded.mark, state='seen', tries=0, why=NULL,
                      changed_s=excluded.changed_s WHERE mark!=excluded.mark"""
        with self._translated(), transaction(self._db):
            self._db.executemany(upsert, [(id, mark, now_s) for id, mark in announced])
            values = (cursor.seq, cursor.mark)
            self._db.execute("INSERT OR REPLACE INTO cursor (only, seq, mark) VALUES (1, ?, ?)", values)

    def due(self, state: str, *, limit: int) -> list[Instance]:
        """Instances in that state: what failed less often first, then the oldest."""
        query = """SELECT id, state, tries, path, sha256, changed_s FROM instance WHERE state=?
                   ORDER BY tries, changed_s LIMIT ?"""
        return self._instances(query, (state, limit))

    def with_copy(self, *, before_s: float, limit: int) -> list[Instance]:
        """Instances that came to an end before, and have a copy here still."""
        query = """SELECT id, state, tries, path, sha256, changed_s FROM instance
                   WHERE state IN ('stored', 'refused', 'gone') AND path IS NOT NULL AND changed_s<? LIMIT ?"""
        return self._instances(query, (before_s, limit))

    def _instances(self, query: str, values: tuple[object, ...]) -> list[Instance]:
        with self._translated():
            rows = self._db.execute(query, values).fetchall()
        return [
            Instance(id, state, tries, None if path is None else Path(os.fsdecode(path)), sha256 or "", changed_s)
            for id, state, tries, path, sha256, changed_s in rows
        ]

    def fetched(self, id: str, path: Path, sha256: str) -> None:
        """Our copy is durable."""
        update = "UPDATE instance SET state='fetched', tries=0, path=?, sha256=?, changed_s=? WHERE id=?"
        self._write(update, (os.fsencode(path), sha256, time.time(), id))

    def move(self, id: str, state: str, *, why: str | None = None) -> None:
        """The instance came into another state."""
        update = "UPDATE instance SET state=?, tries=0, why=?, changed_s=? WHERE id=?"
        self._write(update, (state, why, time.time(), id))

    def failed(self, instance: Instance, why: str, *, passing: bool) -> None:
        """Something about it did not work: it is tried again behind others, so often, and then given up.

        Args:
            instance: as it was handed out.
            why: for people.
            passing: the fault is Orthanc's own, and likely to go.
        """
        most = _MOST_PASSING_TRIES if passing else _MOST_TRIES
        if instance.tries + 1 < most:
            self._write("UPDATE instance SET tries=tries+1, why=? WHERE id=?", (why, instance.id))
            return
        self.move(instance.id, FAILED, why=why)
        _LOG.error("Orthanc: instance %s was given up after %d tries: %s", instance.id[:8], most, why)

    def forget(self, id: str) -> None:
        """It is none of ours."""
        self._write("DELETE FROM instance WHERE id=?", (id,))

    def removed(self, id: str) -> None:
        """Our copy is gone."""
        self._write("UPDATE instance SET path=NULL WHERE id=?", (id,))

    def offer_again(self) -> int:
        """What failed is tried once more: whoever started us anew may have mended why. How many these are."""
        update = """UPDATE instance SET state=CASE WHEN path IS NULL THEN 'seen' ELSE 'fetched' END, tries=0,
                    changed_s=? WHERE state='failed'"""
        return self._write(update, (time.time(),))

    def forget_old(self) -> None:
        """Rows of what ended long ago, and has no copy here, go."""
        delete = "DELETE FROM instance WHERE state NOT IN ('seen', 'fetched') AND path IS NULL AND changed_s<?"
        self._write(delete, (time.time() - _KEPT_S,))

    def counts(self) -> dict[str, int]:
        """How many are in each state."""
        with self._translated():
            # Asked for at every look at Orthanc, and months of rows each time are much for a small device.
            if self._counted[0] != self._db.total_changes:
                found = dict(self._db.execute("SELECT state, count(*) FROM instance GROUP BY state").fetchall())
                states = {state: int(found.get(state, 0)) for state in (SEEN, FETCHED, STORED, REFUSED, GONE, FAILED)}
                self._counted = (self._db.total_changes, states)
        return dict(self._counted[1])

    def _write(self, statement: str, values: tuple[object, ...]) -> int:
        with self._translated():
            return self._db.execute(statement, values).rowcount

    def close(self) -> None:
        """Close the file."""
        self._db.close()
