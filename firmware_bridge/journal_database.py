"""The journal's file: locked for one process, opened and brought up to date, its damage mended, its errors translated.

SQLite, "Write-Ahead Logging", section 2: with synchronous=FULL every commit is synced before it returns.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from firmware_bridge.database import transaction
from firmware_bridge.errors import ConfigError, ResourceError
from firmware_bridge.journal_rows import SCHEMA, STEPS, TABLES
from firmware_bridge.journal_salvage import SUSPECT, damaged, is_damage, move_aside, salvage

_CACHE_KB = 512


class Database:
    """The database in a state folder. Thread-safe. One process at a time: a lock on the folder sees to it.

    Raises:
        ConfigError: another agent uses the folder, or a newer cxr-edge wrote it.
        ResourceError: (every method) the disk is full, broken, or the file is damaged.
    """

    def __init__(self, state: Path) -> None:
        self.path = state / "journal.sqlite"
        self._mutex = threading.RLock()
        self._reading = threading.Lock()
        with self._translated():
            state.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock_file = (state / "agent.lock").open("w")
            # The folder itself too: a file of that name is what people remove who are told that the folder is in use.
            self._locked = os.open(state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._unlock_folder = weakref.finalize(self, os.close, self._locked)
        try:
            self._lock()
            with self._translated():
                self._open()
        except BaseException:
            self._unlock()
            raise

    def _unlock(self) -> None:
        self._lock_file.close()
        self._unlock_folder()

    def _lock(self) -> None:
        try:
            for handle in (self._lock_file.fileno(), self._locked):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"the state folder {self.path.parent} is in use",
                expected="one agent for each state folder",
                came="another agent runs with it",
                do="stop the other agent, or give this one a folder of its own with --state",
            ) from error

    def _open(self) -> None:
        try:
            if (self.path.parent / SUSPECT).exists():
                raise sqlite3.DatabaseError("malformed, as an earlier run found")
            self._connect()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            aside = move_aside(self.path)
            self._connect()
            salvage(aside, self._db)

    def _connect(self) -> None:
        # It holds the names of files. SQLite gives the WAL the same mode (sqlite.org, "Write-Ahead Logging", 2.2).
        if not self.path.exists():  # never one that is open: closing it would end SQLite's own locks, see fcntl(2)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640))
        # Autocommit: transactions are opened by hand, where they begin and end.
        self._db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=5.0)
        try:
            self._set_up()
            # Reads have a connection of their own: nobody who asks waits for another's commit to reach the disk.
            self._reader = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=5.0)
            for connection in (self._db, self._reader):
                # SQLite fills its 2 MB over tens of thousands of X-rays, which looks like a leak and speeds up nothing.
                connection.execute(f"PRAGMA cache_size=-{_CACHE_KB}")
        except BaseException:
            self._db.close()
            raise

    def _set_up(self) -> None:
        # Of effect in a new file alone: rows that leave then give their room back, see `shrink`.
        self._db.execute("PRAGMA auto_vacuum=INCREMENTAL")
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA:
            raise ConfigError(
                f"the journal {self.path} is newer than this cxr-edge",
                expected=f"journal schema {SCHEMA} at most",
                came=f"schema {version}",
                do="update cxr-edge, or give another folder with --state",
            )
        if version < SCHEMA:
            steps = [*([] if version else [TABLES]), *(STEPS[step] for step in range(version or 2, SCHEMA))]
            self._db.executescript(f"BEGIN; {' '.join(steps)} PRAGMA user_version={SCHEMA}; COMMIT;")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            if is_damage(error):
                raise damaged(self.path, error) from error
            raise ResourceError(
                f"the journal {self.path} cannot be read or written",
                expected="a state folder that this user can write, with some space, on a local disk",
                came=str(error),
                do="free some space or mend the disk; what was journaled before is safe",
            ) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._mutex, self._translated(), transaction(self._db):
            yield self._db

    def _rows(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self._reading, self._translated():
            return self._reader.execute(query, values).fetchall()

    def _pragma(self, statement: str) -> list[tuple[Any, ...]]:
        with self._mutex, self._translated():
            return self._db.execute(f"PRAGMA {statement}").fetchall()

    @property
    def used_bytes(self) -> int:
        """What the rows take; the file may be larger until `shrink`."""
        used = self._pragma("page_count")[0][0] - self._pragma("freelist_count")[0][0]
        return int(used * self._pragma("page_size")[0][0])

    def close(self) -> None:
        """Close the file and give the folder free."""
        with self._mutex, self._reading:
            self._reader.close()
            self._db.close()
            self._unlock()
