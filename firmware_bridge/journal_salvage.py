"""A damaged journal is moved aside, and what can still be read of it goes into a new one."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from firmware_bridge.files import sync_folder

_LOG = logging.getLogger(__name__)
SUSPECT = "journal.suspect"
# Numbers of results must never come twice: the audit log and others go by them.
_GAP = 1_000_000


def is_damage(error: BaseException) -> bool:
    """Whether an error of SQLite says that the file is damaged, rather than that the disk is full or broken."""
    text = str(error)
    return isinstance(error, sqlite3.DatabaseError) and ("malformed" in text or "not a database" in text)


def move_aside(path: Path) -> Path:
    """Rename the journal's files, so that a new one can be made; where the old one is now.

    Raises:
        OSError: the folder cannot be written.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    aside = path.with_name(f"damaged-{stamp}-{time.monotonic_ns()}.sqlite")
    for suffix in ("-wal", "", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    (path.parent / SUSPECT).unlink(missing_ok=True)
    sync_folder(path.parent)
    return aside


def salvage(aside: Path, into: sqlite3.Connection) -> int:
    """Copy every row that can be read into a new, empty journal; how many results.

    Raises:
        sqlite3.Error: the new one cannot be written.
    """
    counts = {}
    into.execute("BEGIN IMMEDIATE")
    for table in ("result", "intake", "reply"):
        columns = [row[1] for row in into.execute(f"PRAGMA table_info({table})")]
        marks = ", ".join("?" * len(columns))
        insert = f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 - names are ours
        before = into.total_changes
        for row in _rows(aside, table, columns):
            with contextlib.suppress(sqlite3.IntegrityError):  # a damaged row, that no longer is what it was
                into.execute(insert, row)
        counts[table] = into.total_changes - before
        last = into.execute(f"SELECT coalesce(max(seq), 0) FROM {table}").fetchone()[0]  # noqa: S608
        into.execute("DELETE FROM sqlite_sequence WHERE name=?", (table,))
        into.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, last + _GAP))
    # A row whose result was lost is open again: its file is scored once more, under the same id.
    into.execute(
        "UPDATE intake SET state='taken', result_id=NULL"
        " WHERE state='scored' AND result_id NOT IN (SELECT id FROM result)"
    )
    into.execute("COMMIT")
    _LOG.error(
        "the journal was damaged; it is kept as %s, and %d results and %d intakes of it go on",
        aside.name, counts["result"], counts["intake"],
    )  # fmt: skip
    return counts["result"]


def _rows(aside: Path, table: str, columns: list[str]) -> Iterator[tuple[Any, ...]]:
    """Rows from the front until the damage, then from the back until the damage."""
    for order in ("", " DESC"):
        try:
            database = sqlite3.connect(aside)
        except sqlite3.Error:
            return
        try:
            here = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
            wanted = ", ".join(name if name in here else "0" for name in columns)
            yield from database.execute(f"SELECT {wanted} FROM {table} ORDER BY seq{order}")  # noqa: S608
        except sqlite3.Error:
            continue  # as far as it goes
        else:
            return
        finally:
            database.close()
